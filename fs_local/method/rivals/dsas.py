"""DSAS: a logistic strength before any vector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from fs_local.arrays import F32
from fs_local.errors import FitError
from fs_local.method.folded import constant_experts, open_gate
from fs_local.method.rivals.rows_given import checked
from fs_local.method.rows import Rows
from fs_local.method.subspace import principal

_FOLDS = 5


class LogisticStrength(BaseEstimator):  # type: ignore[misc]
    """DSAS: `h′ = h + λ σ(w·(h − μ) + b) v`, a logistic regression for each steered block before the vector of any method.

    After arXiv 2512.03661 (five components and 0.75 as its reviews at openreview.net quote them): for each block, source states (the mean over a text's tokens, here one reading of an IR query)
    against control states, on their first five principal components, which are folded into w; a block whose classifier is right for
    less than 0.75 of them is not steered. There the strength is each token's own; a pack has one decision a query, so here it
    is the query's, for all of its tokens.

    `σ(x) v` is a mixture of two experts, v and nothing, with logits x and 0: it is exact as a pack. A pack decides from the
    state after one block, so a strength a block is a pack a block, used together.

    Args:
        components: principal components. least_accuracy: balanced, below which nothing is steered.

    Attributes after `fit`: gate_, always open; experts_; accuracy_, cross-fitted and balanced; weights_, w (d,); intercept_, b.
    """

    def __init__(self, components: int = 5, least_accuracy: float = 0.75, seed: int = 0) -> None:
        self.components = components
        self.least_accuracy = least_accuracy
        self.seed = seed

    def fit(self, ir: Rows | F32, general: Rows | F32, direction: F32) -> LogisticStrength:
        """Fits on IR states (n, d) and general states (m, d), for a vector (D,) that another method made.

        Raises:
            FitError: fewer than five queries of either kind, values that are not finite, or parameters out of range.
        """
        a, b = checked("IR states", ir), checked("general states", general)
        vector = checked("direction", direction[None]).read(np.arange(1))[0]
        if min(len(a), len(b)) < _FOLDS:
            raise FitError(f"DSAS needs at least {_FOLDS} IR and {_FOLDS} general queries; give more")
        if self.components < 1:
            raise FitError("DSAS needs one principal component or more")
        both = Rows.stacked(a, b)
        found = principal(both, min(self.components, len(both) - 1, both.width), self.seed)
        points = found.coordinates(both) / np.sqrt(found.variance)
        labels = np.concatenate([np.ones(len(a), dtype=bool), np.zeros(len(b), dtype=bool)])
        # the two sets are of one size in the paper: weighed so, whatever the sizes here
        regression = LogisticRegression(class_weight="balanced", max_iter=1000)
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=self.seed)
        right = cross_val_predict(regression, points, labels, cv=folds) == labels
        self.accuracy_ = float((right[labels].mean() + right[~labels].mean()) / 2)
        regression.fit(points, labels)
        self.weights_ = (regression.coef_[0] / np.sqrt(found.variance)) @ found.axes
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
