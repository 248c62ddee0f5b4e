"""The supervised gate (FineSteer's logistic one): where general queries are at hand too, by kind, each with a budget."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from fs_local.arrays import F32, F64
from fs_local.errors import FitError
from fs_local.method.crossfit import CrossFitted, Labelled
from fs_local.method.folded import CLOSED_BELOW
from fs_local.method.gates import SubspaceGate
from fs_local.method.rows import Rows
from fs_local.method.threshold import check_budget, threshold

_OPENERS = 5
_LEAST_RAMP = 0.1
"""Of the general queries' deviation: where most IR queries are closed, a steeper ramp would only make margins that nobody can read."""


@dataclasses.dataclass(frozen=True)
class KindOpening:
    """How a kind of general query fares.

    Attributes:
        n: rows.
        seen: share that opens the gate when other rows of the kind were fitted on.
        unseen: share that opens a gate for which the whole kind was left out, of its fit and of its threshold.
        held: whether the threshold keeps this kind within the budget.
        openers: its rows with the highest scores among those that open the gate when the kind was left out, at most five.
    """

    n: int
    seen: float
    unseen: float
    held: bool
    openers: tuple[int, ...]


class LogisticGate(SubspaceGate):
    """The supervised gate: linear margins between IR and general queries, one a place, averaged, and put through a logistic function.

    At each place a shrunk discriminant is fitted on standardized states (in the first principal directions); its margin has
    deviation 1 over general queries. An average of margins is one linear map of all places, which is what a pack holds.

    The threshold is that of `threshold`, by cross-fitted scores; `kinds_` says which kinds it keeps within their budget.

    It begins to open at the threshold, and is fully open a quarter of the way (in margin) from there to the median IR query. Weights and
    intercept are scaled so that these two points are x = 1/2 and the edge.

    Args:
        rank: r of the subspace, which then only describes.
        budget: share of each kind of general query that may open the gate.
        least_open: share of IR queries that the gate should open for.
        shrinkage: of the discriminants' correlations, at least; the directions over the rows, where that is more. Ledoit and Wolf's estimate of it is 1 here, always: principal directions are hardly
            correlated, and it sees no more than that. With 0.4, IR queries were better told from kinds that had been left out, at all
            numbers of them.
        decay: γ.

    Attributes after `fit`, beside those of all gates (of which `general_score_` is cross-fitted with rows of the kind among the others):
        kinds_: a `KindOpening` for each kind.
        general_unseen_score_: of each general query, by a gate for which its whole kind was left out, (m,).
    """

    kind = "logistic"

    def __init__(
        self,
        rank: int = 4,
        budget: float = 0.02,
        least_open: float = 0.8,
        shrinkage: float = 0.4,
        decay: float = 8.0,
        n_folds: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(rank, decay, n_folds, seed)
        self.budget = budget
        self.least_open = least_open
        self.shrinkage = shrinkage

    def fit(self, ir: Labelled | Rows | F32, general: Labelled | Rows | F32 | None = None) -> LogisticGate:
        """Fits on IR queries (n) and general ones (m), at the same places.

        Raises:
            FitError: as `QuantileGate.fit`, or no general states, or a budget out of range.
        """
        if general is None:
            raise FitError("a logistic gate needs general queries too; give --general, or choose --gate quantile")
        yes, no = (x if isinstance(x, Labelled) else Labelled.of(x) for x in (ir, general))
        for place_ir, place_general in zip(yes.places, no.places, strict=True):
            self._checked(place_ir, place_general)
        if 0.5 / CLOSED_BELOW ** (1 / self.decay) >= 1:
            raise FitError("a logistic gate needs a decay of 5 or more")
        if not 0 < self.budget < 1:
            raise FitError("the general budget must be above 0 and below 1, such as 0.02")
        check_budget(len(no), self.budget)
        scores = CrossFitted(yes, no, self.shrinkage, self.n_folds, self.seed)
        begin, held = threshold(scores.ir, scores.general, no.parts, self.budget, self.least_open)
        unseen = self._describe_kinds(scores, no.parts, begin, held)
        ramp_width = max((float(np.median(scores.ir)) - begin) / 4, _LEAST_RAMP * float(scores.general.std()), 1e-3)
        edge = 0.5 / CLOSED_BELOW ** (1 / self.decay)
        stretch = float(logit(edge) / ramp_width)
        rows = yes.side_by_side
        subspace = self._subspace(rows)
        direction, offset = scores.whole
        gate = dataclasses.replace(
            subspace,
            coef=(stretch * direction).astype(np.float32),
            intercept=float(stretch * (direction @ subspace.mean - offset - begin)),
            edge=edge,
        )
        of_ir, of_general, self.general_unseen_score_ = (
            expit(stretch * (x - begin)).astype(np.float32) for x in (scores.ir, scores.general, unseen)
        )
        self._finish(gate, self._cross_fitted_ratios(rows, yes.groups), of_ir, of_general)
        return self

    def _describe_kinds(self, scores: CrossFitted, kinds: NDArray[np.intp], begin: float, held: set[int]) -> F64:
        """Sets `kinds_`; returns the margin of every general query where its kind was left out, counted from the threshold that was then."""
        margins = np.empty(len(kinds))
        numbers = [int(k) for k in np.unique(kinds)]
        self.kinds_: list[KindOpening] = []
        for k in numbers:
            at = np.flatnonzero(kinds == k)
            without = scores.without_kind[k]
            if len(numbers) > 1:
                others = kinds != k
                then, _ = threshold(without.ir, without.general[others], kinds[others], self.budget, self.least_open)
            else:
                then = begin
            unseen = without.general[at]
            order = at[np.argsort(-unseen, kind="stable")][:_OPENERS]
            openers = tuple(int(i) for i in order if without.general[i] > then)
            self.kinds_.append(
                KindOpening(
                    len(at),
                    float((scores.general[at] > begin).mean()),
                    float((unseen > then).mean()),
                    k in held,
                    openers,
                )
            )
            margins[at] = unseen - then + begin
        return margins
