"""Means and principal directions of rows that need not fit into memory: what gates and experts are fitted from.

Small matrices are decomposed exactly, whichever of rows and columns are fewer; past that, by randomized subspace iteration
(Halko, Martinsson and Tropp, arXiv 0909.4061, algorithm 4.4), which reads all rows a few times. Memory does not grow with the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from fs_local.arrays import F64
from fs_local.method.rows import Rows

_EXACT = 640
"""Rows or columns, whichever are fewer, up to which directions are exact."""
_OVERSAMPLING, _ITERATIONS = 24, 5
_NEGLIGIBLE = 1e-10
"""Of the largest variance: a direction with less is rounding."""


@dataclass(frozen=True)
class Subspace:
    """Where rows are, and in what directions they vary most.

    Attributes:
        mean: (D,).
        axes: orthonormal rows by descending variance, (r, D); fewer than asked for where rows vary in fewer directions. The largest
            number of each is positive.
        variance: along each axis, (r,).
    """

    mean: F64
    axes: F64
    variance: F64

    def coordinates(self, rows: Rows) -> F64:
        """Of rows (n, D) on the axes, (n, r)."""
        return rows.each(lambda chunk: (chunk - self.mean) @ self.axes.T)


def mean(rows: Rows) -> F64:
    """Of each column, (D,)."""
    sums = np.zeros(rows.width)
    for _, chunk in rows.chunks():
        sums += chunk.sum(axis=0, dtype=np.float64)
    return sums / len(rows)


def deviation(rows: Rows) -> F64:
    """Standard deviation of each column, (D,)."""
    centre, squares = mean(rows), np.zeros(rows.width)
    for _, chunk in rows.chunks():
        squares += np.square(chunk - centre).sum(axis=0)
    return np.sqrt(squares / len(rows))


def spread(rows: Rows) -> float:
    """The largest range of any column."""
    low, high = np.full(rows.width, np.inf), np.full(rows.width, -np.inf)
    for _, chunk in rows.chunks():
        np.minimum(low, chunk.min(axis=0), out=low)
        np.maximum(high, chunk.max(axis=0), out=high)
    return float((high - low).max())


def group_means(rows: Rows, labels: NDArray[np.int32], k: int) -> F64:
    """Mean of the rows of each label from 0 to k − 1, (k, D)."""
    sums = np.zeros((k, rows.width))
    for at, chunk in rows.chunks():
        sums += (labels[at] == np.arange(k)[:, None]).astype(np.float64) @ chunk
    return sums / np.bincount(labels, minlength=k)[:, None]


def mean_square(rows: Rows, centre: F64 | float = 0.0) -> float:
    """Mean squared distance of rows from a point."""
    return float(rows.each(lambda chunk: np.square(chunk - np.float64(centre)).sum(axis=1)).mean())


def principal(rows: Rows, rank: int, seed: int, *, centred: bool = True) -> Subspace:
    """The first `rank` principal directions. The same rows and seed give the same.

    Args:
        rank: at most as many as rows or columns.
        centred: False to measure from the origin, not from the mean.
    """
    n, d = rows.shape
    centre = mean(rows) if centred else np.zeros(d)
    if min(n, d) <= _EXACT:
        axes, squares = _by_rows(rows, rank, centre) if n < d else _by_columns(rows, rank, centre)
    else:
        axes, squares = _randomized(rows, rank, centre, seed)
    order = np.argsort(-squares, kind="stable")
    order = order[squares[order] > _NEGLIGIBLE * squares.max(initial=0.0)]
    axes, squares = axes[order], squares[order]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return Subspace(centre, axes * np.sign(largest), squares / max(1, n - centred))


def _by_rows(rows: Rows, rank: int, centre: F64) -> tuple[F64, F64]:
    x = rows.read(np.arange(len(rows))) - centre
    squares, left = _leading(x @ x.T, rank)
    lengths = np.sqrt(np.maximum(squares, 1e-300))
    return (left / lengths).T @ x, squares


def _by_columns(rows: Rows, rank: int, centre: F64) -> tuple[F64, F64]:
    products = np.zeros((rows.width, rows.width))
    for _, chunk in rows.chunks():
        x = chunk - centre
        products += x.T @ x
    squares, axes = _leading(products, rank)
    return axes.T, squares


def _leading(products: F64, rank: int) -> tuple[F64, F64]:
    n = len(products)
    if rank == 0:
        return np.empty(0), np.empty((n, 0))
    values, vectors = eigh(products, subset_by_index=(n - rank, n - 1), overwrite_a=True, check_finite=False)
    return values, vectors


def _randomized(rows: Rows, rank: int, centre: F64, seed: int) -> tuple[F64, F64]:
    rng, near = np.random.default_rng(seed), centre.astype(np.float32)
    basis, _ = np.linalg.qr(rng.standard_normal((rows.width, rank + _OVERSAMPLING), dtype=np.float32))
    for _ in range(_ITERATIONS):
        last, image = basis, np.zeros(basis.shape)
        for _, chunk in rows.chunks():
            x = chunk - near
            image += x.T @ (x @ last)
        basis = np.linalg.qr(image)[0].astype(np.float32)
    # Rayleigh and Ritz, in the basis whose image is at hand; the longest first, as QR leaves the first ones as they are
    squares, turn = _leading(last.T @ image, rank)
    axes, _ = np.linalg.qr(image @ turn[:, ::-1])
    return axes.T, squares[::-1]
