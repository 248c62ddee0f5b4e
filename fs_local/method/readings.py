"""Readings of a query: which of its tokens' states a gate takes.

A prompt passes through the graph in parts, block by block. `QueryReader` is shown the rows on their way, keeps what the readings
want of them, and has the gate's state once the last token has passed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fs_local.arrays import F32
from fs_local.errors import FitError

Reading = Literal["last", "user_last", "user_mean", "mean"]
"""`last`: the state of the prompt's last token, as in the paper. `user_last`: of the last token of the user's own text.
`user_mean`: the mean over the tokens of the user's text. `mean`: the mean over all tokens of the prompt, which CAST's condition takes."""


class Span(NamedTuple):
    """Tokens of a prompt from `start` up to `stop`, which is not one of them."""

    start: int
    stop: int


class QueryReader:
    """Collects the readings of one query while the states of its prompt pass by.

    Means are running sums in float64, a row after the other, so that they have the same bits however a prompt is split into parts.

    Args:
        wanted: the readings that are taken after each block.
        n_tokens: of the prompt.
        user: the user's own text among them; not empty.
    """

    def __init__(self, wanted: Mapping[int, Collection[Reading]], n_tokens: int, user: Span) -> None:
        if not 0 <= user.start < user.stop <= n_tokens:
            raise ValueError(f"the user's text can't be tokens {user.start} to {user.stop} of {n_tokens}")
        self._spans: dict[Reading, Span] = {
            "last": Span(n_tokens - 1, n_tokens),
            "user_last": Span(user.stop - 1, user.stop),
            "user_mean": user,
            "mean": Span(0, n_tokens),
        }
        self._wanted = {block: tuple(readings) for block, readings in wanted.items()}
        self._sums: dict[tuple[int, Reading], NDArray[np.float64]] = {}
        self._seen: dict[tuple[int, Reading], int] = {}

    def rows(self, block: int, first: int, count: int) -> Span:
        """Which of the `count` rows of a part, whose first is the prompt's token `first`, are wanted after a block: from the first such
        row to the last. Counted within the part; empty where none is."""
        spans = [self._spans[reading] for reading in self._wanted.get(block, ())]
        within = [(max(s.start, first), min(s.stop, first + count)) for s in spans]
        within = [(start, stop) for start, stop in within if start < stop]
        if not within:
            return Span(0, 0)
        return Span(min(start for start, _ in within) - first, max(stop for _, stop in within) - first)

    def take(self, block: int, rows: F32, first: int) -> None:
        """Takes what is wanted of rows (n, d), the first of which is the prompt's token `first`. Parts come in the prompt's order.

        Raises:
            FitError: a state that is not finite.
        """
        for reading in self._wanted.get(block, ()):
            span, at = self._spans[reading], (block, reading)
            some = rows[max(span.start - first, 0) : max(span.stop - first, 0)].astype(np.float64)
            if not len(some):
                continue
            if not np.isfinite(some).all():
                raise FitError(
                    f"the state after block {block} is not finite (NaN or infinite); the model file may be damaged"
                )
            if at in self._sums:
                some = np.concatenate([self._sums[at][None], some])
                self._seen[at] -= 1
            self._sums[at] = np.add.reduce(some, axis=0)  # row by row: the same bits wherever a part ends
            self._seen[at] = self._seen.get(at, 0) + len(some)

    def is_complete(self, block: int) -> bool:
        """Whether everything that is wanted after a block has passed."""
        return all(
            self._seen.get((block, reading), 0) == self._spans[reading].stop - self._spans[reading].start
            for reading in self._wanted.get(block, ())
        )

    def state(self, block: int, reading: Reading) -> F32:
        """One reading after one block, float32, (d,)."""
        span = self._spans[reading]
        return (self._sums[block, reading] / (span.stop - span.start)).astype(np.float32)

    def gate_state(self, blocks: Sequence[int], readings: Sequence[Reading]) -> F32:
        """What a gate takes, and what experts do, float32, (blocks × readings × d,): the readings of the first block, then those of the
        next."""
        return np.concatenate([self.state(block, reading) for block in blocks for reading in readings])


def mean_of(rows: F32) -> F32:
    """The mean of rows (n, d), float32, (d,), with the bits that `QueryReader` gives."""
    sums: NDArray[np.float64] = np.add.reduce(rows.astype(np.float64), axis=0)
    return (sums / len(rows)).astype(np.float32)


def part_of(user: Span, n_tokens: int) -> Span:
    """What the first `n_tokens` of a prompt hold of the user's text; all of them where they hold nothing of it yet."""
    return Span(user.start, min(user.stop, n_tokens)) if user.start < n_tokens else Span(0, n_tokens)
