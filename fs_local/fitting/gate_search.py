"""When to steer: the gate, and how often it opens for what it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from fs_local.arrays import F32
from fs_local.evaluation.intervals import wilson
from fs_local.fitting.gate_queries import WRAPPED
from fs_local.fitting.options import FitOptions
from fs_local.fitting.states import Place, QueryStates
from fs_local.method.folded import Gate, open_gate
from fs_local.method.gates import QuantileGate, SoftGate, is_open
from fs_local.method.group_splits import folds_of
from fs_local.method.logistic import LogisticGate
from fs_local.method.readings import Reading
from fs_local.method.rivals import CosineCondition
from fs_local.method.rows import Rows
from fs_local.pack.manifest import GateSettings, GateTrial, KindFigures, Recall, Roc
from fs_local.progress import Progress

RANKS = (4, 8, 16, 32)
SECOND_PASS_PRICE = 0.02
"""What a one-class gate behind the steered block must gain, as a share of openings: it costs a second pass for queries that open it."""
RECALL_AT = (0.01, 0.02)
_ROC_POINTS = 101
_FOLDS = 5


def _no_scores() -> F32:
    return np.empty(0, dtype=np.float32)


@dataclass(frozen=True)
class ChosenGate:
    """The chosen gate with what it takes, and how it scores queries that it was not fitted on.

    Attributes:
        ir_score, general_score: of IR queries and of general ones, by gates that had seen neither the query nor, of general ones, their
            whole kind; ir_ratio, general_ratio: energy ratios.
        open_ir, open_general, auroc, roc, recall: of these scores, but for queries in wraps. kinds: how each kind fares.
        openers: for each kind that opens the gate, rows of general queries that do, highest scores first.
        ir_like_general: rows of IR queries whose score is that of a general query's middle, or less.
        open_ir_in_wraps, open_general_in_wraps: of the gate itself, for queries in wraps that it was not fitted with.
        with_open_wraps: the same two of the gate that was let go because it opened for harmless queries in wraps; None where none was.
    """

    gate: Gate
    layers: list[int]
    readings: tuple[Reading, ...] = ("last",)
    rank: int = 0
    ir_score: F32 = field(default_factory=_no_scores)
    general_score: F32 = field(default_factory=_no_scores)
    ir_ratio: F32 = field(default_factory=_no_scores)
    general_ratio: F32 = field(default_factory=_no_scores)
    open_ir: float | None = None
    open_general: float | None = None
    auroc: float | None = None
    roc: Roc | None = None
    recall: tuple[Recall, ...] = ()
    kinds: tuple[KindFigures, ...] = ()
    openers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ir_like_general: tuple[int, ...] = ()
    open_ir_in_wraps: float | None = None
    open_general_in_wraps: float | None = None
    with_open_wraps: tuple[float, float] | None = None
    trials: tuple[GateTrial, ...] = ()

    @property
    def settings(self) -> GateSettings:
        """As a manifest has them."""
        return GateSettings.of(self.gate, self.layers, self.readings)


def needs_no_states(options: FitOptions) -> bool:
    """Whether the method steers every query, or was told to."""
    if options.gate is None:
        return options.method not in ("finesteer", "ridge", "cast")
    return options.gate == "open"


def always(width: int, steered: int) -> ChosenGate:
    """The gate of what steers every query."""
    return ChosenGate(open_gate(width), [steered])


def choose_gate(
    states: QueryStates, layers: Sequence[int], options: FitOptions, steered: int, report: Progress
) -> ChosenGate:
    """Fits the gate of a method.

    Args:
        layers: blocks that it may take: a supervised gate takes them all together, the others the best one.
        steered: the first steered block.
    """
    if options.method == "cast":
        return _condition(states, layers, options)
    kind = options.gate or ("logistic" if states.n_general else "quantile")
    if kind == "logistic":
        when = _logistic(states, layers, options)
        report("fit gates", 1, 1)
        return _with_trials(when, [when])
    return _one_class(states, kind, layers, options, steered, report)


def _logistic(states: QueryStates, layers: Sequence[int], options: FitOptions) -> ChosenGate:
    """With IR queries in wraps; without them where harmful and harmless can't be told apart in wraps, for the harmless ones' sake."""
    whole = _fitted_logistic(states, layers, options, np.ones(states.n_ir, dtype=bool))
    let_go = [k for k in whole.kinds if k.name == WRAPPED and not k.held]
    if options.open_wraps or not let_go or whole.open_general_in_wraps is None:
        return whole
    closed = _fitted_logistic(states, layers, options, states.plain[0])
    return replace(closed, with_open_wraps=(whole.open_ir_in_wraps or 0.0, whole.open_general_in_wraps))


def _fitted_logistic(
    states: QueryStates, layers: Sequence[int], options: FitOptions, which: NDArray[np.bool_]
) -> ChosenGate:
    """A gate of some of the IR queries. which: (n_ir,)."""
    readings = states.readings_at(layers)
    places: list[Place] = [(layer, reading) for layer in layers for reading in readings]
    ir, general = states.labelled(places)
    ir = ir[which]
    gate = LogisticGate(budget=options.budget, seed=options.seed).fit(ir, general)
    kinds, openers = [], {}
    for number, k in enumerate(gate.kinds_):
        low, high = wilson(round(k.unseen * k.n), k.n)
        name = states.kind_names[number]
        kinds.append(
            KindFigures(name=name, rows=k.n, opened=k.unseen, low=low, high=high, opened_seen=k.seen, held=k.held)
        )
        openers[name] = k.openers
    in_wraps = [_share(is_open(gate.opening(rows))) if rows else None for rows in states.unseen(places)]
    unseen = gate.general_unseen_score_
    plain_ir, plain_general = states.plain[0][which], states.plain[1]
    plain = gate.ir_score_[plain_ir], unseen[plain_general]
    plain_kinds = [k for k in kinds if k.name != WRAPPED]
    return ChosenGate(
        gate.gate_,
        list(layers),
        readings,
        gate.rank,
        gate.ir_score_,
        unseen,
        gate.ir_ratio_,
        gate.energy_ratio(general.side_by_side),
        open_ir=_share(is_open(gate.ir_opening_[plain_ir])),
        open_general=float(np.average([k.opened for k in plain_kinds], weights=[k.rows for k in plain_kinds])),
        auroc=_auroc(*plain),
        roc=_roc(*plain),
        recall=_recall(*plain),
        kinds=tuple(kinds),
        openers=openers,
        ir_like_general=tuple(int(i) for i in np.flatnonzero(gate.ir_score_ <= np.median(gate.general_score_))),
        open_ir_in_wraps=in_wraps[0],
        open_general_in_wraps=in_wraps[1],
    )


def _one_class(
    states: QueryStates, kind: str, layers: Sequence[int], options: FitOptions, steered: int, report: Progress
) -> ChosenGate:
    """The paper's gates of IR queries alone, at one block; general queries, where there are any, choose the block and the rank."""
    plan = [(layer, rank) for layer in layers for rank in (RANKS if states.n_general else (8,))]
    found: list[tuple[float, ChosenGate]] = []
    for i, (layer, rank) in enumerate(plan):
        ir, general = states.ir[layer, "last"], states.general.get((layer, "last"))
        gate = (
            SoftGate(rank, seed=options.seed) if kind == "soft" else QuantileGate(rank, options.tail, seed=options.seed)
        ).fit(ir, general, states.ir_groups)
        apart = float(gate.ir_opening_.mean() - gate.general_opening_.mean()) if general is not None else 0.0
        scores = gate.ir_score_, gate.general_score_
        when = ChosenGate(
            gate.gate_,
            [layer],
            ("last",),
            gate.rank,
            *scores,
            gate.ir_ratio_,
            gate.energy_ratio(general) if general is not None else _no_scores(),
            open_ir=_share(is_open(gate.ir_opening_)),
            open_general=_share(is_open(gate.general_opening_)) if general is not None else None,
            auroc=_auroc(*scores) if general is not None else None,
            roc=_roc(*scores) if general is not None else None,
            recall=_recall(*scores) if general is not None else (),
        )
        found.append((apart - SECOND_PASS_PRICE * (layer > steered), when))
        report("fit gates", i + 1, len(plan))
    return _with_trials(max(found, key=lambda f: f[0])[1], [w for _, w in found])


