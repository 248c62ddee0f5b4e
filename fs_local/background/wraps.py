"""Wraps: texts that go around a query and change its form, not what is asked. `wraps.jsonl` has them, all written for this project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fs_local.background import FOLDER, WRAPS
from fs_local.examples import Query, read_rows

Split = Literal["fit", "held_out"]


@dataclass(frozen=True)
class Wrap:
    """A text with a place for a query. split: whether gates are fitted with it, or only measured."""

    name: str
    family: str
    split: Split
    text: str

    def around(self, query: Query) -> Query:
        """The query's own text in this form; the turns before it stay."""
        *before, last = query.messages
        return Query((*before, {**last, "content": self.text.replace("{query}", last["content"])}))


def wraps(split: Split) -> list[Wrap]:
    """The wraps that gates are fitted with, or those that none has seen."""
    found = [Wrap(**row) for row, _ in read_rows(FOLDER / f"{WRAPS}.jsonl")]
    return [w for w in found if w.split == split]


def wrapped(queries: Sequence[Query], around: Sequence[Wrap]) -> list[Query]:
    """Each query in one of these wraps, which take turns."""
    return [around[i % len(around)].around(q) for i, q in enumerate(queries)]
