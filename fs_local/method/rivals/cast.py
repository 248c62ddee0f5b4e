"""CAST: a condition on the cosine of the state with a vector."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from fs_local.arrays import F32, F64
from fs_local.method.folded import Gate, cosine_to_condition
from fs_local.method.rivals.rows_given import checked, first_direction, shifted
from fs_local.method.rows import Rows
from fs_local.method.subspace import mean

_THRESHOLDS = 400
"""Thresholds that CAST's grid search tries, at most."""


class CosineCondition(BaseEstimator):  # type: ignore[misc]
    """CAST: a behaviour vector, added where a state is similar enough to a condition vector c (arXiv 2409.05907, section 3).

    `sim = cos(h, tanh((c cᵀ / c·c) h))`. Two vectors are tried: the first principal direction of contrasting pairs, each centred around
    its own middle, as its code does (`pca_pairwise` of github.com/IBM/activation-steering), every IR with every general query being a
    pair; and the difference of their means, since where prompts vary most need not be where the two kinds differ. Which of them, θ, and
    the side on which the condition is met are those of the best F1.

    Attributes after `fit`: gate_ (`cosine_above` or `cosine_below`); f1_, on the queries it was fitted on.
    """

    def fit(self, ir: Rows | F32, general: Rows | F32) -> CosineCondition:
        """Fits on IR states (n, d) and general states (m, d).

        Raises:
            FitError: no queries of either kind, or values that are not finite.
        """
        a, b = checked("IR states", ir), checked("general states", general)
        difference = mean(a) - mean(b)
        # the mean of (a − b)(a − b)ᵀ over all pairs is the sum of both covariances and of the means' difference by itself
        pairs = Rows.stacked(
            *(shifted(x, mean(x), 1 / np.sqrt(len(x))) for x in (a, b)), Rows.of(difference[None].astype(np.float32))
        )
        both = Rows.stacked(a, b)
        labels = np.concatenate([np.ones(len(a), dtype=bool), np.zeros(len(b), dtype=bool)])
        best = (-1.0, 0.0, True, np.zeros(a.width, dtype=np.float32))
        for direction in (first_direction(pairs), difference):
            condition = direction.astype(np.float32)
            similarity = both.each(partial(cosine_to_condition, condition=condition)).astype(np.float64)
            best = max(best, (*_best_threshold(similarity, labels), condition), key=lambda x: x[0])
        self.f1_, threshold, above, condition = best
        self.gate_ = Gate(
            kind="cosine_above" if above else "cosine_below",
            mean=np.zeros(a.width, dtype=np.float32),
            basis=np.empty((0, a.width), dtype=np.float32),
            knots=np.empty(0, dtype=np.float32),
            coef=condition,
            intercept=0.0,
            edge=threshold if above else -threshold,
            decay=1.0,
        )
        return self


def _best_threshold(similarity: F64, labels: NDArray[np.bool_]) -> tuple[float, float, bool]:
    """F1, θ, and whether what lies above θ is meant, of the best. Both (n,)."""
    best = (-1.0, 0.0, True)
    for threshold in np.quantile(similarity, np.linspace(0, 1, min(_THRESHOLDS, len(similarity)))):
        for above in (True, False):
            met = similarity > threshold if above else similarity < threshold
            f1 = 2 * float((met & labels).sum()) / float(met.sum() + labels.sum())
            if f1 > best[0]:
                best = (f1, float(threshold), above)
    return best
