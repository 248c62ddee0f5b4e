"""fs-local evaluate: what packs change, and what they leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from fs_local.commands.answering import with_options
from fs_local.commands.files import check_outputs
from fs_local.commands.options import AsJson, ModelArgument, Packs
from fs_local.commands.output import print_json
from fs_local.commands.placing import Placing


@with_options
def evaluate(
    model: ModelArgument,
    suite: Annotated[
        Literal["opening", "truthfulqa", "refusal", "over-refusal", "exact-match", "drift", "compare"],
        typer.Option(
            help="opening, refusal, over-refusal, truthfulqa, exact-match, drift, or compare (all packs on all files, at several strengths)."
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            help="The suite's file, or several. For compare, each as SUITE=FILE; for opening, ir=FILE and general=FILE also give the AUROC."
        ),
    ],
    pack: Packs = None,
    limit: Annotated[Optional[int], typer.Option(min=1, help="Only the first rows of each file.")] = None,
    report: Annotated[Optional[Path], typer.Option(help="Where an HTML page about the results goes.")] = None,
    *,
    placing: Placing,
    as_json: AsJson = False,
) -> None:
    """Measure what packs change, and what they leave alone. An evaluation that was stopped goes on where it was.

    Example: fs-local evaluate model.gguf --pack refusal.fspack --suite refusal --data harmful.jsonl

    Example: fs-local evaluate model.gguf --pack a.fspack --pack b.fspack --suite compare --data refusal=harmful.jsonl --data drift=general.jsonl
    """
    from fs_local.evaluation.compare import evaluate_packs
    from fs_local.evaluation.files import read_files
    from fs_local.evaluation.tables import evaluation_tables
    from fs_local.model_files import resolve_model
    from fs_local.pack.file import Pack
    from fs_local.report import write_report
    from fs_local.runtime.model import Model
    from fs_local.store import Store
    from fs_local.terminal import err, loading, out, stages

    files = read_files(suite, data, limit)
    check_outputs(report, inputs=[Path(model), *(f.path for f in files), *(pack or [])])
    packs = [Pack.load(p) for p in pack or []]
    with loading() as progress:
        loaded = Model.load(resolve_model(model), placement=placing.placement, progress=progress)
    with loaded, stages() as told:
        store = Store.for_model(loaded.build)
        found = evaluate_packs(loaded, packs, files, compare=suite == "compare", store=store, progress=told)
    for note in found["notes"]:
        err.print(f"note: {note}", style="yellow", markup=False)
    if report is not None:
        write_report(report, evaluation=found)
    if as_json:
        print_json(found)
    else:
        for table in evaluation_tables(found):
            out.print(table)
