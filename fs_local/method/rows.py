"""Matrices that need not fit into memory: read a chunk of rows at a time, from arrays that may be mapped from a file."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fs_local.arrays import F32
from fs_local.errors import FitError

Index = NDArray[np.intp]
_CHUNK_NUMBERS = 1 << 21
"""In a chunk, at most: 8 MB of float32."""


class Rows:
    """A matrix (n, D), of which never more than a chunk is in memory.

    Args:
        read: gives rows by their numbers, (len(numbers), D).
        numbers: of the n rows, for `read`.
        width: D.
    """

    def __init__(self, read: Callable[[Index], NDArray[Any]], numbers: Index, width: int) -> None:
        self._read, self._numbers, self.width = read, numbers, width

    @classmethod
    def of(cls, *parts: NDArray[Any] | Rows) -> Rows:
        """An array, or several side by side: states of several layers as one matrix. An array may be mapped from a file.

        Raises:
            FitError: an array that is no matrix, or arrays of different lengths.
        """
        if len(parts) == 1 and isinstance(parts[0], Rows):
            return parts[0]
        for part in parts:
            if isinstance(part, np.ndarray) and part.ndim != 2:
                raise FitError(f"states must be a matrix with a row for each query; these have shape {part.shape}")
        if len({len(part) for part in parts}) != 1:
            raise FitError(f"these must be rows of the same queries; there are {[len(part) for part in parts]}")
        reads = [part.read if isinstance(part, Rows) else _reader(part) for part in parts]
        if len(reads) == 1:
            read = reads[0]
        else:

            def read(numbers: Index) -> F32:
                return np.concatenate([r(numbers) for r in reads], axis=1)

        return cls(read, np.arange(len(parts[0])), sum(part.shape[1] for part in parts))

    @classmethod
    def stacked(cls, *parts: Rows) -> Rows:
        """The rows of several matrices of one width, one after the other."""
        ends = np.cumsum([len(part) for part in parts])

        def read(numbers: Index) -> F32:
            of = np.searchsorted(ends, numbers, side="right")
            found = [part.read(numbers[of == i] - (ends[i] - len(part))) for i, part in enumerate(parts)]
            rows = np.empty((len(numbers), parts[0].width), dtype=np.result_type(*found))
            for i, some in enumerate(found):
                rows[of == i] = some
            return rows

        return cls(read, np.arange(ends[-1]), parts[0].width)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.width

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, which: slice | Index) -> Rows:
        """Some of the rows; nothing is read yet."""
        return Rows(self._read, self._numbers[which], self.width)

    def mapped(self, change: Callable[[F32], NDArray[Any]]) -> Rows:
        """The same with a function applied to what is read, (rows, D) to (rows, D)."""
        return Rows(lambda numbers: change(self._read(numbers)), self._numbers, self.width)

    def read(self, numbers: Index) -> F32:
        """Rows by their place among these, (len(numbers), D), all at once."""
        return self._read(self._numbers[numbers])

    def chunks(self) -> Iterator[tuple[slice, F32]]:
        """Where each chunk stands, and its rows; one without rows where there are none."""
        step = max(1, _CHUNK_NUMBERS // max(1, self.width))
        for first in range(0, max(1, len(self)), step):
            at = slice(first, min(first + step, len(self)))
            yield at, self._read(self._numbers[at])

    def each(self, f: Callable[[F32], NDArray[Any]]) -> NDArray[Any]:
        """What `f` makes of the rows, (rows, …) for each chunk: (n, …) in all."""
        return np.concatenate([f(chunk) for _, chunk in self.chunks()])

    def all_finite(self) -> bool:
        return all(bool(np.isfinite(chunk).all()) for _, chunk in self.chunks())


def _reader(array: NDArray[Any]) -> Callable[[Index], NDArray[Any]]:
    def read(numbers: Index) -> NDArray[Any]:
        rows = array[numbers]
        release(array)
        return rows

    return read


def release(array: NDArray[Any]) -> None:
    """Lets go of what was read of an array that is mapped from a file: it stays in the system's cache, and no longer counts as this
    process's memory."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and not array.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)  # of a writable copy this would undo changes
