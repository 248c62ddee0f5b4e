"""AdaSteer: two directions, each with a strength that the state sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator

from fs_local.arrays import F32, F64
from fs_local.errors import FitError
from fs_local.method.folded import Experts, open_gate
from fs_local.method.rivals.rows_given import checked
from fs_local.method.rows import Rows
from fs_local.method.subspace import mean


@dataclass(frozen=True)
class Law:
    """A strength by the state: `clamp(slope · p(h) + offset, low, high)`, with `p(h) = (h − origin)·axis`, (d,) both."""

    origin: F64
    axis: F64
    slope: float
    offset: float
    low: float
    high: float

    def strength(self, states: F32) -> F64:
        """(n,) of states (n, d)."""
        along = (states.astype(np.float64) - self.origin) @ self.axis
        return np.clip(self.slope * along + self.offset, self.low, self.high)


class AdaptiveSteering(BaseEstimator):  # type: ignore[misc]
    """AdaSteer: `h′ = h + λ_r(h) v_r + λ_c(h) v_c` (arXiv 2504.09466; its code, github.com/MuyuenLP/AdaSteer, For_Steering_*_adasteer.py and proj.py).

    With means of the last prompt token's states: `v_r = μ_refused − μ_complied` of IR queries that the model refuses and that it answers
    (the rejection direction), `c = μ_complied − μ_general` (the harmfulness direction, among what it answers), `v_c = (c·v_r / v_r·v_r) v_r`
    its projection. Positions, in lengths of the directions: `p_r(h) = (h − μ_complied)·v_r / v_r·v_r` is 0 at what is answered and 1 at
    what is refused; `p_c(h) = (h − μ_general)·c / c·c` is 0 at general queries and 1 at IR ones. Strengths are lines of these, clamped:
    `λ = clamp(w p(h) + b, low, high)`. λ_r is the greater the further a query is from being refused, λ_c the more negative, towards
    answering, the less harmful it is.

    There w, b and the bounds are set by hand from a few trials a model; here w and b are least squares on the strengths that rows
    want, and the bounds are the least and the most of these. Without strengths from trials, an IR query wants λ_r = 1 if it is answered and
    0 if it is refused, and λ_c = 0; a general one wants λ_c = −1.

    A clamp is a constant and two rectified lines, so that it is exact as experts. AdaSteer reads each law at a block of its own, and steers
    all blocks, in the prompt alone; here both are read at the steered block.

    Attributes after `fit`: gate_, always open; experts_; rejection_, harmfulness_: their `Law`.
    """

    def fit(
        self,
        refused: Rows | F32,
        complied: Rows | F32,
        general: Rows | F32,
        *,
        rejection_wanted: tuple[F64, F64] | None = None,
        harmfulness_wanted: tuple[F64, F64] | None = None,
    ) -> AdaptiveSteering:
        """Fits on states of IR queries that the unsteered model refuses (n, d) and that it answers (m, d), and general states (g, d).

        Args:
            rejection_wanted: λ_r that trials found for each refused and each answered IR query, (n,) and (m,).
            harmfulness_wanted: λ_c for each answered IR query and each general one, (m,) and (g,).

        Raises:
            FitError: no queries of one kind, values that are not finite, strengths that are not one a row, or kinds with one mean.
        """
        a, b = checked("refused IR states", refused), checked("answered IR states", complied)
        g = checked("general states", general)
        rejection, harm = mean(a) - mean(b), mean(b) - mean(g)
        if not rejection.any() or not harm.any():
            raise FitError(
                "AdaSteer needs refused, answered and general queries whose states differ; two kinds have the same mean"
            )
        towards = float(harm @ rejection / (rejection @ rejection))
        self.rejection_ = _law(mean(b), rejection, (a, b), rejection_wanted or (np.zeros(len(a)), np.ones(len(b))))
        self.harmfulness_ = _law(mean(g), harm, (b, g), harmfulness_wanted or (np.zeros(len(b)), -np.ones(len(g))))
        self.gate_ = open_gate(a.width)
        self.experts_ = _experts((self.rejection_, self.harmfulness_), np.stack([rejection, towards * rejection]))
        return self


def _law(origin: F64, direction: F64, kinds: tuple[Rows, Rows], wanted: tuple[F64, F64]) -> Law:
    strengths = np.concatenate(wanted).astype(np.float64)
    if [len(k) for k in kinds] != [len(w) for w in wanted] or not np.isfinite(strengths).all():
        raise FitError("AdaSteer needs a finite strength for each query that a law is fitted on")
    axis = direction / (direction @ direction)
    along = Rows.stacked(*kinds).each(lambda chunk: (chunk - origin) @ axis)
    centred = along - along.mean()
    slope = float(centred @ strengths / (centred @ centred))
    offset = float(strengths.mean() - slope * along.mean())
    return Law(origin, axis, slope, offset, float(strengths.min()), float(strengths.max()))


def _experts(laws: tuple[Law, ...], vectors: F64) -> Experts:
    """`Σ clamp(x_i, low, high) v_i`, as `low + ReLU(x − low) − ReLU(x − high)`. vectors: (laws, d)."""
    f, width = np.float32, vectors.shape[1]
    center = laws[0].origin
    rows, biases = [], []
    for law in laws:
        at_center = law.slope * float((center - law.origin) @ law.axis) + law.offset
        rows += [law.slope * law.axis] * 2
        biases += [at_center - law.low, at_center - law.high]
    return Experts(
        prototypes=np.zeros((1, width), dtype=f),
        center=center.astype(f),
        routing=np.zeros((1, width), dtype=f),
        routing_bias=np.zeros(1, dtype=f),
        hidden=np.stack(rows).astype(f),
        hidden_bias=np.array(biases, dtype=f),
        output=np.kron(np.eye(len(laws)), [1.0, -1.0]).astype(f),
        output_bias=np.array([law.low for law in laws], dtype=f),
        residual=vectors.astype(f),
    )
