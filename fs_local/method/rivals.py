"""The simpler methods that FineSteer is measured against, as estimators that fold into the same gate and experts.

So they save as packs, run through the same runtime, and differ from FineSteer in nothing but their mathematics.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from sklearn.base import BaseEstimator

from fs_local.errors import FitError
from fs_local.method.folded import F32, Gate, constant_experts, cosine_to_condition, linear_experts, open_gate
from fs_local.method.rows import Rows
from fs_local.method.subspace import F64, mean, principal

_THRESHOLDS = 400
"""Thresholds that CAST's grid search tries, at most."""


class MeanDifference(BaseEstimator):  # type: ignore[misc]
    """CAA: `v = mean(h₊ − h₋)`, one vector for every query and every position (arXiv 2312.06681, section 3).

    Attributes after `fit`: gate_, always open; experts_, the one vector.
    """

    def fit(self, differences: Rows | F32) -> MeanDifference:
        """Fits on differences δ (M, d).

        Raises:
            FitError: no pairs, or values that are not finite.
        """
        delta = _checked("differences", differences)
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
        delta = _checked("differences", differences)
        direction = _first_direction(delta)
        along = delta.each(lambda chunk: chunk @ direction)
        if (along > 0).mean() < 0.5:
            direction, along = -direction, -along
        self.direction_ = direction
        self.gate_ = open_gate(delta.width)
        self.experts_ = constant_experts(abs(along.mean()) * direction, delta.width)
        return self


class CosineCondition(BaseEstimator):  # type: ignore[misc]
    """CAST: a behaviour vector, added where a state is similar enough to a condition vector c (arXiv 2409.05907, section 3).

    `sim = cos(h, tanh((c cᵀ / c·c) h))`, of the state of the last prompt token. c is the first principal direction of IR and
    general states, each class centred around the middle between their means; θ and the side on which it is met are those of the
    best F1.

    Attributes after `fit`: gate_ (`cosine_above` or `cosine_below`); f1_, on the queries it was fitted on.
    """

    def fit(self, ir: Rows | F32, general: Rows | F32) -> CosineCondition:
        """Fits on IR states (n, d) and general states (m, d).

        Raises:
            FitError: no queries of either kind, or values that are not finite.
        """
        a, b = _checked("IR states", ir), _checked("general states", general)
        middle = (mean(a) + mean(b)) / 2
        # both weigh the same
        centred = [_shifted(x, middle, 1 / np.sqrt(len(x))) for x in (a, b)]
        condition = _first_direction(Rows.stacked(*centred)).astype(np.float32)
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


class NullSpaceMap(BaseEstimator):  # type: ignore[misc]
    """AlphaSteer: a linear map of the state that gives the refusal direction for IR queries and 0 for general ones.

    `v(h) = h Δ`, `Δ = P D`, `(XᵀX + ρ PᵀP) D = Xᵀ R` with `X = H_m P` (arXiv 2506.07022, section 4). Every row of R is the same r,
    so Δ has rank one, `Δ = w rᵀ`: it is kept as w and r, and nothing is lost.

    Args:
        null_share: share of d that counts as the null space of the general states, by smallest eigenvalues of `H_bᵀ H_b`.
        ridge: ρ.

    Attributes after `fit`: gate_, always open; experts_; weights_, w (d,).
    """

    def __init__(self, null_share: float = 0.6, ridge: float = 10.0) -> None:
        self.null_share = null_share
        self.ridge = ridge

    def fit(self, ir: Rows | F32, general: Rows | F32, direction: F32) -> NullSpaceMap:
        """Fits on IR states (n, d), general states (m, d) and the direction r (d,).

        Raises:
            FitError: no queries of either kind, values that are not finite, or parameters out of range.
        """
        a, b = _checked("IR states", ir), _checked("general states", general)
        _checked("direction", direction[None])
        if not 0 < self.null_share <= 1 or self.ridge <= 0:
            raise FitError("AlphaSteer needs a null-space share above 0 up to 1, and a ridge above 0")
        d = a.width
        _, vectors = eigh(_products(b), overwrite_a=True)  # eigenvalues ascend
        null = vectors[:, : max(1, round(self.null_share * d))]
        # inside the null space P is the identity: the ridge problem in its coordinates
        inside = null.T @ _products(a) @ null
        inside[np.diag_indices_from(inside)] += self.ridge
        w = null @ np.linalg.solve(inside, null.T @ (mean(a) * len(a)))
        self.weights_ = w
        self.gate_ = open_gate(d)
        self.experts_ = linear_experts(w[None], direction[None])
        return self


def _checked(what: str, values: Rows | F32) -> Rows:
    if not len(values):
        raise FitError(f"there are no {what} to fit on")
    rows = Rows.of(values)
    if not rows.all_finite():
        raise FitError(f"the {what} are not finite (NaN or infinite)")
    return rows


def _first_direction(rows: Rows) -> F64:
    """In which rows extend the most from the origin, of length 1, (D,); any where they are all zero."""
    axes = principal(rows, 1, seed=0, centred=False).axes
    direction: F64 = axes[0] if len(axes) else np.eye(1, rows.width)[0]
    return direction


def _shifted(rows: Rows, origin: F64, scale: float) -> Rows:
    return rows.mapped(lambda chunk: scale * (chunk - origin))


def _products(rows: Rows) -> F64:
    """`HᵀH`, (D, D)."""
    found = np.zeros((rows.width, rows.width))
    for _, chunk in rows.chunks():
        found += chunk.T.astype(np.float64) @ chunk
    return found
