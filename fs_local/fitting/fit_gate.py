"""A gate for steering that was made elsewhere: what steers every query, or behind another gate, becomes conditional by SCS."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fs_local.fitting.gate_queries import GateQueries, gate_queries
from fs_local.fitting.gate_search import ChosenGate, always, choose_gate, needs_no_states
from fs_local.fitting.options import Examples, FitOptions, check_queries
from fs_local.fitting.states import ONE_CLASS_DEPTH, ONE_CLASS_LEAST_DEPTH, gate_layers, query_states
from fs_local.pack.file import Pack
from fs_local.pack.manifest import DataDigest
from fs_local.progress import Progress, untold
from fs_local.runtime.model import Model
from fs_local.steering import check_model
from fs_local.store import Store
from fs_local.version import __version__

_OF_THE_GATE = " of the gate"
_SHOWN_CHARACTERS, _NAMED = 60, 5
_FEW = 100
"""General queries: fewer tell little of a gate that has thousands of weights."""
_MOST_SUSPECT = 0.5
"""Of the IR queries: where more look like general ones, it is the gate that can't tell them apart."""


def gated(
    model: Model,
    pack: Pack,
    examples: Examples,
    options: FitOptions,
    progress: Progress | None = None,
    store: Store | None = None,
) -> tuple[Pack, tuple[str, ...]]:
    """The pack's vectors behind a gate that is fitted here, in place of its own; and what a person should know of it.

    Args:
        pack: what steers; a control vector is one too (`converters.conversion.read_pack`).
        examples: IR queries, and general queries where there are any; pairs are not needed.
        options: of which name, gate, gate_layer, tail, budget, strength (None: the pack's own) and seed are used.
        store: where captures are kept, so that a stopped fit goes on where it was.

    Raises:
        DataError: too few queries, or one that is longer than the context.
        FitError: states that are not finite, or options out of range.
        PackError: the pack is for another model.
    """
    check_model(pack, model)
    check_queries(model, options, ir=len(examples.ir), general=examples.n_general)
    steered = pack.manifest.steer.layers[0]
    options = dataclasses.replace(options, method="finesteer", layers=(steered,))
    low, queries = round(model.n_layer * ONE_CLASS_LEAST_DEPTH), queries_for(examples, options)
    if options.gate_layer is None and not queries.general and steered < low:
        # one-class, and nothing to choose a layer by: states of the first blocks say little of a query
        options = dataclasses.replace(options, gate_layer=round(model.n_layer * ONE_CLASS_DEPTH))
    report = progress or untold
    when = fit_gate(model, queries, options, steered, report, store.captures if store is not None else None)
    found = _joined(pack, when, examples, options)
    notes = (*examples.notes, *queries.notes, *notes_on_gate(when, queries, options))
    return (found if options.strength is None else found.with_strength(options.strength)), notes


def queries_for(examples: Examples, options: FitOptions) -> GateQueries:
    """What a gate is fitted on, drawn from the examples and the background."""
    return gate_queries(
        examples.ir_queries,
        examples.general,
        with_background=options.background and options.gate not in ("quantile", "soft"),
        in_wraps=examples.refusing,
        share=options.share,
        seed=options.seed,
    )


def fit_gate(
    model: Model, queries: GateQueries, options: FitOptions, steered: int, report: Progress, captures: Path | None
) -> ChosenGate:
    """Captures the queries and fits the gate of a method before what steers from block `steered` on."""
    if needs_no_states(options):
        return always(model.width, steered)
    states = query_states(model, queries, options, steered, report, captures)
    layers = gate_layers(model.n_layer, options, steered, bool(queries.general))
    return choose_gate(states, layers, options, steered, report)


def notes_on_gate(when: ChosenGate, queries: GateQueries, options: FitOptions) -> list[str]:
    """Which kinds of general query the gate can't leave alone, with some of them, and what would help."""
    general = [q.text for part in queries.general for q in part.queries]
    notes = []
    for kind in when.kinds:
        if not kind.held:
            rows = "; ".join(_shown(general[i]) for i in when.openers.get(kind.name, ()))
            such_as = f" ({rows})" if rows else ""
            notes.append(
                f"general queries of the kind “{kind.name}” can't be told from the IR queries on this model: keeping all but "
                f"{options.budget:.0%} of them closed would close the gate for too many IR queries, so it opens for {kind.opened_seen:.0%} of "
                f"them{such_as}; more queries of that kind (--general), IR queries that differ more from them, or a larger model would help"
            )
    if when.with_open_wraps is not None:
        ir_open, general_open = when.with_open_wraps
        notes.append(
            "what is harmful can't be told from what is harmless inside wraps (code to complete, tables, scenes) on this model, so the gate "
            f"leaves them alone: of queries in wraps it opens for {when.open_ir_in_wraps or 0:.0%} of IR ones and "
            f"{when.open_general_in_wraps or 0:.0%} of general ones; with --open-wraps it would open for {ir_open:.0%} and {general_open:.0%}"
        )
    n_ir = sum(map(len, queries.ir))
    if 0 < len(general) < _FEW:
        notes.append(
            f"{len(general)} general and {n_ir} IR queries are few: what is told of the gate is rough, and it may open for more than it says; give "
            "more of both, or leave out --no-background"
        )
    suspects = when.ir_like_general
    if 0 < len(suspects) <= _MOST_SUSPECT * n_ir:
        ir = [q.text for part in queries.ir for q in part.queries]
        rows = "; ".join(_shown(ir[i]) for i in suspects[:_NAMED])
        notes.append(
            f"{len(suspects)} IR queries look like general ones, such as {rows}; take out those that need no steering"
        )
    return notes


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return f"“{line[:_SHOWN_CHARACTERS]}{'…' if len(line) > _SHOWN_CHARACTERS else ''}”"


def _joined(pack: Pack, when: ChosenGate, examples: Examples, options: FitOptions) -> Pack:
    m = pack.manifest
    data = {name: digest for name, digest in m.data.items() if not name.endswith(_OF_THE_GATE)}
    for name, file in (examples.files or {}).items():
        data[name + _OF_THE_GATE] = DataDigest(rows=file.rows, sha256=file.sha256)
    figures = m.figures.model_copy(
        update={
            "open_ir": when.open_ir,
            "open_general": when.open_general,
            "auroc": when.auroc,
            "roc": when.roc,
            "recall": list(when.recall),
            "kinds": list(when.kinds),
            "open_ir_in_wraps": when.open_ir_in_wraps,
            "open_general_in_wraps": when.open_general_in_wraps,
            "gate_trials": list(when.trials),
        }
    )
    changed = {
        "name": options.name,
        "fitted_by": f"{m.fitted_by}; gate by fs-local {__version__}",
        "gate": when.settings,
        "data": data,
        "figures": figures,
        "seed": options.seed,
    }
    return Pack.of(m.model_copy(update=changed), when.gate, pack.experts)
