"""What llama.cpp asks about each graph node (`cb_eval`), answered by a C function wherever it was built.

llama.cpp asks about each of 700 to 950 nodes a token. In Python that costs 9 % of the decoding time of a model with 135 million
parameters; in C nothing that can be measured. Without a compiler at installation, or with `FS_LOCAL_PURE_PYTHON=1`, every
question goes to Python; the results are the same, bit for bit.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable, Collection
from typing import Any

from fs_local.runtime.library import ggml, llama

OnNode = Callable[[int, bool, Any], bool]
"""`cb_eval`: the tensor's address, whether llama.cpp only asks for it, user data."""


class _State(ctypes.Structure):
    """`struct state` of node_filter.c."""

    _fields_ = (
        ("get_name", ctypes.c_void_p),
        ("python", ctypes.c_void_p),
        ("wanted", ctypes.c_void_p),
        ("n_layer", ctypes.c_int32),
        ("on", ctypes.c_bool),
    )


class NodeFilter:
    """Stands between llama.cpp and a Python callback.

    Args:
        on_node: called for wanted layers alone where the filter is native, else for every node.
        n_layer: of the model.

    Attributes:
        callback: what `cb_eval` is set to, and user_data: `cb_eval_user_data`. Both live as long as the filter does.
    """

    def __init__(self, on_node: OnNode, n_layer: int) -> None:
        make = llama().ggml_backend_sched_eval_callback
        self._python = make(on_node)  # llama.cpp keeps only the pointer
        self._wanted = (ctypes.c_uint8 * n_layer)()
        self._any_wanted = False  # kept: counting them anew at each token is not free
        self._state = _State(
            get_name=ctypes.cast(ggml().get_name, ctypes.c_void_p),  # type: ignore[arg-type]  # a foreign function is callable and castable
            python=ctypes.cast(self._python, ctypes.c_void_p),
            wanted=ctypes.addressof(self._wanted),
            n_layer=n_layer,
        )
        native = native_address()
        self._is_native = native is not None
        self.callback: Any = self._python if native is None else make(native)
        self.user_data = ctypes.addressof(self._state)

    def want(self, layers: Collection[int]) -> None:
        """Sets the layers that Python is called for in the next decode; without any, it is not called at all."""
        for layer in range(len(self._wanted)):
            self._wanted[layer] = layer in layers
        self._any_wanted = any(self._wanted)
        self.rearm()

    @property
    def is_silent(self) -> bool:
        """Whether the next decode calls no Python at all."""
        return self._is_native and not self._any_wanted

    def rearm(self) -> None:
        """To be called before each decode: a decode that the hook ended has switched the filter off."""
        self._state.on = self._any_wanted


def native_address() -> int | None:
    """Address of the C function; None where it was not built, or is not to be used."""
    if os.environ.get("FS_LOCAL_PURE_PYTHON", "0") not in ("", "0"):
        return None
    try:
        return int(importlib.import_module("fs_local.runtime._node_filter").on_node)
    except ImportError:
        return None
