"""One vector for every query: the mean difference (CAA), a principal direction (RepE), and a random direction, their control."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator

from fs_local.arrays import F32
from fs_local.method.folded import constant_experts, open_gate
from fs_local.method.rivals.rows_given import checked, first_direction
from fs_local.method.rows import Rows
from fs_local.method.subspace import mean


class MeanDifference(BaseEstimator):  # type: ignore[misc]
    """CAA: `v = mean(h₊ − h₋)`, one vector for every query and every position (arXiv 2312.06681, section 3).

    Attributes after `fit`: gate_, always open; experts_, the one vector.
    """

    def fit(self, differences: Rows | F32) -> MeanDifference:
        """Fits on differences δ (M, d).

        Raises:
            FitError: no pairs, or values that are not finite.
        """
        delta = checked("differences", differences)
        self.gate_ = open_gate(delta.width)
        self.experts_ = constant_experts(mean(delta).astype(np.float32), delta.width)
        return self


class PrincipalDirection(BaseEstimator):  # type: ignore[misc]
    """RepE: the first principal direction of the differences about zero, which is that of repeng's `pca_center`.

    (repeng's `pca_diff` takes the mean of the differences away first, as sklearn's PCA does.)

    Its sign is the one under which most pairs point along it. repeng leaves the length to the user; here the vector is as long as
    the differences are along it in the mean, so that strengths mean the same as for the other methods.

    Attributes after `fit`: gate_, always open; experts_; direction_, of length 1, (d,).
    """

    def fit(self, differences: Rows | F32) -> PrincipalDirection:
        """As `MeanDifference.fit`."""
        delta = checked("differences", differences)
        direction = first_direction(delta)
        along = delta.each(lambda chunk: chunk @ direction)
        if (along > 0).mean() < 0.5:
            direction, along = -direction, -along
        self.direction_ = direction
        self.gate_ = open_gate(delta.width)
        self.experts_ = constant_experts(abs(along.mean()) * direction, delta.width)
        return self


class RandomDirection(BaseEstimator):  # type: ignore[misc]
    """A direction that knows nothing, as long as CAA's vector: what any push of that length does.

    Args:
        seed: of the direction, uniform on the sphere.

    Attributes after `fit`: gate_, always open; experts_, the one vector.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, differences: Rows | F32) -> RandomDirection:
        """As `MeanDifference.fit`; of the differences, the length of their mean alone counts."""
        delta = checked("differences", differences)
        drawn = np.random.default_rng(self.seed).standard_normal(delta.width)
        vector = np.linalg.norm(mean(delta)) / np.linalg.norm(drawn) * drawn
        self.gate_ = open_gate(delta.width)
        self.experts_ = constant_experts(vector.astype(np.float32), delta.width)
        return self
