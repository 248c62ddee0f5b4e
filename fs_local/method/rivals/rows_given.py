"""What estimators check and compute of the rows they are given."""

from __future__ import annotations

import numpy as np

from fs_local.arrays import F32, F64
from fs_local.errors import FitError
from fs_local.method.rows import Rows
from fs_local.method.subspace import principal


def checked(what: str, values: Rows | F32) -> Rows:
    """The values as rows.

    Raises:
        FitError: there are none, or some are not finite.
    """
    if not len(values):
        raise FitError(f"there are no {what} to fit on")
    rows = Rows.of(values)
    if not rows.all_finite():
        raise FitError(f"the {what} are not finite (NaN or infinite)")
    return rows


def first_direction(rows: Rows) -> F64:
    """In which rows extend the most from the origin, of length 1, (D,); any where they are all zero."""
    axes = principal(rows, 1, seed=0, centred=False).axes
    direction: F64 = axes[0] if len(axes) else np.eye(1, rows.width)[0]
    return direction


def shifted(rows: Rows, origin: F64, scale: float) -> Rows:
    """Rows measured from an origin, times a scale."""
    return rows.mapped(lambda chunk: scale * (chunk - origin))


def products(rows: Rows) -> F64:
    """`HᵀH`, (D, D)."""
    found = np.zeros((rows.width, rows.width))
    for _, chunk in rows.chunks():
        found += chunk.T.astype(np.float64) @ chunk
    return found
