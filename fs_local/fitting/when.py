"""When to steer: the gate's kind, layers and rank, chosen by cross-fitted scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import KFold

from fs_local.fitting.options import Examples, FitOptions, Progress
from fs_local.fitting.states import QueryStates, gate_layers, query_states
from fs_local.method.folded import F32, Gate, open_gate
from fs_local.method.gates import LogisticGate, QuantileGate, SoftGate, is_open
from fs_local.method.rivals import CosineCondition
from fs_local.method.rows import Rows
from fs_local.pack.manifest import GateSettings, GateTrial, Roc
from fs_local.runtime.model import Model

AnyGate = QuantileGate | LogisticGate | SoftGate

RANKS = (4, 8, 16, 32)
SECOND_PASS_PRICE = 0.02
"""Share of openings that a gate behind the steered layer must gain: it costs a second pass for queries that open it."""
_ROC_POINTS = 101
_FOLDS = 5


def _no_scores() -> F32:
    return np.empty(0, dtype=np.float32)


@dataclass(frozen=True)
class When:
    """The chosen gate with its layers, and the cross-fitted scores (and energy ratios) of the queries it was chosen by."""

    gate: Gate
    layers: list[int]
    rank: int = 0
    ir_score: F32 = field(default_factory=_no_scores)
    general_score: F32 = field(default_factory=_no_scores)
    ir_ratio: F32 = field(default_factory=_no_scores)
    general_ratio: F32 = field(default_factory=_no_scores)
    open_ir: float | None = None
    open_general: float | None = None
    auroc: float | None = None
    roc: Roc | None = None
    trials: tuple[GateTrial, ...] = ()

    @property
    def settings(self) -> GateSettings:
        """As a manifest has them."""
        g = self.gate
        return GateSettings(kind=g.kind, layers=self.layers, edge=g.edge, decay=g.decay, intercept=g.intercept)


def choose_when(
    model: Model, examples: Examples, options: FitOptions, steered: int, report: Progress, captures: Path | None = None
) -> When:
    """Fits the gate of a method; `steered` is the first steered layer, which its experts take."""
    if needs_no_states(options):
        return When(open_gate(model.width), [steered])
    states = query_states(model, examples, options, steered, report, captures)
    return search_when(states, gate_layers(model, examples, options, steered), options, steered, report)


def needs_no_states(options: FitOptions) -> bool:
    """Whether the method steers every query, or was told to."""
    return options.method in ("caa", "repe", "alphasteer") or options.gate == "open"


def search_when(
    states: QueryStates, layers: Sequence[int], options: FitOptions, steered: int, report: Progress
) -> When:
    """As `choose_when`, from states that are there."""
    if options.method == "cast":
        return _condition(states, layers, options)
    return _Search(states, layers, options, steered, report).run()


def _condition(states: QueryStates, layers: Sequence[int], options: FitOptions) -> When:
    """CAST's condition, at the layer of the best F1."""
    fitted = {layer: CosineCondition().fit(states.ir_at(layer), states.general_at(layer)) for layer in layers}
    layer = max(fitted, key=lambda x: fitted[x].f1_)
    gate = fitted[layer].gate_
    edge = np.float32(gate.edge)
    ir, general = (x + edge for x in _beyond_threshold(states.ir_at(layer), states.general_at(layer), options.seed))
    return When(
        gate,
        [layer],
        ir_score=ir,
        general_score=general,
        open_ir=_share(ir > edge),
        open_general=_share(general > edge),
        auroc=_auroc(ir, general),
        roc=_roc(ir, general),
    )


def _beyond_threshold(ir: F32, general: F32, seed: int) -> tuple[F32, F32]:
    """How far IR (n,) and general queries (m,) are beyond the threshold of a condition that was fitted without them. ir: (n, d); general: (m, d)."""
    beyond = np.empty(len(ir), dtype=np.float32), np.empty(len(general), dtype=np.float32)
    at_ir, at_general = Rows.of(ir), Rows.of(general)
    folds = KFold(_FOLDS, shuffle=True, random_state=seed)
    for (fit_ir, out_ir), (fit_general, out_general) in zip(folds.split(ir), folds.split(general), strict=True):
        gate = CosineCondition().fit(at_ir[fit_ir], at_general[fit_general]).gate_
        beyond[0][out_ir] = at_ir[out_ir].each(gate.score) - np.float32(gate.edge)
        beyond[1][out_general] = at_general[out_general].each(gate.score) - np.float32(gate.edge)
    return beyond


