"""AlphaSteer: linear maps that are blind to general queries."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.linalg import eigh
from sklearn.base import BaseEstimator

from fs_local.arrays import F32
from fs_local.errors import FitError
from fs_local.method.folded import linear_experts, open_gate
from fs_local.method.rivals.rows_given import checked, products
from fs_local.method.rows import Rows
from fs_local.method.subspace import mean


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
        a, b = checked("IR states", ir), checked("general states", general)
        checked("direction", direction[None])
        if not 0 < self.null_share <= 1 or self.ridge <= 0:
            raise FitError("AlphaSteer needs a null-space share above 0 up to 1, and a ridge above 0")
        d = a.width
        _, vectors = eigh(products(b), overwrite_a=True)  # eigenvalues ascend
        null = vectors[:, : max(1, round(self.null_share * d))]
        # inside the null space P is the identity: the ridge problem in its coordinates
        inside = null.T @ products(a) @ null
        inside[np.diag_indices_from(inside)] += self.ridge
        w = null @ np.linalg.solve(inside, null.T @ (mean(a) * len(a)))
        self.weights_ = w
        self.gate_ = open_gate(d)
        self.experts_ = linear_experts(w[None], direction[None])
        return self


class NullSpaceMaps(BaseEstimator):  # type: ignore[misc]
    """AlphaSteer as its code has it: a map of its own for each of several blocks, `v_l(h_l) = h_l Δ_l`.

    Its configuration (src/utils/const.py) steers 11 to 15 neighbouring blocks from a sixth to two thirds of the depth, with a null-space
    share of 0.3 to 0.6 for each. As experts they take the states after all of these blocks; every `fs_local` decision is of the unsteered
    model, where AlphaSteer's later blocks read what its earlier ones have changed.

    Args:
        null_share: for all blocks, or by block. ridge: ρ.

    Attributes after `fit`: maps_, block -> `NullSpaceMap`, ascending; gate_, always open; experts_, of the blocks' states side by side,
    (n, blocks × d) to (n, blocks × d).
    """

    def __init__(self, null_share: float | Mapping[int, float] = 0.6, ridge: float = 10.0) -> None:
        self.null_share = null_share
        self.ridge = ridge

    def fit(
        self, ir: Mapping[int, Rows | F32], general: Mapping[int, Rows | F32], directions: Mapping[int, F32]
    ) -> NullSpaceMaps:
        """Fits on states and directions by block, as `NullSpaceMap.fit`.

        Raises:
            FitError: as there; or blocks that are not the same for all three.
        """
        if not ir or ir.keys() != general.keys() or ir.keys() != directions.keys():
            raise FitError(
                "AlphaSteer needs IR states, general states and a direction of the same blocks, at least one"
            )
        shares = self.null_share if isinstance(self.null_share, Mapping) else dict.fromkeys(ir, self.null_share)
        if shares.keys() != ir.keys():
            raise FitError("AlphaSteer's null-space shares must be of the same blocks as its states")
        self.maps_ = {
            block: NullSpaceMap(shares[block], self.ridge).fit(ir[block], general[block], directions[block])
            for block in sorted(ir)
        }
        d = next(iter(directions.values())).shape[0]
        inner = np.zeros((len(ir), len(ir) * d))
        outer = np.zeros_like(inner)
        for i, (block, fitted) in enumerate(self.maps_.items()):
            at = slice(i * d, (i + 1) * d)
            inner[i, at], outer[i, at] = fitted.weights_, directions[block]
        self.gate_ = open_gate(len(ir) * d)
        self.experts_ = linear_experts(inner, outer)
        return self

    def vectors(self, states: Mapping[int, F32]) -> dict[int, F32]:
        """v_l(h_l) by block, (n, d) each, from the states after that block, (n, d)."""
        return {block: fitted.experts_.vector(states[block]) for block, fitted in self.maps_.items()}
