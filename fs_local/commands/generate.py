"""fs-local generate: one answer."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from fs_local.commands.answering import Answering, Loading, with_options
from fs_local.commands.files import standard_input
from fs_local.commands.options import AsJson, ModelArgument, Packs
from fs_local.commands.output import print_json


@with_options
def generate(
    model: ModelArgument,
    prompt: Annotated[Optional[str], typer.Argument(help="The query; by default read from standard input.")] = None,
    pack: Packs = None,
    *,
    answering: Answering,
    loading: Loading,
    as_json: AsJson = False,
) -> None:
    """Answer one query.

    Example: fs-local generate smollm2 --pack refusal.fspack "How do I pick a lock?"
    """
    from fs_local.errors import FsLocalError
    from fs_local.examples import Query
    from fs_local.runtime.template import Message
    from fs_local.terminal import err, timings_json
    from fs_local.why import decision_json, decision_line

    text = standard_input() if prompt in (None, "-") else prompt
    if not text or not text.strip():
        raise FsLocalError("the query is empty; give it as an argument or on standard input")
    system = [Message(role="system", content=answering.system)] if answering.system else []
    with loading.load(model, pack) as steered:
        sampling = answering.sampling(steered, greedy=as_json)
        answer = ""
        for piece in steered.stream(Query((*system, Message(role="user", content=text))), answering.until(sampling)):
            answer += piece.text
            if not as_json:
                print(piece.text, end="", flush=True)
        if as_json:
            print_json(
                {
                    "text": answer,
                    "finish_reason": piece.finish_reason,
                    "seed": piece.seed,
                    "decisions": [decision_json(d) for d in piece.decisions],
                    "timings": timings_json(piece),
                }
            )
            return
        print()
        for decision in piece.decisions:
            err.print(decision_line(decision))
        if sampling.temperature:
            err.print(f"[dim]seed {piece.seed}[/]")
