"""When to steer: Subspace-guided Conditional Steering (FineSteer, SCS), as estimators over states.

All three of the paper's gates model the IR queries by a mean and principal directions, and differ in what opens them. `F`, and
every figure that is reported, comes from IR queries that the subspace was not fitted on (cross-fitting): in-sample energy
ratios are too high.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.base import BaseEstimator
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.model_selection import KFold

from fs_local.errors import FitError
from fs_local.method.folded import CLOSED_BELOW, F32, Gate, GateKind, empirical_cdf, ramp
from fs_local.method.margins import Margin, Moments, Side, discriminant
from fs_local.method.rows import Rows
from fs_local.method.subspace import deviation, mean, principal

F64 = NDArray[np.float64]
_MAX_KNOTS = 101
_EMPTY = np.empty(0, dtype=np.float32)
_TAIL_COUNT = 0.5
_AXES = 256
_OPENERS = 5
_LEAST_EXPECTED = 0.1
"""General queries beyond the threshold, at least, in expectation: further out, a normal distribution knows nothing."""
MIN_QUERIES = 8


class _SubspaceGate(BaseEstimator):  # type: ignore[misc]
    """What the gates share: a subspace of the IR states, and cross-fitted scores.

    Attributes after `fit`:
        gate_: the folded gate.
        ir_score_: cross-fitted score of each IR query, (n,); ir_opening_: its opening; ir_ratio_: its cross-fitted energy ratio.
        general_score_, general_opening_: of each general query; empty where there were none.
    """

    kind: GateKind

    def __init__(self, rank: int = 8, decay: float = 4.0, n_folds: int = 5, seed: int = 0) -> None:
        self.rank = rank
        self.decay = decay
        self.n_folds = n_folds
        self.seed = seed

    def energy_ratio(self, states: Rows | F32) -> F32:
        """s(h), (n,). states: (n, D)."""
        return Rows.of(states).each(self.gate_.energy_ratio)

    def opening(self, states: Rows | F32) -> F32:
        """g(h), (n,). states: (n, D)."""
        return Rows.of(states).each(self.gate_.opening)

    def _subspace(self, ir: Rows, **parts: Any) -> Gate:
        found = principal(ir, min(self.rank, len(ir) - 1, ir.width), self.seed)
        filled = {"knots": _EMPTY, "coef": _EMPTY, "intercept": 0.0, "edge": 1.0, "decay": self.decay, **parts}
        return Gate(self.kind, found.mean.astype(np.float32), found.axes.astype(np.float32), **filled)

    def _checked(self, ir: Rows | F32, general: Rows | F32 | None) -> tuple[Rows, Rows]:
        """Both as rows."""
        if self.rank < 1 or self.decay <= 0 or self.n_folds < 2:
            raise FitError("a gate needs rank ≥ 1, decay > 0 and at least 2 folds")
        rows = Rows.of(ir)
        given = {"IR": rows} if general is None else {"IR": rows, "general": Rows.of(general)}
        for name, states in given.items():
            if len(states) < MIN_QUERIES:
                raise FitError(
                    f"{len(states)} {name} queries are too few for a gate; give at least {MIN_QUERIES}, better 60 or more"
                )
            if not states.all_finite():
                raise FitError(f"the states of the {name} queries are not finite (NaN or infinite)")
        return rows, given.get("general", rows[:0])

    def _folds(self, n: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        return list(KFold(min(self.n_folds, n), shuffle=True, random_state=self.seed).split(np.empty(n)))

    def _cross_fitted_ratios(self, ir: Rows) -> F32:
        ratios = np.empty(len(ir), dtype=np.float32)
        for fit, held_out in self._folds(len(ir)):
            ratios[held_out] = ir[held_out].each(self._subspace(ir[fit]).energy_ratio)
        return ratios

    def _finish(self, gate: Gate, ir_ratio: F32, ir_score: F32, general_score: F32) -> None:
        self.gate_, self.ir_ratio_ = gate, ir_ratio
        self.ir_score_, self.ir_opening_ = ir_score, ramp(ir_score, gate.edge, gate.decay)
        self.general_score_, self.general_opening_ = general_score, ramp(general_score, gate.edge, gate.decay)


class QuantileGate(_SubspaceGate):
    """The one-class gate: open where F(s) ≥ ε, and below that (F(s)/ε)^γ.

    Args:
        rank: r, principal directions.
        tail: ε, the share of IR queries in the lower tail.
        decay: γ.
        n_folds: for cross-fitting F.
        seed: of the folds and the PCA.
    """

    kind = "quantile"

    def __init__(self, rank: int = 8, tail: float = 0.05, decay: float = 4.0, n_folds: int = 5, seed: int = 0) -> None:
        super().__init__(rank, decay, n_folds, seed)
        self.tail = tail

    def fit(self, ir: Rows | F32, general: Rows | F32 | None = None) -> QuantileGate:
        """Fits on IR states (n, D) alone; general states, if given, are only scored.

        Raises:
            FitError: too few queries, states that are not finite, or parameters out of range.
        """
        ir_rows, general_rows = self._checked(ir, general)
        if not 0 < self.tail < 1:
            raise FitError("the gate's tail must be between 0 and 1")
        ratios = self._cross_fitted_ratios(ir_rows)
        knots = np.quantile(ratios, np.linspace(0, 1, min(_MAX_KNOTS, len(ratios)))).astype(np.float32)
        gate = self._subspace(ir_rows, knots=knots, edge=self.tail)
        self._finish(gate, ratios, empirical_cdf(ratios, knots), general_rows.each(gate.score))
        return self


class SoftGate(_SubspaceGate):
    """The soft gate: the opening is s^γ, by default s itself. Rarely closed: it scales more than it decides."""

    kind = "soft"

    def __init__(self, rank: int = 8, decay: float = 1.0, n_folds: int = 5, seed: int = 0) -> None:
        super().__init__(rank, decay, n_folds, seed)

    def fit(self, ir: Rows | F32, general: Rows | F32 | None = None) -> SoftGate:
        """As `QuantileGate.fit`."""
        ir_rows, general_rows = self._checked(ir, general)
        gate = self._subspace(ir_rows)
        ratios = self._cross_fitted_ratios(ir_rows)
        self._finish(gate, ratios, ratios, general_rows.each(gate.score))
        return self


@dataclasses.dataclass(frozen=True)
class Labelled:
    """States of n queries at each of the places (a block and a reading) that a gate takes, and what their rows have in common.

    Attributes:
        places: (n, d) each.
        parts: a number for each row, (n,): of the kind of a general query, or of the source of an IR query.
        groups: a number for each row, (n,): near twins have the same, and are never apart in cross-fitting.
    """

    places: Sequence[Rows]
    parts: NDArray[np.intp]
    groups: NDArray[np.intp]

    @classmethod
    def of(
        cls, *places: Rows | F32, parts: NDArray[np.intp] | None = None, groups: NDArray[np.intp] | None = None
    ) -> Labelled:
        """Rows of one part and without twins, where nothing else is said."""
        rows = [Rows.of(place) for place in places]
        n = len(rows[0])
        return cls(
            rows,
            np.zeros(n, dtype=np.intp) if parts is None else parts,
            np.arange(n, dtype=np.intp) if groups is None else groups,
        )

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def side_by_side(self) -> Rows:
        """What a gate takes of each query: its places one after the other, (n, places × d)."""
        return Rows.of(*self.places)


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


class LogisticGate(_SubspaceGate):
    """The supervised gate: linear margins between IR and general queries, one a place, averaged, and put through a logistic function.

    At each place a shrunk discriminant is fitted on standardized states (in their first `_AXES` principal directions); its margin has
    deviation 1 over general queries. An average of margins is one linear map of all places, which is what a pack holds.

    The threshold is where the worst kind of general query keeps its budget, by cross-fitted scores. Where that would close the gate for
    more than `1 - least_open` of the IR queries, the worst kinds are let go, one after the other, and `kinds_` says which.

    It begins to open at the threshold, and is fully open a quarter of the way (in margin) from there to the median IR query. Weights and
    intercept are scaled so that these two points are x = 1/2 and the edge.

    Args:
        rank: r of the subspace, which then only describes.
        budget: share of each kind of general query that may open the gate.
        least_open: share of IR queries that the gate should open for.
        shrinkage: of the discriminants' correlations, at least; more where the rows are few.
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
        shrinkage: float = 0.1,
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
        scores = _CrossFitted(yes, no, self.shrinkage, self.n_folds, self.seed)
        begin, held = self._threshold(scores.ir, scores.general, no.parts)
        unseen = self._describe_kinds(scores, no.parts, begin, held)
        ramp_width = max((float(np.median(scores.ir)) - begin) / 4, 1e-3)
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
        self._finish(gate, self._cross_fitted_ratios(rows), of_ir, of_general)
        return self

    def _threshold(self, ir: F64, general: F64, kinds: NDArray[np.intp]) -> tuple[float, set[int]]:
        """The margin at which the gate begins to open, and the kinds that it keeps within their budget."""
        of_kind = {int(k): _upper_quantile(general[kinds == k], self.budget) for k in np.unique(kinds)}
        held = set(of_kind)
        for k in sorted(of_kind, key=lambda k: -of_kind[k])[:-1]:
            if (ir > of_kind[k]).mean() >= self.least_open:
                break
            held.remove(k)
        return max(of_kind[k] for k in held), held

    def _describe_kinds(self, scores: _CrossFitted, kinds: NDArray[np.intp], begin: float, held: set[int]) -> F64:
        """Sets `kinds_`; returns the margin of every general query where its kind was left out, counted from the threshold that was then."""
        margins = np.empty(len(kinds))
        numbers = [int(k) for k in np.unique(kinds)]
        self.kinds_: list[KindOpening] = []
        for k in numbers:
            at = np.flatnonzero(kinds == k)
            without = scores.without_kind[k]
            if len(numbers) > 1:
                others = kinds != k
                threshold, _ = self._threshold(without.ir, without.general[others], kinds[others])
            else:
                threshold = begin
            unseen = without.general[at]
            order = at[np.argsort(-unseen, kind="stable")][:_OPENERS]
            openers = tuple(int(i) for i in order if without.general[i] > threshold)
            self.kinds_.append(
                KindOpening(
                    len(at),
                    float((scores.general[at] > begin).mean()),
                    float((unseen > threshold).mean()),
                    k in held,
                    openers,
                )
            )
            margins[at] = unseen - threshold + begin
        return margins


