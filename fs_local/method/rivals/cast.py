"""CAST: a condition on the cosine of the state with a vector."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator

from fs_local.arrays import F32
from fs_local.method.folded import Gate, cosine_to_condition
from fs_local.method.rivals.rows_given import checked, first_direction, shifted
from fs_local.method.rows import Rows
from fs_local.method.subspace import mean

_THRESHOLDS = 400
"""Thresholds that CAST's grid search tries, at most."""


class CosineCondition(BaseEstimator):  # type: ignore[misc]
    """CAST: a behaviour vector, added where a state is similar enough to a condition vector c (arXiv 2409.05907, section 3).

    `sim = cos(h, tanh((c cᵀ / c·c) h))`, of the mean over the prompt's positions (`mean`, the default of its code,
    github.com/IBM/activation-steering, leash_layer.py) or of its last one: whichever reading the fitted states are of. c is the first principal direction of IR and
    general states, each class centred around the middle between their means; θ and the side on which it is met are those of the
    best F1.

    Attributes after `fit`: gate_ (`cosine_above` or `cosine_below`); f1_, on the queries it was fitted on.
    """

    def fit(self, ir: Rows | F32, general: Rows | F32) -> CosineCondition:
        """Fits on IR states (n, d) and general states (m, d).

        Raises:
            FitError: no queries of either kind, or values that are not finite.
        """
        a, b = checked("IR states", ir), checked("general states", general)
        middle = (mean(a) + mean(b)) / 2
        # both weigh the same
        centred = [shifted(x, middle, 1 / np.sqrt(len(x))) for x in (a, b)]
        condition = first_direction(Rows.stacked(*centred)).astype(np.float32)
        similarity = Rows.stacked(a, b).each(lambda chunk: cosine_to_condition(chunk, condition)).astype(np.float64)
        labels = np.concatenate([np.ones(len(a), dtype=bool), np.zeros(len(b), dtype=bool)])
        best = (-1.0, 0.0, True)
        for threshold in np.quantile(similarity, np.linspace(0, 1, min(_THRESHOLDS, len(similarity)))):
            for above in (True, False):
                met = similarity > threshold if above else similarity < threshold
                f1 = 2 * float((met & labels).sum()) / float(met.sum() + labels.sum())
                if f1 > best[0]:
                    best = (f1, float(threshold), above)
        self.f1_, threshold, above = best
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
