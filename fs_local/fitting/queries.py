"""The queries that a gate is fitted on: the user's own, the background's, and some of both in wraps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fs_local.background import background, wrapped, wraps
from fs_local.examples import Query
from fs_local.fitting.twins import groups_of, twins_of

MAX_IR, MAX_IR_CHARACTERS = 700, 180_000
MAX_KIND, MAX_KIND_CHARACTERS = 100, 20_000
MAX_FILE = 400
"""Of a user's file of general queries. Reading takes most of a fit's time, and grows with all of these."""
FIT_WRAPPED, HELD_OUT_WRAPPED = 72, 48
"""Queries on either side that are put into wraps: to fit on, and to measure by in wraps that no gate has seen."""
WRAPPED = "in wraps"
_WRAPPED_SHARE = 0.15
"""Of a side's short queries that go into wraps to fit on, at most, and as many again to measure by."""
_PLAIN = 300
"""Characters of a query that is not long already."""


@dataclass(frozen=True)
class Part:
    """Queries of one source: a user's file, a kind of the background, or those in wraps."""

    name: str
    queries: Sequence[Query]


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
    unseen_ir: Sequence[Query] = ()
    unseen_general: Sequence[Query] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def all(self) -> list[Query]:
        """Every query, in the order in which states are captured: IR, general, unseen IR, unseen general."""
        parts = [q for side in (self.ir, self.general) for part in side for q in part.queries]
        return [*parts, *self.unseen_ir, *self.unseen_general]


def labels(parts: Sequence[Part]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each row of some parts: the number of its part, and of its group of near twins."""
    of = np.repeat(np.arange(len(parts)), [len(p.queries) for p in parts])
    return of.astype(np.intp), groups_of([q.text for p in parts for q in p.queries])


def gate_queries(
    ir: Sequence[Query],
    general: Mapping[str, Sequence[Query]],
    *,
    with_background: bool = True,
    in_wraps: bool = True,
    seed: int = 0,
) -> GateQueries:
    """Draws what a gate is fitted on.

    Args:
        ir: IR queries.
        general: general queries by kind: a file each.
        with_background: whether the background joins the general queries; what is a near twin of an IR query steps aside.
        in_wraps: whether some queries of both sides go into wraps, as those of people who are refused will.
    """
    rng = np.random.default_rng(seed)
    notes = []
    drawn_ir = _draw(ir, MAX_IR, MAX_IR_CHARACTERS, rng)
    kinds = [
        Part(name, _draw(queries, MAX_FILE, MAX_IR_CHARACTERS, rng)) for name, queries in general.items() if queries
    ]
    if with_background:
        texts = [q.text for q in ir]
        shipped = background()
        everything = [q for queries in shipped.values() for q in queries]
        near = {id(everything[i]) for i, _ in twins_of([q.text for q in everything], texts)}
        for name, queries in shipped.items():
            kept = [q for q in queries if id(q) not in near]
            kinds.append(Part(name, _draw(kept, MAX_KIND, MAX_KIND_CHARACTERS, rng)))
        if near:
            notes.append(f"{len(near)} background queries are near twins of IR queries, and step aside")
    if not (in_wraps and kinds):
        return GateQueries([Part("ir", drawn_ir)], [k for k in kinds if k.queries], notes=tuple(notes))
    sides, unseen_ir = _some_in_wraps([Part("ir", drawn_ir)], rng)
    kinds, unseen_general = _some_in_wraps(kinds, rng)
    return GateQueries(sides, kinds, unseen_ir, unseen_general, tuple(notes))


def _some_in_wraps(parts: Sequence[Part], rng: np.random.Generator) -> tuple[list[Part], list[Query]]:
    """Parts with some of their queries in wraps, as a part of its own, and queries in wraps that no gate is fitted with.

    A query that goes into a wrap leaves its part: no fold, and no figure, has it both plain and wrapped.
    """
    plain = [(i, j) for i, p in enumerate(parts) for j, q in enumerate(p.queries) if len(q.text) <= _PLAIN]
    most = int(_WRAPPED_SHARE * len(plain))
    order = [plain[i] for i in rng.permutation(len(plain))]
    fitted = order[: min(FIT_WRAPPED, most)]
    held_out = order[len(fitted) : len(fitted) + min(HELD_OUT_WRAPPED, most)]
    gone = {*fitted, *held_out}
    left = [Part(p.name, [q for j, q in enumerate(p.queries) if (i, j) not in gone]) for i, p in enumerate(parts)]
    left.append(Part(WRAPPED, wrapped([parts[i].queries[j] for i, j in fitted], wraps("fit"))))
    return [p for p in left if p.queries], wrapped([parts[i].queries[j] for i, j in held_out], wraps("held_out"))


def _draw(queries: Sequence[Query], rows: int, characters: int, rng: np.random.Generator) -> list[Query]:
    """At most so many rows, with at most so many characters together, at random, in their order."""
    order = rng.permutation(len(queries))[:rows]
    sizes = np.cumsum([len(queries[i].text) for i in order])
    n = max(int(np.searchsorted(sizes, characters, side="right")), min(1, len(order)))
    return [queries[i] for i in np.sort(order[:n])]
