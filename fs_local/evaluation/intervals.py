"""95 % intervals that hold where a percentile bootstrap does not: near 0 and 1, and where all rows agree. No llama.cpp in here.

- a share of yes among n rows: Wilson's score interval (Wilson 1927; Newcombe 1998, method 3). 0 of 50 is [0, 0.071].
- a difference of two shares on the same rows: Newcombe's square-and-add with their correlation (Newcombe 1998, paired, method 10).
- a mean: the bias-corrected and accelerated bootstrap (Efron 1987), seeded.
- an AUROC: a score interval on Hanley and McNeil's variance (Newcombe 2006, method 5), the Wilson interval of that figure.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap, norm

Interval = tuple[float, float]
LEVEL = 0.95
_Z = float(norm.ppf((1 + LEVEL) / 2))
_ALIKE = 1e-6
"""Rows that differ by less agree: probabilities of 1e-9 and 1e-12 are both 0 to whoever reads the mean."""
_RESAMPLES, _BATCH = 5000, 100
"""Of the bootstrap; a hundred at a time, so that memory stays flat."""


def wilson(successes: int, n: int) -> Interval:
    """Of a share, `successes` of `n` rows (n ≥ 1), within [0, 1].

    Raises:
        ValueError: no rows, or more successes than rows.
    """
    found = binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def paired_shares(ours: Sequence[bool], theirs: Sequence[bool]) -> Interval:
    """Of the share of `ours` less that of `theirs`, both on the same rows, at least one; within [-1, 1]."""
    n = len(ours)
    both = sum(a and b for a, b in zip(ours, theirs, strict=True))
    a, b = sum(ours), sum(theirs)
    neither = n - a - b + both
    product = a * (n - a) * b * (n - b)
    agreement = float(both * neither - (a - both) * (b - both))
    # continuity: a positive correlation narrows the interval, and is not trusted to the last row
    agreement = max(agreement - n / 2, 0.0) if agreement > 0 else agreement
    phi = agreement / np.sqrt(product) if product else 0.0
    (a_low, a_high), (b_low, b_high) = wilson(a, n), wilson(b, n)
    p, q = a / n, b / n
    below = (p - a_low) ** 2 - 2 * phi * (p - a_low) * (b_high - q) + (b_high - q) ** 2
    above = (a_high - p) ** 2 - 2 * phi * (a_high - p) * (q - b_low) + (q - b_low) ** 2
    return float(p - q - np.sqrt(max(below, 0.0))), float(p - q + np.sqrt(max(above, 0.0)))


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Of a mean over rows; None where all rows agree (or there is one): their spread is then unknown, not 0."""
    rows: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if len(rows) < 2 or np.ptp(rows) <= _ALIKE * max(1.0, float(np.abs(rows).max())):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = bootstrap(
            (rows,),
            np.mean,
            n_resamples=_RESAMPLES,
            batch=_BATCH,
            confidence_level=LEVEL,
            method="BCa",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return (float(found.low), float(found.high)) if np.isfinite([found.low, found.high]).all() else None


def middle(drawn: NDArray[np.float64]) -> Interval:
    """Of a figure that was computed anew for each of many draws of rows: what all but the outermost draws lie in (percentiles)."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def alike_rows(n: int) -> float:
    """Largest share of rows that may yet differ where n rows agreed: the upper end of 0 of n."""
    return wilson(0, n)[1]


def auroc_interval(area: float, m: int, n: int) -> Interval:
    """Of an area under the ROC between m and n rows: all θ whose own standard error reaches the measured area. Within [0, 1]."""
    rows = (m + n) / 2 - 1

    def apart(theta: float) -> float:
        shape = 1 + rows * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return abs(theta - area) - _Z * float(np.sqrt(theta * (1 - theta) * shape / (m * n)))

    inside = min(max(area, 1e-9), 1 - 1e-9)  # at 0 and 1 themselves, no θ is apart from itself
    low = 0.0 if area <= 1e-9 else float(brentq(apart, 1e-12, inside))
    high = 1.0 if area >= 1 - 1e-9 else float(brentq(apart, inside, 1 - 1e-12))
    return low, high