def _condition(states: QueryStates, layers: Sequence[int], options: FitOptions) -> ChosenGate:
    """CAST's condition, at the block and the reading of the best F1: its code reads the mean over the whole prompt, or its last position,
    whichever its user sets."""
    whole: tuple[Reading, ...] = ("mean",) if all((layer, "mean") in states.ir for layer in layers) else ()
    readings = (*states.readings_at(layers), *whole)
    places: list[Place] = [(layer, reading) for layer in layers for reading in readings]
    fitted = {place: CosineCondition().fit(states.ir[place], states.general[place]) for place in places}
    place = max(fitted, key=lambda x: fitted[x].f1_)
    at = states.ir[place], states.general[place]
    gate = fitted[place].gate_
    edge = np.float32(gate.edge)
    ir, general = (x + edge for x in _beyond_threshold(*at, states.ir_groups, states.general_groups, options.seed))
    return ChosenGate(
        gate,
        [place[0]],
        (place[1],),
        ir_score=ir,
        general_score=general,
        open_ir=_share(ir > edge),
        open_general=_share(general > edge),
        auroc=_auroc(ir, general),
        roc=_roc(ir, general),
        recall=_recall(ir, general),
    )


def _beyond_threshold(
    at_ir: Rows, at_general: Rows, ir_groups: NDArray[np.intp], general_groups: NDArray[np.intp], seed: int
) -> tuple[F32, F32]:
    """How far IR (n,) and general queries (m,) are beyond the threshold of a condition that was fitted without them. at_ir: (n, d); at_general: (m, d)."""
    beyond = np.empty(len(at_ir), dtype=np.float32), np.empty(len(at_general), dtype=np.float32)
    fold_ir, fold_general = folds_of(ir_groups, _FOLDS, seed), folds_of(general_groups, _FOLDS, seed)
    for fold in range(_FOLDS):
        gate = (
            CosineCondition()
            .fit(at_ir[np.flatnonzero(fold_ir != fold)], at_general[np.flatnonzero(fold_general != fold)])
            .gate_
        )
        for rows, folds, out in ((at_ir, fold_ir, beyond[0]), (at_general, fold_general, beyond[1])):
            some = np.flatnonzero(folds == fold)
            out[some] = rows[some].each(gate.score) - np.float32(gate.edge)
    return beyond


