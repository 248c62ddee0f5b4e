"""What a method does within a drift budget, read off its curve of effect and drift against strength; and how sure of that one can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fs_local.arrays import F64

BUDGETS = (0.01, 0.05, 0.1)
"""Mean KL(unsteered ‖ steered) on general queries, nats a token."""
_DRAWS, _BATCH = 2000, 100
"""Of the bootstrap; a hundred at a time, so that memory stays flat."""


@dataclass(frozen=True)
class Point:
    """One strength: the effect on each row of a task, and the drift on each general row.

    Attributes:
        is_step: nothing lies between it and none, and there is nothing to choose: a system prompt.
        is_fluent: whether the answers are within the fluency budget (`fs_local.evaluation.fluency`); a strength where they are not is no
            part of what a method can do.
    """

    strength: float
    effect: list[float]
    drift: list[float]
    is_step: bool = False
    is_fluent: bool = True

    @property
    def mean_drift(self) -> float:
        return float(np.mean(self.drift))


@dataclass(frozen=True)
class AtBudget:
    """The effect a row at the best strength within a budget; that strength and its mean drift, averaged over the rows."""

    effect: list[float]
    strength: float
    drift: float


@dataclass(frozen=True, eq=False)
class Draws:
    """Rows of a task and general rows, drawn anew with replacement: how often each is there, float64 (draws, rows) and (draws, general rows).

    The same draws serve all methods, so that what they do is compared row by row.
    """

    rows: F64
    general: F64

    @classmethod
    def of(cls, rows: int, general: int) -> Draws:
        """Seeded; the same for the same numbers of rows."""
        rng = np.random.default_rng(0)
        rows_drawn, general_drawn = (rng.multinomial(n, [1 / n] * n, _DRAWS) for n in (rows, general))
        return cls(rows_drawn.astype(np.float64), general_drawn.astype(np.float64))


def at_budget(line: Sequence[Point], none: Sequence[float], budget: float) -> AtBudget:
    """The best that a method's curve has within a budget.

    The curve begins at the unsteered model. Between measured strengths, effects go straight, row by row, and so does the drift's square
    root: the divergence of a small step grows with its square. Which strength is best is decided for each row by all other rows, so
    that none is measured at a strength that it has chosen itself; of equal ones, the weakest. Where there is a step and no curve, nothing
    is chosen: it counts where its drift is within the budget.

    Args:
        line: the measured points, one or more, of the same rows; those that are not fluent are left out. none: the effect without steering.
    """
    curve = _Curve.of(line, none)
    once = np.ones((1, len(none))), np.ones((1, curve.drifts.shape[1]))
    (effect,), (strengths,), (drifts,) = curve.chosen(*once, budget)
    sign = -1 if any(p.strength < 0 for p in line) else 1
    return AtBudget([float(x) for x in effect], sign * float(strengths.mean()), float(drifts.mean()))


def redrawn(line: Sequence[Point], none: Sequence[float], budget: float, draws: Draws) -> F64:
    """The mean of `at_budget`'s effect for each draw, (draws,): curve, drift and choice are made anew of the rows that were drawn.

    A row that was drawn twice has no say in the strength of either: all copies of it are left out where the others choose.
    """
    curve, found = _Curve.of(line, none), []
    for first in range(0, len(draws.rows), _BATCH):
        rows, general = draws.rows[first : first + _BATCH], draws.general[first : first + _BATCH]
        effect, _, _ = curve.chosen(rows, general, budget)
        found.append((rows * effect).sum(axis=1) / rows.sum(axis=1))
    return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class _Curve:
    """Its measured strengths, ascending from none, float64 (points,); effects (points, rows); drifts (points, general rows)."""

    strengths: F64
    effects: F64
    drifts: F64
    is_step: bool

    @classmethod
    def of(cls, line: Sequence[Point], none: Sequence[float]) -> _Curve:
        points = sorted((p for p in line if p.is_fluent), key=lambda p: abs(p.strength))
        return cls(
            np.array([0.0, *(abs(p.strength) for p in points)]),
            np.array([none, *(p.effect for p in points)], dtype=np.float64),
            np.array([[0.0] * len(line[0].drift), *(p.drift for p in points)], dtype=np.float64),
            any(p.is_step for p in points),
        )

    def chosen(self, rows: F64, general: F64, budget: float) -> tuple[F64, F64, F64]:
        """Effect, strength and mean drift of each row at the best strength within a budget; three times (draws, rows).

        Args:
            rows, general: how often each row is there, (draws, rows) and (draws, general rows).
        """
        low = general @ self.drifts.T / general.sum(axis=1, keepdims=True)
        n, last = low.shape[1], low.shape[1] - 1
        # measured strengths at the even places, and between them where the curve meets the budget
        below = np.arange(2 * n - 1) // 2
        above = np.minimum(below + 1, last)
        share = np.zeros((len(low), 2 * n - 1))
        allowed = np.zeros(share.shape, dtype=bool)
        allowed[:, ::2] = low <= budget
        if self.is_step:
            allowed[:, 0] = ~allowed[:, 2]
        else:
            one, other = low[:, :-1], low[:, 1:]
            meets = (np.minimum(one, other) < budget) & (budget < np.maximum(one, other))
            apart = np.where(meets, np.sqrt(other) - np.sqrt(one), 1.0)
            share[:, 1::2] = np.where(meets, (np.sqrt(budget) - np.sqrt(one)) / apart, 0.0)
            allowed[:, 1::2] = meets
        strengths = self.strengths[below] + share * (self.strengths[above] - self.strengths[below])
        drifts = np.where(share > 0, budget, low[:, below])
        effects = self.effects[below] + share[:, :, None] * (self.effects[above] - self.effects[below])
        of_each = rows[:, None, :] * effects
        others = of_each.sum(axis=2, keepdims=True) - of_each if rows.shape[1] > 1 else of_each
        best = np.where(allowed[:, :, None], others.round(9), -np.inf).argmax(axis=1)
        effect = np.take_along_axis(effects, best[:, None, :], axis=1)[:, 0]
        return effect, np.take_along_axis(strengths, best, axis=1), np.take_along_axis(drifts, best, axis=1)
