"""A sequence's part of the KV cache as bytes, to be put away and to be put back, bit for bit."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fs_local.errors import ModelError
from fs_local.runtime.context import Context
from fs_local.runtime.library import llama


@dataclass(frozen=True)
class SavedState:
    """Some consecutive tokens of a sequence: the positions of the first and behind the last, and their bytes."""

    start: int
    stop: int
    state: NDArray[np.uint8]


def saved(context: Context, seq: int, n: int, spare: int) -> list[SavedState]:
    """What a sequence has in its cells for its first `n` tokens, in the order of cells.

    Of a sequence longer than a model's window, llama.cpp would leave out what the end no longer looks back to. So it is saved in pieces.

    Args:
        spare: an empty sequence, empty again afterwards.
    """
    size = max(1, context.model.window - 1) if context.model.window else n
    return [_saved(context, seq, start, min(start + size, n), spare) for start in range(0, n, size)]


def _saved(context: Context, seq: int, start: int, stop: int, spare: int) -> SavedState:
    api, call = llama(), context.model.call
    context.copy(seq, spare, stop, start)
    data = np.empty(call(api.llama_state_seq_get_size, context.handle, spare), dtype=np.uint8)
    written: int = call(api.llama_state_seq_get_data, context.handle, _pointer(data), data.size, spare)
    context.remove(spare)
    return SavedState(start, stop, data[:written])


def restore(context: Context, seq: int, saved_state: SavedState, spare: int) -> None:
    """Puts what was saved behind what a sequence has, into cells that llama.cpp finds as for a batch of its tokens.

    Args:
        seq: has the tokens before the saved_state.
        saved_state: of a context of the same model and settings.
        spare: an empty sequence, empty again afterwards.

    Raises:
        ModelError: there are too few free cells, or something was left out; the sequence is as before.
    """
    data = saved_state.state
    was_read = context.model.call(llama().llama_state_seq_set_data, context.handle, _pointer(data), data.size, spare)
    is_whole = was_read and (context.first_position(spare), context.n_past(spare)) == (
        saved_state.start,
        saved_state.stop,
    )
    if is_whole:
        context.copy(spare, seq, saved_state.stop, saved_state.start)
    context.remove(spare)
    if not is_whole:
        raise ModelError("a sequence that was put away has no room in the context any more")


def _pointer(data: NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
