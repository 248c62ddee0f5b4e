"""What llama.cpp asks about each graph node (`cb_eval`), answered by a C function wherever it was built.

llama.cpp asks about each of 700 to 950 nodes a token. In Python that costs 9 % of the decoding time of a model with 135 million
parameters; in C nothing that can be measured. Additions to rows are made there too, without Python. Without a compiler at
installation, or with `FS_LOCAL_PURE_PYTHON=1`, every question goes to Python; the results are the same, bit for bit.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from fs_local.arrays import F32
from fs_local.runtime.library import ggml, llama

PURE_PYTHON = "FS_LOCAL_PURE_PYTHON"
"""The environment variable that leaves the C function out, if it is neither empty nor 0."""
OnNode = Callable[[int, bool, Any], bool]
"""`cb_eval`: the tensor's address, whether llama.cpp only asks for it, user data."""
Run = tuple[int, int, F32]
"""(first row, number of rows, what each gets added): float32, (width,)."""
Additions = Mapping[int, Sequence[Run]]
"""What rows of the next decodes get added after each layer."""


class _Run(ctypes.Structure):
    """`struct run` of node_filter.c."""

    _fields_ = (("first", ctypes.c_int32), ("count", ctypes.c_int32), ("vector", ctypes.c_void_p))


class _Runs(ctypes.Structure):
    """`struct runs` of node_filter.c."""

    _fields_ = (("run", ctypes.c_void_p), ("n", ctypes.c_int64))


class _State(ctypes.Structure):
    """`struct state` of node_filter.c."""

    _fields_ = (
        ("get_name", ctypes.c_void_p),
        ("n_rows", ctypes.c_void_p),
        ("tensor_get", ctypes.c_void_p),
        ("tensor_set", ctypes.c_void_p),
        ("python", ctypes.c_void_p),
        ("wanted", ctypes.c_void_p),
        ("added", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("width", ctypes.c_int64),
        ("n_layer", ctypes.c_int32),
        ("on", ctypes.c_bool),
        ("skip", ctypes.c_bool),
        ("stopped", ctypes.c_bool),
        ("room", ctypes.c_int64),
    )


class NodeFilter:
    """Stands between llama.cpp and a Python callback.

    Args:
        on_node: called for wanted layers alone where the filter is native, else for every node.
        n_layer, width: of the model.
        room: rows that are read and written at once where some get additions.

    Attributes:
        callback: what `cb_eval` is set to, and user_data: `cb_eval_user_data`. Both live as long as the filter does.
        is_native: whether the C function is in use.
        additions: what `add` was told.
    """

    def __init__(self, on_node: OnNode, n_layer: int, width: int, room: int) -> None:
        make = llama().ggml_backend_sched_eval_callback
        self._python = make(on_node)  # llama.cpp keeps only the pointer
        self._wanted = (ctypes.c_uint8 * n_layer)()
        self._any_wanted = False  # kept: counting them anew at each token is not free
        self._added = (_Runs * n_layer)()
        self._kept: list[object] = []  # what the addresses in `_added` point to
        self._room = np.empty((room, width), dtype=np.float32)
        self.additions: Additions = {}
        api = ggml()

        def address(function: Any) -> int | None:
            return ctypes.cast(function, ctypes.c_void_p).value

        self._state = _State(
            get_name=address(api.get_name),
            n_rows=address(api.n_rows),
            tensor_get=address(api.tensor_get),
            tensor_set=address(api.tensor_set),
            python=address(self._python),
            wanted=ctypes.addressof(self._wanted),
            added=ctypes.addressof(self._added),
            rows=self._room.ctypes.data,
            room=room,
            width=width,
            n_layer=n_layer,
        )
        native = native_address()
        self.is_native = native is not None
        self.callback: Any = self._python if native is None else make(native)
        self.user_data = ctypes.addressof(self._state)

    def want(self, layers: Collection[int]) -> None:
        """Sets the layers that Python is called for in the next decode; without any, it is not called at all."""
        for layer in range(len(self._wanted)):
            self._wanted[layer] = layer in layers
        self._any_wanted = any(self._wanted)
        self.rearm()

    def add(self, additions: Additions) -> None:
        """Sets what rows get added from now on, also in the middle of a decode; rows that a layer does not have are left out."""
        for layer in self.additions:
            self._added[layer].n = 0
        kept: list[object] = []
        for layer, runs in additions.items():
            table = (_Run * len(runs))()
            for entry, (first, count, vector) in zip(table, runs, strict=True):
                vector = np.ascontiguousarray(vector, dtype=np.float32)
                if vector.shape != self._room.shape[1:]:
                    raise ValueError(f"an addition of shape {vector.shape} for a model of width {self._room.shape[1]}")
                entry.first, entry.count, entry.vector = first, count, vector.ctypes.data
                kept.append(vector)
            kept.append(table)
            self._added[layer].run = ctypes.addressof(table)
            self._added[layer].n = len(runs)
        self._kept, self.additions = kept, additions
        self.rearm()

    @property
    def calls_python(self) -> bool:
        """Whether the next decode calls Python at all."""
        return self._any_wanted or not self.is_native

    @property
    def is_silent(self) -> bool:
        """Whether the next decode goes as it would without any callback."""
        return not (self._state.on or self._state.skip)

    def skip(self, everything: bool) -> None:
        """Whether decodes compute nothing from now on: their tokens only get cells."""
        self._state.skip = everything

    @property
    def skips(self) -> bool:
        return bool(self._state.skip)

    def rearm(self) -> None:
        """To be called before each decode: one that the hook ended computes nothing more."""
        self._state.stopped = False
        self._state.on = self._any_wanted or bool(self.additions)


def native_address() -> int | None:
    """Address of the C function; None where it was not built, or is not to be used."""
    if os.environ.get(PURE_PYTHON, "0") not in ("", "0"):
        return None
    try:
        return int(importlib.import_module("fs_local.runtime._node_filter").on_node)
    except ImportError:
        return None
