"""A ridge map in place of the mixture: what linear regression makes of the same pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.linalg import eigh
from sklearn.base import BaseEstimator
from sklearn.utils.extmath import randomized_svd

from fs_local.arrays import F32, F64
from fs_local.errors import FitError
from fs_local.method.folded import linear_experts, open_gate
from fs_local.method.rivals.rows_given import checked
from fs_local.method.rows import Rows
from fs_local.method.subspace import mean, mean_square

_PENALTIES = 10.0 ** np.arange(-4, 5)
"""Of the mean eigenvalue of the states' products: what ρ is chosen from where it is not given."""


class RidgeMap(BaseEstimator):  # type: ignore[misc]
    """`v(h) = δ̄ + (h − h̄) B`, B of least `Σ‖δᵢ − v(hᵢ)‖² + ρ‖B‖²`, cut to a rank.

    ρ is that of the least generalized cross-validation error `n·RSS / (n − df)²`, `df = 1 + Σ sⱼ/(sⱼ + ρ)` with s the eigenvalues of
    the centred states' products (Golub, Heath and Wahba 1979). The rank is cut by projecting on the first right singular vectors of the
    fitted values, penalty included, which is the best map of that rank under the same objective (Mukherjee and Zhu 2011).

    Args:
        rank: at most.
        penalty: ρ; None to choose it.

    Attributes after `fit`: gate_, always open; experts_; penalty_, ρ.
    """

    def __init__(self, rank: int = 16, penalty: float | None = None) -> None:
        self.rank = rank
        self.penalty = penalty

    def fit(self, states: Rows | F32, differences: Rows | F32) -> RidgeMap:
        """Fits on query states h (M, d) and differences δ (M, D), rows of the same pairs.

        Raises:
            FitError: no pairs, values that are not finite, or parameters out of range.
        """
        h, delta = checked("states", states), checked("differences", differences)
        if len(h) != len(delta):
            raise FitError(f"states {h.shape} and differences {delta.shape} must be rows of the same pairs")
        if self.rank < 1 or (self.penalty is not None and self.penalty <= 0):
            raise FitError("a ridge map needs a rank of 1 or more, and a penalty above 0")
        h_mean, delta_mean = mean(h), mean(delta)
        values, axes, cross = self._normal_equations(h, delta, h_mean, delta_mean)
        total = mean_square(delta, delta_mean) * len(delta)
        self.penalty_ = self._penalty(values, cross, total, len(h)) if self.penalty is None else self.penalty
        shrunk = cross / (values + self.penalty_)[:, None]  # B, in the coordinates of the axes
        fitted = np.sqrt(values + self.penalty_)[:, None] * shrunk
        _, _, right = randomized_svd(fitted, min(self.rank, *fitted.shape), random_state=0)
        self.gate_ = open_gate(h.width)
        self.experts_ = replace(
            linear_experts((axes @ shrunk @ right.T).T, right),
            prototypes=delta_mean.astype(np.float32)[None],
            center=h_mean.astype(np.float32),
        )
        return self

    @staticmethod
    def _normal_equations(h: Rows, delta: Rows, h_mean: F64, delta_mean: F64) -> tuple[F64, F64, F64]:
        """Eigenvalues (d,) and axes (d, d) of the centred states' products, and their products with the differences, (d, D), on these axes."""
        among, cross = np.zeros((h.width, h.width)), np.zeros((h.width, delta.width))
        for at, chunk in h.chunks():
            x = chunk - h_mean
            among += x.T @ x
            cross += x.T @ (delta.read(np.arange(at.start, at.stop)) - delta_mean)
        values, axes = eigh(among, overwrite_a=True)
        return np.maximum(values, 0), axes, axes.T @ cross

    @staticmethod
    def _penalty(values: F64, cross: F64, total: float, n: int) -> float:
        explained = np.square(cross).sum(axis=1)
        scale = float(values.mean()) or 1.0

        def error(penalty: float) -> float:
            kept = values + penalty
            left = total - float((explained * (2 / kept - values / kept**2)).sum())
            free = n - 1 - float((values / kept).sum())
            return n * max(left, 0.0) / free**2 if free > 1e-6 * n else np.inf

        return float(min((scale * p for p in _PENALTIES), key=error))
