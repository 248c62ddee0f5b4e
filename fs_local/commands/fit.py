"""fs-local fit: from examples to a pack."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from fs_local.choices import FitGate, FitMethod, Scope
from fs_local.commands.answering import with_options
from fs_local.commands.files import check_outputs
from fs_local.commands.options import (
    AsJson,
    GateLayer,
    General,
    GeneralBudget,
    ModelArgument,
    NoBackground,
    OpenWraps,
    PackOutput,
    Seed,
)
from fs_local.commands.output import print_json
from fs_local.commands.placing import Placing
from fs_local.commands.sharing import Sharing
from fs_local.commands.values import number_or_auto, numbers_or_auto

if TYPE_CHECKING:
    from fs_local.fitting import Examples, FitOptions
    from fs_local.runtime.model import Model

_SHOWN_CHARACTERS = 100


@with_options
def fit(
    model: ModelArgument,
    pairs: Annotated[
        Optional[Path],
        typer.Option(
            help="JSONL or CSV of {query, preferred, undesired}, or TruthfulQA's task format. Without it, the IR queries are to be refused."
        ),
    ] = None,
    ir: Annotated[
        Optional[list[Path]],
        typer.Option(
            help="JSONL or CSV of IR queries {query}; by default the pairs' queries. May be given several times."
        ),
    ] = None,
    general: General = None,
    openings: Annotated[
        Optional[Path],
        typer.Option(
            help="JSON of {preferred, undesired} openings of answers, to build pairs for the IR queries with."
        ),
    ] = None,
    states: Annotated[
        Optional[Path],
        typer.Option(
            help="npz or safetensors of states captured elsewhere, by PyTorch for example, instead of capturing them here: pairs.N, preferred.N, "
            "undesired.N, ir.N, general.N (rows, width) after block N. With --pairs, settings are tried on these pairs; without, the model's "
            "weights are not needed. See: fs_local/fitting/README.md, Fitted elsewhere."
        ),
    ] = None,
    output: PackOutput = Path("pack.fspack"),
    report: Annotated[Optional[Path], typer.Option(help="Where an HTML page about the fit goes.")] = None,
    name: Annotated[Optional[str], typer.Option(help="Name of the pack; by default the file's.")] = None,
    method: Annotated[
        FitMethod,
        typer.Option(help="FineSteer, or one it is measured against."),
    ] = "finesteer",
    layer: Annotated[
        str, typer.Option(help="Steered block: a number, several with commas between them, or auto.")
    ] = "auto",
    gate: Annotated[
        Literal[FitGate, "auto"],
        typer.Option(help="quantile (one-class), logistic, soft, open (no gate), or auto."),
    ] = "auto",
    gate_layer: GateLayer = "auto",
    general_budget: GeneralBudget = 0.02,
    no_background: NoBackground = False,
    open_wraps: OpenWraps = False,
    strength: Annotated[str, typer.Option(help="λ: a number, or auto.")] = "auto",
    experts: Annotated[str, typer.Option(help="K of the mixture: a number, or auto.")] = "auto",
    residual: Annotated[
        str,
        typer.Option(
            help="Rank of the mixture's residual: a number (0: none), or auto, which also tries a ridge map and one vector in its place."
        ),
    ] = "auto",
    scope: Annotated[
        Scope,
        typer.Option(
            help="What an open gate steers: all (prompt and generation), turn (from the current user message on), prompt, or generation."
        ),
    ] = "all",
    lesson: Annotated[
        Optional[str], typer.Option(help="A lesson's name, in place of files; fs-local lesson list shows them.")
    ] = None,
    minutes: Annotated[
        Optional[float],
        typer.Option(
            min=0.1,
            help="Take about so long: fewer queries and pairs are read, and fewer settings tried, where all would take longer.",
        ),
    ] = None,
    seed: Seed = 0,
    *,
    placing: Placing,
    sharing: Sharing,
    as_json: AsJson = False,
) -> None:
    """Fit a steering pack from examples, with the model itself. A search that was stopped goes on where it was.

    Example: fs-local fit model.gguf --ir harmful.jsonl --general general.jsonl -o refusal.fspack

    Example for any behaviour: fs-local fit model.gguf --pairs pairs.jsonl --general general.jsonl -o truthful.fspack

    Example for corrections that were made in the page: fs-local fit model.gguf --lesson tone -o tone.fspack

    Example with states from PyTorch: fs-local fit model.gguf --states states.npz --layer 12 --strength 1.5 -o pack.fspack
    """
    from converters.vectors import model_identity
    from fs_local.errors import FitError
    from fs_local.fitting import FitOptions, fit_untried
    from fs_local.fitting import fit as fit_pack
    from fs_local.fitting.files import read_examples, read_given
    from fs_local.model_files import resolve_model
    from fs_local.pack_summary import pack_summary, summary_rows
    from fs_local.report import write_report
    from fs_local.runtime.model import Model
    from fs_local.store import Store
    from fs_local.terminal import err, facts, loading, out, stages

    k = number_or_auto("--experts", experts, int)
    options = FitOptions(
        name=name or lesson or output.stem,
        method=method,
        layers=numbers_or_auto("--layer", layer),
        gate_layer=number_or_auto("--gate-layer", gate_layer, int),
        gate=None if gate == "auto" else gate,
        budget=general_budget,
        background=not no_background,
        open_wraps=open_wraps,
        strength=number_or_auto("--strength", strength, float),
        n_experts=FitOptions.n_experts if k is None else (k, k),
        residual_rank=number_or_auto("--residual", residual, int),
        scope=scope,
        seed=seed,
    )
    if states is not None and minutes is not None:
        raise FitError("--minutes has nothing to shorten where --states are captured already; leave it out")
    path = resolve_model(model)
    check_outputs(output, report, inputs=[path, pairs, *(ir or []), *(general or []), openings, states])
    if lesson is not None:
        from fs_local.lessons import read_lesson_examples

        if pairs or ir or general or openings or states:
            raise typer.BadParameter("--lesson is in place of --pairs, --ir, --general, --openings and --states")
        given, examples = None, read_lesson_examples(lesson, seed)
    elif states is None:
        given, examples = None, read_examples(pairs, ir or [], general or [], openings, seed)
    else:
        given, examples = read_given(states, pairs, [*(ir or []), *(general or []), *([openings] if openings else [])])
    if given is not None and pairs is None:
        with stages(as_json) as told:
            fitted = fit_untried(model_identity(path), given, options, told)
    else:
        with loading() as progress:
            loaded = Model.load(path, placement=placing.placement, progress=progress)
        with loaded:
            store = Store.for_model(loaded.build)
            if given is None:
                options = _in_time(loaded, examples, options, store.captures, minutes, as_json)
            with stages(as_json) as told, sharing.between(loaded):
                fitted = fit_pack(loaded, examples, options, told, store, given)
    for note in fitted.notes:
        err.print(f"note: {note}", style="yellow", markup=False)
    fitted.pack.save(output)
    size = output.stat().st_size
    if report is not None:
        write_report(report, {**fitted.record, "summary": summary_rows(fitted.pack, size)})
    if as_json:
        print_json({"pack": str(output), "bytes": size, "notes": fitted.notes, **fitted.pack.manifest.model_dump()})
    else:
        out.print(pack_summary(fitted.pack, size))
        for answer in fitted.answers:
            title = "held-out query: " + " ".join(answer.query.split())[:_SHOWN_CHARACTERS]
            out.print(facts(title, [("  unsteered", answer.unsteered), ("  steered", answer.steered)]))


def _in_time(
    model: Model, examples: Examples, options: FitOptions, captures: Path | None, minutes: float | None, as_json: bool
) -> FitOptions:
    """Tells how long the fit will take, and has it draw less where it is to be shorter."""
    from dataclasses import replace

    from fs_local.fitting.expected_time import LEAST_SHARE, plan_fit, share_for
    from fs_local.fitting.options import check
    from fs_local.terminal import err

    check(model, options, pairs=len(examples.pairs), ir=len(examples.ir), general=examples.n_general)
    plan = plan_fit(model, examples, options, captures)
    if minutes is not None and plan.seconds > 60 * minutes:
        while plan.seconds > 60 * minutes and options.share > LEAST_SHARE:
            # what is drawn does not shrink as fast as the share, so one look is not enough
            share = min(options.share - 0.05, share_for(60 * minutes, plan, options.share))
            options = replace(options, share=max(LEAST_SHARE, round(share, 2)))
            plan = plan_fit(model, examples, options, captures)
        said = f"{options.share:.0%} of the usual queries, pairs and settings are taken, to keep to {_minutes(60 * minutes)}"
        if plan.seconds > 60 * minutes:
            said += "; it will take longer all the same, since less would make no gate"
        err.print(f"note: {said}", style="yellow", markup=False)
    if as_json:
        print(json.dumps({"expected_seconds": round(plan.seconds)}), file=sys.stderr, flush=True)
    else:
        parts = {"queries": plan.queries, "pairs": plan.pairs, "trials": plan.trials, "the gate": plan.gate}
        told = ", ".join(f"{what} {_minutes(seconds)}" for what, seconds in parts.items())
        err.print(f"This will take about {_minutes(plan.seconds)} here ({told}).", markup=False, highlight=False)
    return options


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1, round(seconds))} s"