@dataclasses.dataclass
class _Scores:
    """Margins of IR queries (n,) and general ones (m,)."""

    ir: F64
    general: F64


class _CrossFitted:
    """Averaged margins of every query by discriminants that were fitted without its fold, once with all kinds of general query, and once
    for each kind without it.

    Attributes:
        ir, general: with all kinds, (n,) and (m,).
        without_kind: for each kind, the scores of discriminants that saw nothing of it: its own rows are then of no fold, and those of
            other kinds and of IR queries are cross-fitted as ever.
        whole: the averaged margin of discriminants fitted on everything: its direction (places × d,), and its offset.
    """

    def __init__(self, ir: Labelled, general: Labelled, shrinkage: float, n_folds: int, seed: int) -> None:
        n, m, k = len(ir), len(general), np.unique(general.parts)
        self._folds = folds_of(ir.groups, n_folds, seed), folds_of(general.groups, n_folds, seed)
        self._parts, self._least_shrinkage, self._n_folds, self._seed = (
            (ir.parts, general.parts),
            shrinkage,
            n_folds,
            seed,
        )
        self._all = _Scores(np.zeros(n), np.zeros(m))
        self.without_kind = {int(kind): _Scores(np.zeros(n), np.zeros(m)) for kind in k}
        directions, offset = [], 0.0
        for at_ir, at_general in zip(ir.places, general.places, strict=True):
            margin = self._place(at_ir, at_general, len(ir.places))
            directions.append(margin.direction / len(ir.places))
            offset += margin.offset / len(ir.places)
        self.whole = np.concatenate(directions), offset
        self.ir, self.general = self._all.ir, self._all.general

    def _place(self, ir: Rows, general: Rows, n_places: int) -> Margin:
        """Adds one place's margins to all scores; its margin on the states themselves."""
        states = Rows.stacked(ir, general)
        centre, scale = mean(states).astype(np.float32), (deviation(states) + 1e-6).astype(np.float32)
        standardized = states.mapped(lambda chunk: (chunk - centre) / scale)
        axes = principal(standardized, min(_AXES, *states.shape), self._seed).axes.astype(np.float32)
        features = standardized.each(lambda chunk: chunk @ axes.T)
        rows = features[: len(ir)], features[len(ir) :]
        shrinkage = max(self._least_shrinkage, _shrinkage(*rows))
        cells = [
            {
                int(part): [
                    Moments.of(rows[side][(self._parts[side] == part) & (self._folds[side] == f)])
                    for f in range(self._n_folds)
                ]
                for part in np.unique(self._parts[side])
            }
            for side in (0, 1)
        ]
        totals = [{part: _sum(folds) for part, folds in of.items()} for of in cells]
        whole_ir, whole_general = (Side.of(of.values()) for of in totals)
        # whole kinds without: their own rows, by discriminants of all IR queries
        kinds = list(self.without_kind)
        if len(kinds) > 1:
            for kind in kinds:
                margin = discriminant(whole_ir, whole_general - Side.of([totals[1][kind]]), shrinkage)
                at = self._parts[1] == kind
                self.without_kind[kind].general[at] += margin.of(rows[1][at]) / n_places
        for f in range(self._n_folds):
            left = [{part: total - cells[side][part][f] for part, total in totals[side].items()} for side in (0, 1)]
            side_ir, side_general = (Side.of(of.values()) for of in left)
            out = [self._folds[side] == f for side in (0, 1)]
            margin = discriminant(side_ir, side_general, shrinkage)
            self._all.ir[out[0]] += margin.of(rows[0][out[0]]) / n_places
            self._all.general[out[1]] += margin.of(rows[1][out[1]]) / n_places
            for kind in kinds:
                scores = self.without_kind[kind]
                if len(kinds) > 1:
                    margin = discriminant(side_ir, side_general - Side.of([left[1][kind]]), shrinkage)
                others = out[1] & ((self._parts[1] != kind) | (len(kinds) == 1))
                scores.ir[out[0]] += margin.of(rows[0][out[0]]) / n_places
                scores.general[others] += margin.of(rows[1][others]) / n_places
        found = discriminant(whole_ir, whole_general, shrinkage)
        direction = (found.direction @ axes) / scale
        return Margin(direction, found.offset + float(direction @ centre))


