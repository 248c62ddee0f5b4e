"""Takes the eval callback away from decodes that nobody reads or adds to.

While a callback is set, a silent one too, llama.cpp computes views of its graph that have no identity. Workers are then sent the whole graph
with every token, and CUDA leaves its fast path. A context keeps the callback it was made with; but its scheduler has
one of its own, which llama.cpp sets whenever it builds a graph anew, and not where it uses the last one again, as for most tokens.

The scheduler is had by a method of llama.cpp's C++ class, by the name that it has in libllama where compilers follow the Itanium ABI (Linux,
macOS). Where there is no such name, the callback stays, and results are the same.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from fs_local.errors import ModelError
from fs_local.runtime.library import function

_SCHEDULER = "_ZNK13llama_context9get_schedEv"
"""`ggml_backend_sched_t llama_context::get_sched() const`"""


class SilentDecodes:
    """Whether one context's scheduler calls back.

    Args:
        callback, user_data: what the context was made with; callback: as ctypes has it.
    """

    def __init__(self, callback: Any, user_data: int) -> None:
        self._callback, self._user_data = ctypes.cast(callback, ctypes.c_void_p), user_data
        self._is_silent = False

    def set(self, context: Any, silent: bool) -> None:
        """To be called before each decode. context: `llama_context *`."""
        if (calls := _calls()) is not None and (silent or self._is_silent):
            scheduler_of, set_callback = calls
            callback, user_data = (None, None) if silent else (self._callback, self._user_data)
            set_callback(scheduler_of(context), callback, user_data)
            self._is_silent = silent


@functools.lru_cache(maxsize=1)
def _calls() -> tuple[Callable[[Any], int], Callable[[int, Any, Any], None]] | None:
    pointer = ctypes.c_void_p
    try:
        scheduler_of = function(_SCHEDULER, "llama", pointer, pointer)
        set_callback = function("ggml_backend_sched_set_eval_callback", "ggml-base", None, pointer, pointer, pointer)
    except ModelError:
        return None
    return scheduler_of, set_callback
