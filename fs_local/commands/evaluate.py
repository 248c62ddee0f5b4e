"""fs-local evaluate: what packs change, and what they leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from fs_local.choices import SuiteName
from fs_local.commands.answering import with_options
from fs_local.commands.files import check_outputs
from fs_local.commands.options import AsJson, Packs
from fs_local.commands.output import print_json
from fs_local.commands.placing import Placing


@with_options
def evaluate(
    model: Annotated[
        Optional[str],
        typer.Argument(
            help="A GGUF file, an alias (smollm2), or a name that fs-local models lists; not with --protocol."
        ),
    ] = None,
    *,
    suite: Annotated[
        Literal[SuiteName, "compare"],
        typer.Option(help="What is measured; compare: all packs on all files, at several strengths."),
    ],
    data: Annotated[
        Optional[list[Path]],
        typer.Option(
            help="The suite's file, or several. For compare, each as SUITE=FILE; for opening, ir=FILE and general=FILE also give the AUROC."
        ),
    ] = None,
    pack: Packs = None,
    protocol: Annotated[
        Optional[Path],
        typer.Option(
            help="For compare: a TOML file of models, tasks and methods, each of which is fitted and measured."
        ),
    ] = None,
    limit: Annotated[Optional[int], typer.Option(min=1, help="Only the first rows of each file.")] = None,
    report: Annotated[Optional[Path], typer.Option(help="Where an HTML page about the results goes.")] = None,
    placing: Placing,
    as_json: AsJson = False,
) -> None:
    """Measure what packs change, and what they leave alone. An evaluation that was stopped goes on where it was.

    Example: fs-local evaluate model.gguf --pack refusal.fspack --suite refusal --data harmful.jsonl

    Example: fs-local evaluate model.gguf --pack a.fspack --pack b.fspack --suite compare --data refusal=harmful.jsonl --data drift=general.jsonl

    Example, all tables from one file: fs-local evaluate --suite compare --protocol protocol.toml --report tables.html
    """
    if protocol is not None:
        if suite != "compare" or model is not None or data or pack or limit is not None or placing != Placing():
            raise typer.BadParameter(
                "--protocol goes with --suite compare, --report and --json alone; the file says the rest"
            )
        _by_protocol(protocol, report, as_json)
        return
    if model is None or not data:
        raise typer.BadParameter("give a MODEL and --data, or --suite compare with --protocol")
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
        write_report(report, evaluations=[found])
    if as_json:
        print_json(found)
    else:
        for table in evaluation_tables(found):
            out.print(table)


def _by_protocol(protocol: Path, report: Path | None, as_json: bool) -> None:
    from rich.markup import escape
    from rich.rule import Rule

    from fs_local.evaluation.protocol import read_protocol
    from fs_local.evaluation.protocol_run import run_protocol
    from fs_local.evaluation.tables import evaluation_tables, fitted_table
    from fs_local.report import write_report
    from fs_local.terminal import err, out, stages

    what = read_protocol(protocol)
    check_outputs(report, inputs=[protocol, *(Path(m.file) for task in what.tasks.values() for m in task.measure)])
    found = []
    with stages() as told:
        for measured in run_protocol(
            what, protocol, told, lambda note: err.print(f"note: {note}", style="yellow", markup=False)
        ):
            found.append(measured)
            if report is not None:  # a run takes hours: its page has what is finished
                write_report(report, evaluations=found)
    if as_json:
        print_json({"evaluations": found})
        return
    for measured in found:
        out.print(Rule(escape(measured["title"])))
        for table in (fitted_table(measured), *evaluation_tables(measured)):
            out.print(table)
