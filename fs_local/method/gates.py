"""When to steer: Subspace-guided Conditional Steering (FineSteer, SCS), as estimators over states.

All three of the paper's gates model the IR queries by a mean and principal directions, and differ in what opens them. `F`, and
every figure that is reported, comes from IR queries that the subspace was not fitted on (cross-fitting): in-sample energy
ratios are too high.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from fs_local.arrays import F32
from fs_local.errors import FitError
from fs_local.method.folded import Gate, GateKind, empirical_cdf, ramp
from fs_local.method.group_splits import Numbers, alone, folds_of
from fs_local.method.rows import Rows
from fs_local.method.subspace import principal

_MAX_KNOTS = 101
_EMPTY = np.empty(0, dtype=np.float32)
MIN_QUERIES = 8


class SubspaceGate(BaseEstimator):  # type: ignore[misc]
    """What the gates share: a subspace of the IR states, and cross-fitted scores.

    Attributes after `fit`:
        gate_: the folded gate.
        ir_score_: cross-fitted score of each IR query, (n,); ir_opening_: its opening; ir_ratio_: its cross-fitted energy ratio.
        general_score_, general_opening_: of each general query; empty where there were none.
    """

    kind: GateKind

    def __init__(self, rank: int = 8, decay: float = 4.0, n_folds: int = 5, seed: int = 0) -> None:
        self.rank = rank
        self.decay = decay
        self.n_folds = n_folds
        self.seed = seed

    def energy_ratio(self, states: Rows | F32) -> F32:
        """s(h), (n,). states: (n, D)."""
        return Rows.of(states).each(self.gate_.energy_ratio)

    def opening(self, states: Rows | F32) -> F32:
        """g(h), (n,). states: (n, D)."""
        return Rows.of(states).each(self.gate_.opening)

    def _subspace(self, ir: Rows, **parts: Any) -> Gate:
        found = principal(ir, min(self.rank, len(ir) - 1, ir.width), self.seed)
        filled = {"knots": _EMPTY, "coef": _EMPTY, "intercept": 0.0, "edge": 1.0, "decay": self.decay, **parts}
        return Gate(self.kind, found.mean.astype(np.float32), found.axes.astype(np.float32), **filled)

    def _checked(self, ir: Rows | F32, general: Rows | F32 | None) -> tuple[Rows, Rows]:
        """Both as rows."""
        if self.rank < 1 or self.decay <= 0 or self.n_folds < 2:
            raise FitError("a gate needs rank ≥ 1, decay > 0 and at least 2 folds")
        rows = Rows.of(ir)
        given = {"IR": rows} if general is None else {"IR": rows, "general": Rows.of(general)}
        for name, states in given.items():
            if len(states) < MIN_QUERIES:
                raise FitError(
                    f"{len(states)} {name} queries are too few for a gate; give at least {MIN_QUERIES}, better 60 or more"
                )
            if not states.all_finite():
                raise FitError(f"the states of the {name} queries are not finite (NaN or infinite)")
        return rows, given.get("general", rows[:0])

    def _cross_fitted_ratios(self, ir: Rows, groups: Numbers | None) -> F32:
        fold = folds_of(alone(len(ir)) if groups is None else groups, self.n_folds, self.seed)
        if len(ir) - np.bincount(fold).max() < MIN_QUERIES:
            fold = folds_of(alone(len(ir)), self.n_folds, self.seed)  # nearly all are of one group
        ratios = np.empty(len(ir), dtype=np.float32)
        for number in np.unique(fold):
            held_out = np.flatnonzero(fold == number)
            ratios[held_out] = ir[held_out].each(self._subspace(ir[np.flatnonzero(fold != number)]).energy_ratio)
        return ratios

    def _finish(self, gate: Gate, ir_ratio: F32, ir_score: F32, general_score: F32) -> None:
        self.gate_, self.ir_ratio_ = gate, ir_ratio
        self.ir_score_, self.ir_opening_ = ir_score, ramp(ir_score, gate.edge, gate.decay)
        self.general_score_, self.general_opening_ = general_score, ramp(general_score, gate.edge, gate.decay)


class QuantileGate(SubspaceGate):
    """The one-class gate: open where F(s) ≥ ε, and below that (F(s)/ε)^γ.

    Args:
        rank: r, principal directions.
        tail: ε, the share of IR queries in the lower tail.
        decay: γ.
        n_folds: for cross-fitting F.
        seed: of the folds and the PCA.
    """

    kind = "quantile"

    def __init__(self, rank: int = 8, tail: float = 0.05, decay: float = 4.0, n_folds: int = 5, seed: int = 0) -> None:
        super().__init__(rank, decay, n_folds, seed)
        self.tail = tail

    def fit(self, ir: Rows | F32, general: Rows | F32 | None = None, groups: Numbers | None = None) -> QuantileGate:
        """Fits on IR states (n, D) alone; general states, if given, are only scored.

        Args:
            groups: of IR queries that are near twins, a number each, (n,): a query is scored by a subspace that saw none of its group.

        Raises:
            FitError: too few queries, states that are not finite, or parameters out of range.
        """
        ir_rows, general_rows = self._checked(ir, general)
        if not 0 < self.tail < 1:
            raise FitError("the gate's tail must be between 0 and 1")
        ratios = self._cross_fitted_ratios(ir_rows, groups)
        knots = np.quantile(ratios, np.linspace(0, 1, min(_MAX_KNOTS, len(ratios)))).astype(np.float32)
        gate = self._subspace(ir_rows, knots=knots, edge=self.tail)
        self._finish(gate, ratios, empirical_cdf(ratios, knots), general_rows.each(gate.score))
        return self


class SoftGate(SubspaceGate):
    """The soft gate: the opening is s^γ, by default s itself. Rarely closed: it scales more than it decides."""

    kind = "soft"

    def __init__(self, rank: int = 8, decay: float = 1.0, n_folds: int = 5, seed: int = 0) -> None:
        super().__init__(rank, decay, n_folds, seed)

    def fit(self, ir: Rows | F32, general: Rows | F32 | None = None, groups: Numbers | None = None) -> SoftGate:
        """As `QuantileGate.fit`."""
        ir_rows, general_rows = self._checked(ir, general)
        gate = self._subspace(ir_rows)
        ratios = self._cross_fitted_ratios(ir_rows, groups)
        self._finish(gate, ratios, ratios, general_rows.each(gate.score))
        return self


def is_open(opening: F32) -> NDArray[np.bool_]:
    """Whether openings let anything through."""
    return opening > 0
