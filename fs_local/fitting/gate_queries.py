"""The queries that a gate is fitted on: the user's own, the background's, and some of both in wraps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fs_local.background import background
from fs_local.background.wraps import wrapped, wraps
from fs_local.examples import Query
from fs_local.fitting.near_twins import groups_of, twins_of

MAX_IR, MAX_IR_CHARACTERS = 500, 130_000
MAX_FILE = 300
"""Of a user's file of general queries. Reading takes most of a fit's time, and grows with all of these."""
MAX_KIND, MAX_KIND_CHARACTERS = 45, 6_000
MAX_NEAR_KIND, MAX_NEAR_CHARACTERS = 120, 14_000
"""Queries that are drawn of a kind of the background at most, and characters in them all; the second pair is for borderline kinds, which lie
nearest to what is refused."""
FIT_WRAPPED, HELD_OUT_WRAPPED = 72, 36
"""Queries on either side that are put into wraps: to fit on, and to measure by in wraps that no gate has seen."""
WRAPPED = "in wraps"
_NEAR = "borderline"
_WRAPPED_SHARE = 0.15
"""Of a side's short queries that go into wraps to fit on, at most, and as many again to measure by."""
_FEWEST_FOR_WRAPS = 60
"""IR queries: fewer are all needed as they are."""
_PLAIN = 300
"""Characters of a query that is not long already."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Queries whose states are captured together, in this order: that of their texts, since what begins alike is read once.

    Attributes:
        shipped: whether they are the background's, and so the same for all fits.
    """

    queries: Sequence[Query]
    shipped: bool = False


@dataclass(frozen=True)
class Part:
    """Queries of one source: a user's file, a kind of the background, or those in wraps. rows: theirs in the pool."""

    name: str
    pool: Pool
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def queries(self) -> list[Query]:
        return [self.pool.queries[i] for i in self.rows]


@dataclass(frozen=True)
class GateQueries:
    """What a gate is fitted on and measured by.

    Attributes:
        ir, general: the parts of either side; a general part is a kind, which has a budget of its own.
        unseen_ir, unseen_general: queries that are not among these, in wraps that no gate is fitted with.
        notes: what a person should know of the files.
    """

    ir: Sequence[Part]
    general: Sequence[Part]
    unseen_ir: Sequence[Part] = ()
    unseen_general: Sequence[Part] = ()
    notes: Sequence[str] = ()

    @property
    def pools(self) -> list[Pool]:
        """What is to be captured: the background first, which is the same for all fits of a model, and kept."""
        parts = [*self.general, *self.unseen_general, *self.ir, *self.unseen_ir]
        pools = {id(p.pool): p.pool for p in parts if len(p)}.values()
        return sorted(pools, key=lambda p: not p.shipped)


