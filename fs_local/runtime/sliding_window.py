"""Models whose attention looks back a limited number of tokens, in some of their blocks.

llama.cpp gives a cell that no token can look back to any more to somebody else, in those blocks alone, without a word: a beginning
that others share would lose its states there, and tokens would no longer stand where those of an empty pool do. It spares cells that
two sequences hold. So a second sequence, which nobody evaluates, holds each cell that is about to fall out of the window.
"""

from __future__ import annotations

from typing import Any

from fs_local.runtime.library import llama


class SlidingWindow:
    """The second sequences of one context.

    Args:
        size: tokens that the model looks back, at least one.
        n_seq: number of sequences that are evaluated; the second ones have the numbers from there on.
    """

    def __init__(self, size: int, n_seq: int) -> None:
        self._size, self._n_seq = size, n_seq
        self._held: dict[int, int] = {}

    def has_grown(self, memory: Any, seq: int, length: int) -> None:
        """To be called after each evaluation. length: tokens that the sequence has now."""
        held = self._held.get(seq, 0)
        # some windows slide, some are chunks
        if length - held >= self._size or length // self._size != held // self._size:
            llama().llama_memory_seq_cp(memory, seq, seq + self._n_seq, held, length)
            self._held[seq] = length

    def was_cut(self, memory: Any, seq: int, start: int) -> None:
        """To be called after a sequence was cut at a position."""
        if self._held.get(seq, 0) > start:
            llama().llama_memory_seq_rm(memory, seq + self._n_seq, start, -1)
            self._held[seq] = start

    def was_cleared(self) -> None:
        """To be called after all sequences were removed."""
        self._held.clear()