class _Search:
    """Tries kinds at each layer alone, then the best supervised one with a second layer beside it."""

    def __init__(
        self, states: QueryStates, layers: Sequence[int], options: FitOptions, steered: int, report: Progress
    ) -> None:
        self._states, self._options, self._steered, self._report = states, options, steered, report
        self._layers = sorted(layers, key=lambda x: (x > steered, -x))
        self._tried: list[tuple[float, list[int], AnyGate]] = []
        self._trials: list[GateTrial] = []

    def run(self) -> When:
        """The gate that is the most open for IR queries and the most closed for general ones."""
        has_general = self._states.contrast > self._states.general
        kinds = (
            [self._options.gate] if self._options.gate else ["logistic", "quantile"] if has_general else ["quantile"]
        )
        ranks = RANKS if has_general else (8,)
        layers = self._layers
        plan = [
            (kind, [layer], rank)
            for kind in kinds
            for rank in ((8,) if kind == "logistic" else ranks)
            for layer in layers
        ]
        second = len(layers) - 1 if "logistic" in kinds else 0
        for i, (kind, at, rank) in enumerate(plan):
            self._try(str(kind), at, rank)
            self._report("fit gates", i + 1, len(plan) + second)
        if second:
            first = max((t for t in self._tried if isinstance(t[2], LogisticGate)), key=lambda t: t[0])[1][0]
            for i, other in enumerate(layer for layer in layers if layer != first):
                self._try("logistic", sorted((first, other)), 8)
                self._report("fit gates", len(plan) + i + 1, len(plan) + second)
        _, at, gate = max(self._tried, key=lambda t: t[0])
        ir, general = gate.ir_score_, gate.general_score_
        general_states = self._at(at)[self._states.general : self._states.contrast]
        return When(
            gate.gate_,
            at,
            gate.rank,
            ir,
            general,
            gate.ir_ratio_,
            gate.energy_ratio(general_states),
            open_ir=_share(is_open(gate.ir_opening_)),
            open_general=_share(is_open(gate.general_opening_)) if has_general else None,
            auroc=_auroc(ir, general) if has_general else None,
            roc=_roc(ir, general) if has_general else None,
            trials=tuple(self._trials),
        )

    def _at(self, layers: Sequence[int]) -> Rows:
        return Rows.of(*(self._states.by_layer[layer] for layer in layers))

    def _try(self, kind: str, layers: list[int], rank: int) -> None:
        at_general, end = self._states.general, self._states.contrast
        states = self._at(layers)
        ir, general = states[:at_general], states[at_general:end] if end > at_general else None
        o = self._options
        gate: AnyGate
        if kind == "logistic":
            gate = LogisticGate(rank, o.budget, seed=o.seed).fit(ir, general, states[end:])
        elif kind == "soft":
            gate = SoftGate(rank, seed=o.seed).fit(ir, general)
        else:
            gate = QuantileGate(rank, o.tail, seed=o.seed).fit(ir, general)
        apart = float(gate.ir_opening_.mean() - gate.general_opening_.mean()) if general is not None else 0.0
        self._tried.append((apart - SECOND_PASS_PRICE * (layers[-1] > self._steered), layers, gate))
        if general is not None:
            self._trials.append(
                GateTrial(
                    kind=kind,
                    layers=layers,
                    rank=rank,
                    auroc=_auroc(gate.ir_score_, gate.general_score_),
                    open_ir=_share(is_open(gate.ir_opening_)),
                    open_general=_share(is_open(gate.general_opening_)),
                )
            )


def _share(which: NDArray[np.bool_]) -> float:
    return float(which.mean())


def _auroc(ir: F32, general: F32) -> float:
    return float(roc_auc_score(*_labelled(ir, general)))


def _roc(ir: F32, general: F32) -> Roc:
    false, true, _ = roc_curve(*_labelled(ir, general))
    at = np.unique(np.linspace(0, len(false) - 1, _ROC_POINTS).round().astype(int))
    return Roc(general=[float(x) for x in false[at]], ir=[float(x) for x in true[at]])


def _labelled(ir: F32, general: F32) -> tuple[NDArray[np.float64], F32]:
    return np.concatenate([np.ones(len(ir)), np.zeros(len(general))]), np.concatenate([ir, general])
