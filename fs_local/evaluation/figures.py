"""A figure with its interval, from one value a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import mannwhitneyu

from fs_local.evaluation.intervals import (
    Interval,
    alike_rows,
    auroc_interval,
    mean_interval,
    paired_shares,
    wilson,
)

Kind = Literal["share", "bounded", "mean"]
"""What a row's value may be: 0 or 1; anything from 0 to 1; any number."""


@dataclass(frozen=True)
class Figure:
    """Mean over rows, and its 95 % interval (`fs_local.evaluation.intervals`).

    low and high are None where all rows agree on a value that may be any number: how far another row could be is then unknown.
    """

    mean: float
    low: float | None
    high: float | None
    rows: int

    def reaching(self, low: float, high: float) -> Figure:
        """The same with an interval that reaches at least so far; one that is unknown becomes known where the two differ."""
        if self.low is None or self.high is None:
            return replace(self, low=low, high=high) if low < high else self
        return replace(self, low=min(self.low, low), high=max(self.high, high))

    def as_dict(self) -> dict[str, float | int | None]:
        low, high = (None if x is None else round(x, 6) for x in (self.low, self.high))
        return {"mean": round(self.mean, 6), "low": low, "high": high, "rows": self.rows}


def figure(values: Sequence[float], kind: Kind = "mean") -> Figure:
    """The figure of a list of values, one a row; at least one."""
    mean, n = float(np.mean(values)), len(values)
    if kind == "share":
        return _figure(mean, n, wilson(round(sum(values)), n))
    return _figure(mean, n, mean_interval(values) or (_known(mean, n, 0, 1) if kind == "bounded" else None))


def gain(ours: Sequence[float], theirs: Sequence[float], kind: Kind = "mean") -> Figure:
    """The figure of the differences, row by row: both were measured on the same rows."""
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    mean, n = float(differences.mean()), len(differences)
    if kind == "share" and {*ours, *theirs} <= {0.0, 1.0}:
        return _figure(mean, n, paired_shares([x == 1 for x in ours], [x == 1 for x in theirs]))
    return _figure(mean, n, mean_interval(differences.tolist()) or (None if kind == "mean" else _known(mean, n, -1, 1)))


def auroc(ir: Sequence[float], general: Sequence[float]) -> Figure:
    """Area under the ROC of scores of IR against general queries."""
    m, n = len(ir), len(general)
    area = float(mannwhitneyu(ir, general, method="asymptotic").statistic) / (m * n)
    return _figure(area, m + n, auroc_interval(area, m, n))


def _figure(mean: float, rows: int, interval: Interval | None) -> Figure:
    low, high = interval or (None, None)
    return Figure(mean, low, high, rows)


def _known(mean: float, n: int, least: float, most: float) -> Interval:
    """Of n rows that agree, with values between two bounds: rows that differ may be as many as 0 of n allows, and as far as they can."""
    share = alike_rows(n)
    return mean - share * (mean - least), mean + share * (most - mean)