def labels(parts: Sequence[Part]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each row of some parts: the number of its part, and of its group of near twins."""
    of = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    return of.astype(np.intp), groups_of([q.text for p in parts for q in p.queries])


def gate_queries(
    ir: Sequence[Query],
    general: Mapping[str, Sequence[Query]],
    *,
    with_background: bool = True,
    in_wraps: bool = True,
    share: float = 1.0,
    seed: int = 0,
) -> GateQueries:
    """Draws what a gate is fitted on.

    Args:
        ir: IR queries.
        general: general queries by kind: a file each.
        with_background: whether the background joins the general queries; what is a near twin of an IR query steps aside.
        in_wraps: whether some queries of both sides go into wraps, as those of people who are refused will; not where there are few.
    """
    rng = np.random.default_rng(seed)
    sides = (
        {"ir": _draw(ir, MAX_IR, MAX_IR_CHARACTERS, rng)},
        {name: _draw(queries, MAX_FILE, MAX_IR_CHARACTERS, rng) for name, queries in general.items() if queries},
    )
    in_wraps = in_wraps and bool(sides[1] or with_background) and len(ir) >= _FEWEST_FOR_WRAPS
    unseen: list[list[Query]] = [[], []]
    for i, side in enumerate(sides):
        if in_wraps and side and (i == 0 or not with_background):
            side[WRAPPED], unseen[i] = _some_in_wraps(side, share, rng)
    named = [(name, queries) for side in sides for name, queries in side.items()]
    *parts, unseen_ir, unseen_general = _pooled([*named, (WRAPPED, unseen[0]), (WRAPPED, unseen[1])])
    own_ir, kinds = parts[: len(sides[0])], parts[len(sides[0]) :]
    notes = []
    if with_background:
        own_background = shipped(share)
        near = own_background.near([q.text for q in ir])
        kinds += [_without(part, near) for part in own_background.kinds]
        if in_wraps:
            kinds.append(_without(own_background.wrapped, near))
            unseen_general = _without(own_background.unseen, near)
        if near:
            notes.append(f"{len(near)} background queries are near twins of IR queries, and step aside")
    return GateQueries(
        own_ir,
        [k for k in kinds if len(k)],
        [unseen_ir] if len(unseen_ir) else [],
        [unseen_general] if len(unseen_general) else [],
        tuple(notes),
    )


@dataclass(frozen=True)
class Shipped:
    """The part of the background that is read: always the same, so that a model reads it once.

    Attributes:
        inner: of each query in wraps, by its row in their pool: the query's own text.
    """

    kinds: Sequence[Part]
    wrapped: Part
    unseen: Part
    inner: Sequence[str]

    def near(self, texts: Sequence[str]) -> set[tuple[int, int]]:
        """The pool (by id) and row of each query that is a near twin of one of these."""
        plain, in_wraps = self.kinds[0].pool, self.wrapped.pool
        at = [(id(plain), i) for i in range(len(plain.queries))] + [(id(in_wraps), i) for i in range(len(self.inner))]
        return {at[i] for i, _ in twins_of([*(q.text for q in plain.queries), *self.inner], texts)}


@cache
def shipped(share: float = 1.0) -> Shipped:
    """The part of the background that is read; share: of the usual numbers."""
    rng = np.random.default_rng(0)
    drawn = {
        kind: _draw(queries, share * MAX_NEAR_KIND, share * MAX_NEAR_CHARACTERS, rng)
        if kind.startswith(_NEAR)
        else _draw(queries, share * MAX_KIND, share * MAX_KIND_CHARACTERS, rng)
        for kind, queries in background().items()
    }
    common = {kind: queries for kind, queries in drawn.items() if not kind.startswith(_NEAR)}
    fitted, held_out = _taken_for_wraps(
        common, share, rng
    )  # in a wrap, what is borderline could not be told from what is not
    drawn |= common
    in_wraps = [(WRAPPED, wrapped(fitted, wraps("fit"))), (WRAPPED, wrapped(held_out, wraps("held_out")))]
    kinds = _pooled(list(drawn.items()), shipped=True)
    to_fit, unseen = _pooled(in_wraps, shipped=True)
    inner = [""] * (len(to_fit) + len(unseen))
    for part, queries in ((to_fit, fitted), (unseen, held_out)):
        for row, q in zip(part.rows, queries, strict=True):
            inner[row] = q.text
    return Shipped(kinds, to_fit, unseen, inner)


def _pooled(named: Sequence[tuple[str, Sequence[Query]]], shipped: bool = False) -> list[Part]:
    """Parts of one pool."""
    queries = [q for _, some in named for q in some]
    order = sorted(range(len(queries)), key=lambda i: [m["content"] for m in queries[i].messages])
    rank = np.empty(len(queries), dtype=np.intp)
    rank[order] = np.arange(len(queries))
    pool, ends = Pool([queries[i] for i in order], shipped), np.cumsum([len(some) for _, some in named])
    return [Part(name, pool, rank[end - len(some) : end]) for (name, some), end in zip(named, ends, strict=True)]


def _without(part: Part, rows: set[tuple[int, int]]) -> Part:
    kept = [row for row in part.rows if (id(part.pool), int(row)) not in rows]
    return Part(part.name, part.pool, np.array(kept, dtype=np.intp))


def _some_in_wraps(
    parts: dict[str, list[Query]], share: float, rng: np.random.Generator
) -> tuple[list[Query], list[Query]]:
    """Queries in wraps to fit on, and others in wraps that no gate is fitted with; both are taken out of their parts."""
    fitted, held_out = _taken_for_wraps(parts, share, rng)
    return wrapped(fitted, wraps("fit")), wrapped(held_out, wraps("held_out"))


def _taken_for_wraps(
    parts: dict[str, list[Query]], share: float, rng: np.random.Generator
) -> tuple[list[Query], list[Query]]:
    """Takes out queries that go into wraps, to fit on and to measure by: no fold, and no figure, has one both plain and wrapped."""
    plain = [(name, j) for name, queries in parts.items() for j, q in enumerate(queries) if len(q.text) <= _PLAIN]
    to_fit, to_measure = (int(min(share * n, _WRAPPED_SHARE * len(plain))) for n in (FIT_WRAPPED, HELD_OUT_WRAPPED))
    order = [plain[i] for i in rng.permutation(len(plain))]
    fitted, held_out = order[:to_fit], order[to_fit : to_fit + to_measure]
    taken = [parts[name][j] for name, j in fitted], [parts[name][j] for name, j in held_out]
    gone = {*fitted, *held_out}
    for name, queries in parts.items():
        parts[name] = [q for j, q in enumerate(queries) if (name, j) not in gone]
    return taken


def _draw(queries: Sequence[Query], rows: float, characters: float, rng: np.random.Generator) -> list[Query]:
    """At most so many rows, with at most so many characters together, at random, in their order."""
    order = rng.permutation(len(queries))[: int(rows)]
    sizes = np.cumsum([len(queries[i].text) for i in order])
    n = max(int(np.searchsorted(sizes, characters, side="right")), min(1, len(order)))
    return [queries[i] for i in np.sort(order[:n])]
