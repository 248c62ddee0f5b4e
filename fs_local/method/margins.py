"""Linear margins: shrunk discriminants between IR and general states, each from the moments of the groups that it is fitted on.

A group's moments (count, sum, products) are all that a discriminant needs of its rows, and they add up and subtract. So a gate that
leaves out a kind of query, or a fold of the rows, costs no second look at the states, and cross-fitting in cross-fitting is a matter
of seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from fs_local.arrays import F32, F64

_TINY = 1e-9


@dataclass(frozen=True)
class Moments:
    """Of some rows: how many, their sum (d,), and their products XᵀX (d, d), float64. Rows should be near 0 and of deviation near 1."""

    n: int
    total: F64
    products: F64

    @classmethod
    def of(cls, rows: F32) -> Moments:
        """Of rows (n, d)."""
        return cls(len(rows), rows.sum(axis=0, dtype=np.float64), (rows.T @ rows).astype(np.float64))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.products + other.products)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.n - other.n, self.total - other.total, self.products - other.products)

    @property
    def mean(self) -> F64:
        return self.total / self.n

    @property
    def covariance(self) -> F64:
        return self.products / self.n - np.outer(self.mean, self.mean)


@dataclass(frozen=True)
class Margin:
    """A direction w, float64 (d,), and an offset: `w·h − offset` has mean 0 and deviation 1 over general queries, and grows towards
    IR queries."""

    direction: F64
    offset: float

    def of(self, rows: F32) -> F32:
        """Of rows (n, d), (n,)."""
        return rows @ self.direction.astype(np.float32) - np.float32(self.offset)


def discriminant(ir: Moments, general: Moments, shrinkage: float) -> Margin:
    """Fisher's linear discriminant `Σ⁻¹(m_IR − m_general)`, with the correlations in Σ shrunk towards none (Friedman, Regularized
    Discriminant Analysis, 1989).

    Args:
        shrinkage: from 0 (none) to 1 (each coordinate on its own).
    """
    spread = general.covariance
    covariance = (ir.covariance + spread) / 2
    scale = np.sqrt(np.maximum(np.diag(covariance), 0)) + _TINY
    correlation = (1 - shrinkage) * (covariance / np.outer(scale, scale))
    correlation[np.diag_indices_from(correlation)] += shrinkage + _TINY
    direction: F64 = cho_solve(cho_factor(correlation, overwrite_a=True), (ir.mean - general.mean) / scale) / scale
    direction /= sqrt(max(float(direction @ spread @ direction), 0.0)) + _TINY
    return Margin(direction, float(direction @ general.mean))
