"""What a method does within a drift budget, read off its curve of effect and drift against strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

BUDGETS = (0.01, 0.05, 0.1)
"""Mean KL(unsteered ‖ steered) on general queries, nats a token."""


@dataclass(frozen=True)
class Point:
    """One strength: the effect on each row of a task, and the drift on each general row. is_step: nothing lies between it and none."""

    strength: float
    effect: list[float]
    drift: list[float]
    is_step: bool = False

    @property
    def mean_drift(self) -> float:
        return float(np.mean(self.drift))


@dataclass(frozen=True)
class AtBudget:
    """The effect a row at the best strength within a budget; that strength and its mean drift, averaged over the rows."""

    effect: list[float]
    strength: float
    drift: float


def at_budget(line: Sequence[Point], none: Sequence[float], budget: float) -> AtBudget:
    """The best that a method's curve has within a budget.

    The curve begins at the unsteered model. Between measured strengths, effects go straight, row by row, and so does the drift's square
    root: the divergence of a small step grows with its square. Which strength is best is decided for each row by all other rows, so
    that none is measured at a strength that it has chosen itself; of equal ones, the weakest. (Halves that choose for each other took
    strengths that were best for neither: half of the rows is too few.)

    Args:
        line: the measured points, of the same rows. none: the effect without steering.
    """
    known = [(0.0, 0.0, np.asarray(none, dtype=np.float64))]
    known += sorted(
        ((abs(p.strength), p.mean_drift, np.asarray(p.effect, dtype=np.float64)) for p in line), key=lambda k: k[0]
    )
    within = [k for k in known if k[1] <= budget]
    for (weak, low, before), (strong, high, after) in pairwise(known):
        if not any(p.is_step for p in line) and min(low, high) < budget < max(low, high):
            share = float((np.sqrt(budget) - np.sqrt(low)) / (np.sqrt(high) - np.sqrt(low)))
            within.append((weak + share * (strong - weak), budget, before + share * (after - before)))
    within.sort(key=lambda k: k[0])
    effects = np.stack([effect for _, _, effect in within])
    rows = np.arange(effects.shape[1])
    others = effects.sum(axis=1)[:, None] - effects if len(rows) > 1 else effects
    best = others.round(9).argmax(axis=0)
    found, strengths = effects[best, rows], [within[k][0] for k in best]
    drifts = [within[k][1] for k in best]
    sign = -1 if any(p.strength < 0 for p in line) else 1
    return AtBudget([float(x) for x in found], sign * float(np.mean(strengths)), float(np.mean(drifts)))