def _with_trials(best: ChosenGate, tried: Sequence[ChosenGate]) -> ChosenGate:
    trials = tuple(
        GateTrial(
            kind=w.gate.kind,
            layers=w.layers,
            rank=w.rank,
            auroc=w.auroc,
            open_ir=w.open_ir or 0.0,
            open_general=w.open_general or 0.0,
        )
        for w in tried
        if w.auroc is not None
    )
    return replace(best, trials=trials)


def _share(which: NDArray[np.bool_]) -> float:
    return float(which.mean())


def _auroc(ir: F32, general: F32) -> float:
    return float(roc_auc_score(*_labelled(ir, general)))


def _recall(ir: F32, general: F32) -> tuple[Recall, ...]:
    return tuple(Recall(general=share, ir=_share(ir > np.quantile(general, 1 - share))) for share in RECALL_AT)


def _roc(ir: F32, general: F32) -> Roc:
    false, true, _ = roc_curve(*_labelled(ir, general))
    at = np.unique(np.linspace(0, len(false) - 1, _ROC_POINTS).round().astype(int))
    return Roc(general=[float(x) for x in false[at]], ir=[float(x) for x in true[at]])


def _labelled(ir: F32, general: F32) -> tuple[NDArray[np.float64], F32]:
    return np.concatenate([np.ones(len(ir)), np.zeros(len(general))]), np.concatenate([ir, general])
