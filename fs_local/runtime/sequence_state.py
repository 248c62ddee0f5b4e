"""A sequence's part of the KV cache as bytes, to be put away and to be put back, bit for bit."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fs_local.errors import ModelError
from fs_local.runtime.context import Context
from fs_local.runtime.library import llama

Bytes = NDArray[np.uint8]


def saved(context: Context, seq: int) -> Bytes:
    """What a sequence has in its cells, in their order: uint8, (bytes,)."""
    api = llama()
    data = np.empty(api.llama_state_seq_get_size(context.handle, seq), dtype=np.uint8)
    written = api.llama_state_seq_get_data(context.handle, _pointer(data), data.size, seq)
    return data[:written]


def restore(context: Context, seq: int, data: Bytes) -> None:
    """Puts it into cells that llama.cpp finds as for one batch of these tokens.

    Args:
        seq: an empty sequence.
        data: as `saved` gives it, of a context of the same model and settings.

    Raises:
        ModelError: there are too few free cells; the sequence is then empty.
    """
    if not llama().llama_state_seq_set_data(context.handle, _pointer(data), data.size, seq):
        context.remove(seq)
        raise ModelError("a sequence that was put away has no room in the context any more")


def _pointer(data: Bytes) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
