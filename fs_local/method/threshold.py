"""Where a supervised gate begins to open: every kind of general query keeps its budget, and kinds that nobody thought of have some room."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from fs_local.arrays import F64
from fs_local.errors import FitError

_TAIL_COUNT = 0.5
_ROOM, _MOST_CLOSED = 0.4, 0.15
"""The threshold is raised by this share of the way from the worst kind's own limit to the median IR query, but never so far that more than
this share of IR queries is closed. That leaves room for kinds of query that nobody thought of."""
_LEAST_EXPECTED = 0.1
"""General queries beyond the threshold, at least, in expectation: further out, a normal distribution knows nothing."""


def threshold(
    ir: F64, general: F64, kinds: NDArray[np.intp], budget: float, least_open: float
) -> tuple[float, set[int]]:
    """The margin at which the gate begins to open, and the kinds that it keeps within their budget.

    It is where the worst kind keeps its budget. Where that would close the gate for more than `1 - least_open` of the IR queries, the worst
    kinds are let go, one after the other. Where the IR queries allow it, there is some room beyond.

    Args:
        ir, general: margins of both, (n,) and (m,). kinds: the number of each general query's kind, (m,).
        budget: share of each kind that may open the gate.
    """
    of_kind = {int(k): _upper_quantile(general[kinds == k], budget) for k in np.unique(kinds)}
    held = set(of_kind)
    for k in sorted(of_kind, key=lambda k: -of_kind[k])[:-1]:
        if (ir > of_kind[k]).mean() >= least_open:
            break
        held.remove(k)
    worst = max(of_kind[k] for k in held)
    roomy = min(worst + _ROOM * (float(np.median(ir)) - worst), float(np.quantile(ir, _MOST_CLOSED)))
    return max(worst, roomy), held


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
    """The value that `share` of the population exceeds. Where too few values are in that tail to read it off, a normal distribution's,
    unless the values themselves go further."""
    within = float(np.quantile(values, 1 - share))
    if share * len(values) >= _TAIL_COUNT or not values.std():
        return within
    return max(within, float(norm.ppf(1 - share, values.mean(), values.std())))
