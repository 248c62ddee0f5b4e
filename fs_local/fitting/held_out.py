"""Which pairs fit, which choose, and which report: a figure is never of the rows that chose what it is about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fs_local.method.group_splits import Numbers, split

CHOOSE, REPORT = 0.2, 0.15
"""Shares of the pairs that settings are tried on, and that the chosen one is measured by."""


@dataclass(frozen=True)
class PairParts:
    """Row numbers of pairs. Near twins are never in two parts.

    Attributes:
        train: what the experts of trials are fitted on.
        choose: what settings are tried on, in an order of no meaning: files are sorted by source.
        report: what the chosen setting is measured by, in such an order; nothing that is shipped has seen them.
    """

    train: Numbers
    choose: Numbers
    report: Numbers

    @property
    def fit(self) -> Numbers:
        """What the experts that are shipped are fitted on: all but those that report."""
        return np.sort(np.concatenate([self.train, self.choose]))


def pair_parts(groups: Numbers, seed: int) -> PairParts:
    """Splits pairs by their groups of near twins, (n,)."""
    left, report = split(groups, seed, REPORT)
    train, choose = split(groups[left], seed, CHOOSE / (1 - REPORT))
    rng = np.random.default_rng(seed)
    return PairParts(left[train], rng.permutation(left[choose]), rng.permutation(report))
