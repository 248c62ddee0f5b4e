"""Cross-fitting a supervised gate: margins of queries by discriminants that saw neither them nor their near twins, and, of general ones,
also by discriminants that saw nothing of their whole kind."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fs_local.arrays import F32, F64
from fs_local.method.group_splits import folds_of
from fs_local.method.margins import Margin, Moments, discriminant
from fs_local.method.rows import Rows
from fs_local.method.subspace import deviation, mean, principal

_AXES = 256
"""Principal directions of the standardized states that a discriminant is fitted in."""


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

    def __getitem__(self, which: NDArray[np.bool_]) -> Labelled:
        """Some of the queries. which: (n,)."""
        some = np.flatnonzero(which)
        return Labelled([place[some] for place in self.places], self.parts[some], self.groups[some])

    @property
    def side_by_side(self) -> Rows:
        """What a gate takes of each query: its places one after the other, (n, places × d)."""
        return Rows.of(*self.places)


@dataclasses.dataclass
class Scores:
    """Margins of IR queries (n,) and general ones (m,)."""

    ir: F64
    general: F64


class CrossFitted:
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
        self._parts, self._least_shrinkage = (ir.parts, general.parts), shrinkage
        self._n_folds, self._seed = n_folds, seed
        self._all = Scores(np.zeros(n), np.zeros(m))
        self.without_kind = {int(kind): Scores(np.zeros(n), np.zeros(m)) for kind in k}
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
        shrinkage = max(self._least_shrinkage, min(1.0, len(axes) / len(features)))
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
        whole_ir, whole_general = (_sum(of.values()) for of in totals)
        # whole kinds without: their own rows, by discriminants of all IR queries
        kinds = list(self.without_kind)
        if len(kinds) > 1:
            for kind in kinds:
                margin = discriminant(whole_ir, whole_general - totals[1][kind], shrinkage)
                at = self._parts[1] == kind
                self.without_kind[kind].general[at] += margin.of(rows[1][at]) / n_places
        for f in range(self._n_folds):
            left = [{part: total - cells[side][part][f] for part, total in totals[side].items()} for side in (0, 1)]
            side_ir, side_general = (_sum(of.values()) for of in left)
            out = [self._folds[side] == f for side in (0, 1)]
            margin = discriminant(side_ir, side_general, shrinkage)
            self._all.ir[out[0]] += margin.of(rows[0][out[0]]) / n_places
            self._all.general[out[1]] += margin.of(rows[1][out[1]]) / n_places
            for kind in kinds:
                scores = self.without_kind[kind]
                if len(kinds) > 1:
                    margin = discriminant(side_ir, side_general - left[1][kind], shrinkage)
                others = out[1] & ((self._parts[1] != kind) | (len(kinds) == 1))
                scores.ir[out[0]] += margin.of(rows[0][out[0]]) / n_places
                scores.general[others] += margin.of(rows[1][others]) / n_places
        found = discriminant(whole_ir, whole_general, shrinkage)
        direction = (found.direction @ axes) / scale
        return Margin(direction, found.offset + float(direction @ centre))


def _sum(parts: Iterable[Moments]) -> Moments:
    return functools.reduce(operator.add, parts)
