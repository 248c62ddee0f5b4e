"""A gate for steering that was made elsewhere: what steers every query, or behind another gate, becomes conditional by SCS."""

from __future__ import annotations

import dataclasses

import fs_local
from fs_local.fitting.options import Examples, FitOptions, Progress, check_queries
from fs_local.fitting.states import GATE_DEPTHS, ONE_CLASS_DEPTH
from fs_local.fitting.when import When, choose_when
from fs_local.pack.file import Pack
from fs_local.pack.manifest import DataDigest
from fs_local.runtime.model import Model
from fs_local.steering import check_model
from fs_local.store import Store

_OF_THE_GATE = " of the gate"


def gated(
    model: Model,
    pack: Pack,
    examples: Examples,
    options: FitOptions,
    progress: Progress | None = None,
    store: Store | None = None,
) -> Pack:
    """The pack's vectors behind a gate that is fitted here, in place of its own.

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
    check_queries(model, options, ir=len(examples.ir), general=len(examples.general))
    steered = pack.manifest.steer.layers[0]
    options = dataclasses.replace(options, method="finesteer", layers=(steered,))
    low = round(model.n_layer * GATE_DEPTHS[0])
    if options.gate_layer is None and not examples.general and steered < low:
        # one-class, and nothing to choose a layer by: states of the first blocks say little of a query
        options = dataclasses.replace(options, gate_layer=round(model.n_layer * ONE_CLASS_DEPTH))
    report = progress or (lambda _what, _done, _total: None)
    when = choose_when(model, examples, options, steered, report, store.captures if store is not None else None)
    found = _joined(pack, when, examples, options)
    return found if options.strength is None else found.with_strength(options.strength)


def _joined(pack: Pack, when: When, examples: Examples, options: FitOptions) -> Pack:
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
            "gate_trials": list(when.trials),
        }
    )
    changed = {
        "name": options.name,
        "fitted_by": f"{m.fitted_by}; gate by fs-local {fs_local.__version__}",
        "gate": when.settings,
        "data": data,
        "figures": figures,
        "seed": options.seed,
    }
    return Pack.of(m.model_copy(update=changed), when.gate, pack.experts)