def _shrinkage(ir: F32, general: F32) -> float:
    """Ledoit and Wolf's estimate of how much so few rows want their correlations shrunk. ir: (n, d), general: (m, d)."""
    centred = np.concatenate([ir - ir.mean(axis=0), general - general.mean(axis=0)])
    return float(ledoit_wolf_shrinkage(centred / (centred.std(axis=0) + 1e-6), assume_centered=True))


def _sum(parts: Sequence[Moments]) -> Moments:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def folds_of(groups: NDArray[np.intp], n_folds: int, seed: int) -> NDArray[np.intp]:
    """A fold for each row, (n,): rows of one group share theirs, and folds have about as many rows each."""
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]  # the large ones first, each where there is the most room
    filled = np.zeros(n_folds, dtype=np.intp)
    fold = np.empty(len(names), dtype=np.intp)
    for i in order:
        fold[i] = np.argmin(filled)
        filled[fold[i]] += sizes[i]
    return fold[np.searchsorted(names, groups)]


def check_budget(n_general: int, budget: float) -> None:
    """Refuses a share that so few general queries can't calibrate.

    Raises:
        FitError: saying how many are needed.
    """
    needed = math.ceil(_LEAST_EXPECTED / budget)
    if n_general < needed:
        raise FitError(
            f"{n_general} general queries can't calibrate a budget of {budget:g}; give at least {needed}, or a larger --general-budget"
        )


def _upper_quantile(values: F64, share: float) -> float:
    """The value that `share` of the population exceeds. Where too few values are in that tail to read it off, a normal distribution's,
    unless the values themselves go further."""
    within = float(np.quantile(values, 1 - share))
    if share * len(values) >= _TAIL_COUNT:
        return within
    return max(within, float(norm.ppf(1 - share, values.mean(), values.std())))


def is_open(opening: F32) -> NDArray[np.bool_]:
    """Whether openings let anything through."""
    return opening > 0
