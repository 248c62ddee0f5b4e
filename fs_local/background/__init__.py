"""The background: general queries that come with the product, by kind, and wraps that change a query's form. All written for this project.

`KIND.jsonl` holds the queries of a kind; `wraps.jsonl` the texts that go around a query.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fs_local.examples import Query, read_queries, read_rows

_FOLDER = Path(str(importlib.resources.files("fs_local"))) / "background"
_WRAPS = "wraps"
KINDS = tuple(sorted(path.stem for path in _FOLDER.glob("*.jsonl") if path.stem != _WRAPS))

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


def background() -> dict[str, list[Query]]:
    """General queries by kind."""
    return {kind: read_queries(_FOLDER / f"{kind}.jsonl")[0] for kind in KINDS}


def wraps(split: Split) -> list[Wrap]:
    """The wraps that gates are fitted with, or those that none has seen."""
    found = [Wrap(**row) for row, _ in read_rows(_FOLDER / f"{_WRAPS}.jsonl")]
    return [w for w in found if w.split == split]


def wrapped(queries: Sequence[Query], around: Sequence[Wrap]) -> list[Query]:
    """Each query in one of these wraps, which take turns."""
    return [around[i % len(around)].around(q) for i, q in enumerate(queries)]
