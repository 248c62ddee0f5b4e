"""The residual stream in the middle of a decode, to be read and written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fs_local.arrays import F32
from fs_local.errors import ModelError
from fs_local.runtime.library import GGML_TYPE_F32, ggml


class LayerStates:
    """The tensor `l_out-{layer}` in the middle of a decode: one row a token, in the order of the batch.

    In the last block only the rows that have outputs are present. Valid inside the hook alone.
    """

    __slots__ = ("_tensor", "layer", "n_rows", "width")

    def __init__(self, layer: int, tensor: int) -> None:
        g = ggml()
        if g.type_of(tensor) != GGML_TYPE_F32 or not g.is_contiguous(tensor):
            raise ModelError(f"l_out-{layer} is not a contiguous f32 tensor in this llama.cpp; states can't be read")
        self.layer, self._tensor = layer, tensor
        self.n_rows = g.n_rows(tensor)
        self.width = g.n_elements(tensor) // self.n_rows if self.n_rows else 0

    def read(self, first: int = 0, count: int | None = None) -> F32:
        """Copy of `count` rows from row `first` on (all of them by default), float32, (count, width)."""
        count = self.n_rows - first if count is None else count
        self._check(first, count)
        rows = np.empty((count, self.width), dtype=np.float32)
        ggml().tensor_get(self._tensor, rows.ctypes.data, first * self.width * 4, rows.nbytes)
        return rows

    def last(self) -> F32:
        """The last row, float32, (width,)."""
        row: F32 = self.read(self.n_rows - 1, 1)[0]
        return row

    def write(self, rows: F32, first: int = 0) -> None:
        """Replaces rows from row `first` on. `rows`: float32, (n, width)."""
        self._check(first, len(rows))
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        ggml().tensor_set(self._tensor, rows.ctypes.data, first * self.width * 4, rows.nbytes)

    def add(self, vectors: F32, first: int = 0) -> None:
        """Adds a vector (width,), or a row each (n, width), to the rows from row `first` on: what a control vector does, bit for bit."""
        if self.n_rows == 0:  # the last block of a batch without outputs
            return
        rows = self.read(first)
        rows += vectors
        self.write(rows, first)

    def _check(self, first: int, count: int) -> None:
        if first < 0 or count < 0 or first + count > self.n_rows:
            raise IndexError(f"rows {first} to {first + count} of {self.n_rows}")


Hook = Callable[[LayerStates], bool]
"""Called after each wanted block with its states; answers whether the graph should go on."""
