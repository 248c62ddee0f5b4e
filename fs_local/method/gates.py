"""When to steer: Subspace-guided Conditional Steering (FineSteer, SCS), as estimators over states.

All three of the paper's gates model the IR queries by a mean and principal directions, and differ in what opens them. `F`, and
every figure that is reported, comes from IR queries that the subspace was not fitted on (cross-fitting): in-sample energy
ratios are too high.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from fs_local.errors import FitError
from fs_local.method.folded import CLOSED_BELOW, F32, Gate, GateKind, empirical_cdf, ramp
from fs_local.method.rows import Rows
from fs_local.method.subspace import deviation, principal

F64 = NDArray[np.float64]
_MAX_KNOTS = 101
_EMPTY = np.empty(0, dtype=np.float32)
_TAIL_COUNT = 10
_AXES = 256
_LEAST_EXPECTED = 0.1
"""General queries beyond the threshold, at least, in expectation: further out, a normal distribution knows nothing."""
MIN_QUERIES = 8


class _SubspaceGate(BaseEstimator):  # type: ignore[misc]
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

    def _folds(self, n: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        return list(KFold(min(self.n_folds, n), shuffle=True, random_state=self.seed).split(np.empty(n)))

    def _cross_fitted_ratios(self, ir: Rows) -> F32:
        ratios = np.empty(len(ir), dtype=np.float32)
        for fit, held_out in self._folds(len(ir)):
            ratios[held_out] = ir[held_out].each(self._subspace(ir[fit]).energy_ratio)
        return ratios

    def _finish(self, gate: Gate, ir_ratio: F32, ir_score: F32, general_score: F32) -> None:
        self.gate_, self.ir_ratio_ = gate, ir_ratio
        self.ir_score_, self.ir_opening_ = ir_score, ramp(ir_score, gate.edge, gate.decay)
        self.general_score_, self.general_opening_ = general_score, ramp(general_score, gate.edge, gate.decay)


class QuantileGate(_SubspaceGate):
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

    def fit(self, ir: Rows | F32, general: Rows | F32 | None = None) -> QuantileGate:
        """Fits on IR states (n, D) alone; general states, if given, are only scored.

        Raises:
            FitError: too few queries, states that are not finite, or parameters out of range.
        """
        ir_rows, general_rows = self._checked(ir, general)
        if not 0 < self.tail < 1:
            raise FitError("the gate's tail must be between 0 and 1")
        ratios = self._cross_fitted_ratios(ir_rows)
        knots = np.quantile(ratios, np.linspace(0, 1, min(_MAX_KNOTS, len(ratios)))).astype(np.float32)
        gate = self._subspace(ir_rows, knots=knots, edge=self.tail)
        self._finish(gate, ratios, empirical_cdf(ratios, knots), general_rows.each(gate.score))
        return self


class SoftGate(_SubspaceGate):
    """The soft gate: the opening is s^γ, by default s itself. Rarely closed: it scales more than it decides."""

    kind = "soft"

    def __init__(self, rank: int = 8, decay: float = 1.0, n_folds: int = 5, seed: int = 0) -> None:
        super().__init__(rank, decay, n_folds, seed)

    def fit(self, ir: Rows | F32, general: Rows | F32 | None = None) -> SoftGate:
        """As `QuantileGate.fit`."""
        ir_rows, general_rows = self._checked(ir, general)
        gate = self._subspace(ir_rows)
        ratios = self._cross_fitted_ratios(ir_rows)
        self._finish(gate, ratios, ratios, general_rows.each(gate.score))
        return self


class LogisticGate(_SubspaceGate):
    """The supervised gate: a logistic regression of IR against general queries, on standardized states.

    It begins to open where `budget` of the held-out general queries are beyond, and is fully open a quarter of the way (in
    log-odds) from there to the median IR query. Weights and intercept are scaled so that these two points are x = 1/2 and the edge.

    Args:
        rank: r of the subspace, which then only describes.
        budget: share of general queries that may open the gate.
        decay: γ.
        regularization: candidates of C, chosen by cross-validated log-loss.
    """

    kind = "logistic"

    def __init__(
        self,
        rank: int = 8,
        budget: float = 0.02,
        decay: float = 8.0,
        regularization: tuple[float, ...] = (1e-3, 1e-2, 1e-1),
        n_folds: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(rank, decay, n_folds, seed)
        self.budget = budget
        self.regularization = regularization

    def fit(
        self, ir: Rows | F32, general: Rows | F32 | None = None, contrast: Rows | F32 | None = None
    ) -> LogisticGate:
        """Fits on IR states (n, D), general states (m, D), and contrast states (c, D): of general queries that resemble IR queries.

        IR queries weigh as much as all others together, and contrast queries as much as the other general ones. The budget is of
        general queries alone.

        Raises:
            FitError: as `QuantileGate.fit`, or no general states, or a budget out of range.
        """
        if general is None:
            raise FitError("a logistic gate needs general queries too; give --general, or choose --gate quantile")
        ir_rows, general_rows = self._checked(ir, general)
        if 0.5 / CLOSED_BELOW ** (1 / self.decay) >= 1:
            raise FitError("a logistic gate needs a decay of 5 or more")
        if not 0 < self.budget < 1:
            raise FitError("the general budget must be above 0 and below 1, such as 0.02")
        n_ir, n_general = len(ir_rows), len(general_rows)
        check_budget(n_general, self.budget)
        closed = [general_rows] if contrast is None or not len(contrast) else [general_rows, Rows.of(contrast)]
        states = Rows.stacked(ir_rows, *closed)
        labels = np.concatenate([np.ones(n_ir), np.zeros(len(states) - n_ir)])
        shares = [np.full(n_ir, 0.5 / n_ir)] + [np.full(len(c), 0.5 / len(closed) / len(c)) for c in closed]
        weights = np.concatenate(shares) * len(states)
        subspace = self._subspace(ir_rows)
        scale = (deviation(states) + 1e-12).astype(np.float32)
        standardized = states.mapped(lambda chunk: (chunk - subspace.mean) / scale)
        # all that a boundary needs, in few dimensions: fits take seconds, at any width
        axes = principal(standardized, min(_AXES, *states.shape), self.seed).axes.astype(np.float32)
        features = standardized.each(lambda chunk: chunk @ axes.T)
        order = np.random.default_rng(self.seed).permutation(len(labels))
        best_loss, logits, best_c = np.inf, np.zeros(len(labels)), self.regularization[0]
        for c in self.regularization:
            held_out_logits = np.empty(len(labels))
            for fit, held_out in self._folds(len(labels)):
                rows = order[fit]
                model = self._regression(c).fit(features[rows], labels[rows], weights[rows])
                held_out_logits[order[held_out]] = model.decision_function(features[order[held_out]])
            losses = np.logaddexp(0, np.where(labels == 1, -held_out_logits, held_out_logits))
            loss = float(np.average(losses, weights=weights))
            if loss < best_loss:
                best_loss, logits, best_c = loss, held_out_logits, c
        final = self._regression(best_c).fit(features, labels, weights)
        coef = final.coef_[0] @ axes
        of_ir, of_general = logits[:n_ir], logits[n_ir : n_ir + n_general]
        begin = _upper_quantile(of_general, self.budget)
        ramp_width = max((np.median(of_ir) - begin) / 4, 1e-3)
        edge = 0.5 / CLOSED_BELOW ** (1 / self.decay)
        stretch = float(logit(edge) / ramp_width)
        gate = dataclasses.replace(
            subspace,
            coef=(stretch * coef / scale).astype(np.float32),
            intercept=float(stretch * (final.intercept_[0] - begin)),
            edge=edge,
        )
        self.regularization_ = best_c
        scores = (expit(stretch * (x - begin)).astype(np.float32) for x in (of_ir, of_general))
        self._finish(gate, self._cross_fitted_ratios(ir_rows), *scores)
        return self

    def _regression(self, c: float) -> LogisticRegression:
        return LogisticRegression(C=c, solver="newton-cholesky", max_iter=100)


def check_budget(n_general: int, budget: float) -> None:
    """Refuses a share that so few general queries can't calibrate.

    Raises:
        FitError: saying how many are needed.
    """
    needed = math.ceil(_LEAST_EXPECTED / budget)
    if n_general < needed:
        raise FitError(
            f"{n_general} general queries can't calibrate a budget of {budget:g}; give at least {needed}, or a larger --general-budget"
        )


def _upper_quantile(values: F64, share: float) -> float:
    """The value that `share` of the population exceeds; by a normal distribution where too few values are in that tail to read it off."""
    if share * len(values) >= _TAIL_COUNT:
        return float(np.quantile(values, 1 - share))
    return float(norm.ppf(1 - share, values.mean(), values.std()))


def is_open(opening: F32) -> NDArray[np.bool_]:
    """Whether openings let anything through."""
    return opening > 0
