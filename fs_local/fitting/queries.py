"""The queries that a gate is fitted on: the user's own, the background's, and some of both in wraps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fs_local.background import background, wrapped, wraps
from fs_local.examples import Query
from fs_local.fitting.twins import groups_of, twins_of

MAX_IR, MAX_IR_CHARACTERS = 600, 100_000
MAX_KIND, MAX_KIND_CHARACTERS = 100, 20_000
MAX_FILE = 400
"""Of a user's file of general queries. More rows than these gained nothing that could be told from noise, and reading them takes long."""
FIT_WRAPPED, HELD_OUT_WRAPPED = 72, 48
"""Queries on either side that are put into wraps: to fit on, and to measure by in wraps that no gate has seen."""
WRAPPED = "in wraps"


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
        unseen_ir, unseen_general: queries that are among these, in wraps that no gate is fitted with.
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
        aside = 0
        for name, queries in background().items():
            near = {i for i, _ in twins_of([q.text for q in queries], texts)}
            aside += len(near)
            kept = [q for i, q in enumerate(queries) if i not in near]
            kinds.append(Part(name, _draw(kept, MAX_KIND, MAX_KIND_CHARACTERS, rng)))
        if aside:
            notes.append(f"{aside} background queries are near twins of IR queries, and step aside")
    sides = [Part("ir", drawn_ir)]
    unseen_ir: list[Query] = []
    unseen_general: list[Query] = []
    if in_wraps and kinds:
        plain = [
            [q for q in side if len(q.text) <= _PLAIN] for side in (drawn_ir, [q for k in kinds for q in k.queries])
        ]
        for i, some in enumerate(plain):
            chosen = [some[j] for j in rng.permutation(len(some))[: FIT_WRAPPED + HELD_OUT_WRAPPED]]
            fitted = wrapped(chosen[:FIT_WRAPPED], wraps("fit"))
            (sides if i == 0 else kinds).append(Part(WRAPPED, fitted))
            (unseen_ir if i == 0 else unseen_general).extend(wrapped(chosen[FIT_WRAPPED:], wraps("held_out")))
    return GateQueries(sides, [k for k in kinds if k.queries], unseen_ir, unseen_general, tuple(notes))


_PLAIN = 300
"""Characters of a query that is not long already."""


def _draw(queries: Sequence[Query], rows: int, characters: int, rng: np.random.Generator) -> list[Query]:
    """At most so many rows, with at most so many characters together, at random, in their order."""
    order = rng.permutation(len(queries))[:rows]
    sizes = np.cumsum([len(queries[i].text) for i in order])
    n = max(int(np.searchsorted(sizes, characters, side="right")), min(1, len(order)))
    return [queries[i] for i in np.sort(order[:n])]
