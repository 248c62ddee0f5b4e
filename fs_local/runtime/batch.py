"""The rows of one decode: what `llama_batch` points to, as numpy arrays that are filled without a loop."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from fs_local.runtime.library import llama


class Batch:
    """Up to `size` tokens, each at its position in one or more of `n_seq` sequences.

    Attributes:
        struct: `llama_batch`, to be passed to llama.cpp.
    """

    def __init__(self, size: int, n_seq: int) -> None:
        self._tokens = np.zeros(size, dtype=np.int32)
        self._positions = np.zeros(size, dtype=np.int32)
        self._n_seq_ids = np.ones(size, dtype=np.int32)
        self._seq_ids = np.zeros((size, n_seq), dtype=np.int32)
        self._outputs = np.zeros(size, dtype=np.int8)
        self._pointers = self._seq_ids.ctypes.data + self._seq_ids.strides[0] * np.arange(size + 1, dtype=np.uintp)
        self._pointers[size] = 0  # llama.cpp's own batches end so

        def pointer(array: np.ndarray[Any, Any], kind: Any) -> Any:
            return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))

        batch = self.struct = llama().llama_batch()
        batch.token, batch.pos = pointer(self._tokens, ctypes.c_int32), pointer(self._positions, ctypes.c_int32)
        batch.n_seq_id = pointer(self._n_seq_ids, ctypes.c_int32)
        batch.seq_id = pointer(self._pointers, ctypes.POINTER(ctypes.c_int32))
        batch.logits = pointer(self._outputs, ctypes.c_int8)

    def one_sequence(self, tokens: Sequence[int], start: int, seq: int, output: bool) -> None:
        """Consecutive tokens of one sequence; whether the last gets logits."""
        n = self._resize(tokens)
        self._tokens[:n] = tokens
        self._positions[:n] = np.arange(start, start + n)
        self._n_seq_ids[:n] = 1
        self._seq_ids[:n, 0] = seq
        self._outputs[:n] = False
        self._outputs[n - 1] = output

    def one_each(self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]) -> None:
        """One token of each of some sequences, all with logits."""
        n = self._resize(tokens)
        if n == 1:  # by far the most frequent, and quicker so
            self._tokens[0], self._positions[0], self._seq_ids[0, 0] = tokens[0], positions[0], sequences[0]
            self._n_seq_ids[0] = self._outputs[0] = 1
            return
        self._tokens[:n], self._positions[:n], self._seq_ids[:n, 0] = tokens, positions, sequences
        self._n_seq_ids[:n] = self._outputs[:n] = 1

    def any(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[Sequence[int]],
        outputs: Sequence[bool],
    ) -> None:
        """Tokens, each in its sequences."""
        n = self._resize(tokens)
        self._tokens[:n], self._positions[:n], self._outputs[:n] = tokens, positions, outputs
        for i, of in enumerate(sequences):
            self._n_seq_ids[i] = len(of)
            self._seq_ids[i, : len(of)] = of

    def _resize(self, tokens: Sequence[int]) -> int:
        """How many tokens there are. Raises ValueError for none, or too many."""
        n = self.struct.n_tokens = len(tokens)
        if not 0 < n <= len(self._tokens):
            raise ValueError(f"{n} tokens in one decode; 1 to {len(self._tokens)} fit")
        return n
