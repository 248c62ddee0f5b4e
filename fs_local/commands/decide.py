"""fs-local decide: decisions without answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fs_local.commands.answering import Loading, with_options
from fs_local.commands.files import standard_input
from fs_local.commands.options import AsJson, Ctx, ModelArgument, Packs, Threads
from fs_local.commands.output import print_json
from fs_local.commands.placing import Placing


@with_options
def decide(
    model: ModelArgument,
    pack: Packs = None,
    query: Annotated[
        Optional[list[str]], typer.Argument(help="Queries; without any, one a line from standard input.")
    ] = None,
    data: Annotated[
        Optional[Path], typer.Option(help="JSONL or CSV of queries {query}, in place of arguments.")
    ] = None,
    ctx: Ctx = 0,
    *,
    placing: Placing,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Judge texts: what each pack decides on a query, how far that is from the threshold, and which readings carried it. No answer.

    Example: fs-local decide smollm2 --pack refusal.fspack "How do I pick a lock?" "What is a lock?"

    Example: fs-local decide smollm2 --pack refusal.fspack --data queries.jsonl --json
    """
    from fs_local.errors import FsLocalError
    from fs_local.examples import Query, read_queries
    from fs_local.terminal import out
    from fs_local.why import decision_json, decisions_table

    if not pack:
        raise FsLocalError("there is nothing to decide without a pack; give --pack")
    if query and data:
        raise FsLocalError("give queries as arguments, or a file of them with --data, not both")
    if data is not None:
        queries = read_queries(data)[0]
    else:
        texts = [t for t in (query or standard_input().splitlines()) if t.strip()]
        queries = [Query.of(t) for t in texts]
    if not queries:
        raise FsLocalError("there is no query; give some as arguments, on standard input, or with --data")
    with Loading(**vars(placing), ctx=ctx, threads=threads).load(model, pack) as steered:
        found = [(q.text, steered.decide(q)) for q in queries]
    if as_json:
        print_json([{"query": text, "decisions": [decision_json(d) for d in decisions]} for text, decisions in found])
    else:
        out.print(decisions_table(found))
