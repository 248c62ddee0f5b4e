"""DSAS: a logistic strength before any vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from fs_local.arrays import F32
from fs_local.errors import FitError
from fs_local.method.folded import constant_experts, open_gate
from fs_local.method.group_splits import Numbers, alone, folds_of
from fs_local.method.rivals.rows_given import checked
from fs_local.method.rows import Rows
from fs_local.method.subspace import principal

_FOLDS = 5


class LogisticStrength(BaseEstimator):  # type: ignore[misc]
    """DSAS: `h′ = h + λ σ(w·(h − μ) + b) v`, a logistic regression for each steered block before the vector of any method.

    After arXiv 2512.03661 (five components and 0.75 as its reviews at openreview.net quote them): for each block, source states (the mean
    over a text's tokens, here one reading of an IR query) against control states, on their first principal components, which are folded
    into w; a block whose classifier is right for less than 0.75 of them is not steered. Of control texts of many kinds, the first five
    components may tell these from each other, so here the number is chosen, by the same cross-fitted accuracy. There the strength is each
    token's own; a pack has one decision a query, so here it is the query's, for all of its tokens.

    `σ(x) v` is a mixture of two experts, v and nothing, with logits x and 0: it is exact as a pack. A pack decides from the
    state after one block, so a strength a block is a pack a block, used together.

    Args:
        components: numbers of principal components to choose from. least_accuracy: balanced, below which nothing is steered.

    Attributes after `fit`: gate_, always open; experts_; components_; accuracy_, cross-fitted and balanced; weights_, w (d,);
        intercept_, b.
    """

    def __init__(
        self, components: Sequence[int] = (5, 10, 20, 40, 80), least_accuracy: float = 0.75, seed: int = 0
    ) -> None:
        self.components = components
        self.least_accuracy = least_accuracy
        self.seed = seed

    def fit(
        self,
        ir: Rows | F32,
        general: Rows | F32,
        direction: F32,
        ir_groups: Numbers | None = None,
        general_groups: Numbers | None = None,
    ) -> LogisticStrength:
        """Fits on IR states (n, d) and general states (m, d), for a vector (D,) that another method made.

        Args:
            ir_groups, general_groups: of near twins, (n,) and (m,), which no fold tears apart; None where there are none.

        Raises:
            FitError: fewer than five queries of either kind, values that are not finite, or parameters out of range.
        """
        a, b = checked("IR states", ir), checked("general states", general)
        vector = checked("direction", direction[None]).read(np.arange(1))[0]
        if min(len(a), len(b)) < _FOLDS:
            raise FitError(f"DSAS needs at least {_FOLDS} IR and {_FOLDS} general queries; give more")
        if not self.components or min(self.components) < 1:
            raise FitError("DSAS needs one principal component or more")
        both = Rows.stacked(a, b)
        found = principal(both, min(max(self.components), len(both) - 1, both.width), self.seed)
        points = found.coordinates(both) / np.sqrt(found.variance)
        labels = np.concatenate([np.ones(len(a), dtype=bool), np.zeros(len(b), dtype=bool)])
        groups = [alone(len(rows)) if of is None else of for rows, of in ((a, ir_groups), (b, general_groups))]
        folds = PredefinedSplit(np.concatenate([folds_of(of, _FOLDS, self.seed) for of in groups]))
        # the two sets are of one size in the paper: weighed so, whatever the sizes here
        regression = LogisticRegression(class_weight="balanced", max_iter=1000)

        def accuracy(n: int) -> float:
            right = cross_val_predict(regression, points[:, :n], labels, cv=folds) == labels
            return float((right[labels].mean() + right[~labels].mean()) / 2)

        accuracies = {n: accuracy(n) for n in sorted({min(n, len(found.axes)) for n in self.components})}
        self.components_ = max(accuracies, key=lambda n: accuracies[n])
        self.accuracy_ = accuracies[self.components_]
        some = slice(0, self.components_)
        regression.fit(points[:, some], labels)
        self.weights_ = (regression.coef_[0] / np.sqrt(found.variance[some])) @ found.axes[some]
        self.intercept_ = float(regression.intercept_[0])
        steered = vector if self.accuracy_ >= self.least_accuracy else np.zeros_like(vector)
        nothing = np.zeros(both.width)
        self.gate_ = open_gate(both.width)
        self.experts_ = replace(
            constant_experts(steered, both.width),
            prototypes=np.stack([steered, np.zeros_like(steered)]).astype(np.float32),
            center=found.mean.astype(np.float32),
            routing=np.stack([self.weights_, nothing]).astype(np.float32),
            routing_bias=np.array([self.intercept_, 0], dtype=np.float32),
        )
        return self
