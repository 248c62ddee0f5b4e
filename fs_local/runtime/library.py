"""llama.cpp as llama-cpp-python ships it: its low-level API, the few ggml calls it does not bind, and its log.

Everything here is stock. `libggml-base` stands beside `libllama`, under a name that depends on the platform.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs_local.errors import ModelError

GGML_TYPE_F32 = 0
_LOG_WARN, _LOG_ERROR, _LOG_CONT = 3, 4, 5


@dataclass(frozen=True)
class Ggml:
    """The ggml calls that hooks need. A tensor is its address, as `cb_eval` hands it over."""

    get_name: Callable[[int], bytes]
    n_rows: Callable[[int], int]
    n_elements: Callable[[int], int]
    is_contiguous: Callable[[int], bool]
    tensor_get: Callable[[int, Any, int, int], None]
    tensor_set: Callable[[int, Any, int, int], None]

    @staticmethod
    def type_of(tensor: int) -> int:
        """ggml type of a tensor: `type` is the first field of `struct ggml_tensor`."""
        return ctypes.c_int.from_address(tensor).value


_recent_log: deque[str] = deque(maxlen=40)


def recent_problems() -> str:
    """llama.cpp's last warnings and errors, newest last; they say why a load or a decode failed."""
    return " ".join(" ".join(_recent_log).split())


def clear_log() -> None:
    _recent_log.clear()


@functools.lru_cache(maxsize=1)
def llama() -> Any:
    """The module of llama.cpp's C API (`llama_cpp.llama_cpp`), initialized, its log kept instead of printed.

    Raises:
        ModelError: llama-cpp-python is missing, or its library can't be loaded.
    """
    try:
        from llama_cpp import llama_cpp as api
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            f"llama-cpp-python can't be loaded ({error}); reinstall it with: pip install llama-cpp-python"
        ) from error
    api.llama_log_set(_keep_log, ctypes.c_void_p(0))
    api.llama_backend_init()
    return api


def _make_log_keeper() -> Any:
    level_of_line = _LOG_WARN

    def keep(level: int, text: bytes | None, _user_data: int | None) -> None:
        nonlocal level_of_line
        if level != _LOG_CONT:
            level_of_line = level
        if text and level_of_line in (_LOG_WARN, _LOG_ERROR):
            _recent_log.append(text.decode("utf-8", "replace"))

    return ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(keep)


_keep_log = _make_log_keeper()  # llama.cpp holds the pointer for the life of the process


def library_folder() -> Path:
    """Folder of llama.cpp's shared libraries."""
    return Path(llama()._lib._name).parent


def library_path(name: str) -> Path:
    """Where one of llama.cpp's libraries stands, or would stand; name: such as `ggml-base`."""
    if sys.platform == "win32":
        names = [f"{name}.dll", f"lib{name}.dll"]
    elif sys.platform == "darwin":
        names = [f"lib{name}.dylib", f"lib{name}.so"]
    else:
        names = [f"lib{name}.so"]
    folder = library_folder()
    return next((folder / n for n in names if (folder / n).exists()), folder / names[0])


def function(name: str, library: str, result: Any, *arguments: Any) -> Any:
    """One of ggml's functions, bound, in the very library that llama.cpp uses.

    A wheel holds each library under several names, each a file of its own: opened by another name than its users know it by, it would be
    a second one, with a state of its own. So it is found by way of libllama, which it was loaded with.

    Args:
        library: that has it, such as `ggml-base`.

    Raises:
        ModelError: it is not there.
    """
    try:
        if sys.platform == "win32":  # where a handle knows its own functions alone, and a library has one name
            found = ctypes.CDLL(str(library_path(library)))[name]
        else:
            found = llama()._lib[name]
    except (AttributeError, OSError) as error:
        raise ModelError(
            f"no {name} in the libraries of {library_folder()}; steering needs llama-cpp-python 0.3.36 or newer: "
            "pip install -U llama-cpp-python"
        ) from error
    found.restype, found.argtypes = result, arguments
    return found


@functools.lru_cache(maxsize=1)
def ggml() -> Ggml:
    """What hooks need of `libggml-base`. Raises as `function`."""
    tensor, size = ctypes.c_void_p, ctypes.c_size_t

    def bind(name: str, result: Any, *arguments: Any) -> Any:
        return function(name, "ggml-base", result, *arguments)

    return Ggml(
        get_name=bind("ggml_get_name", ctypes.c_char_p, tensor),
        n_rows=bind("ggml_nrows", ctypes.c_int64, tensor),
        n_elements=bind("ggml_nelements", ctypes.c_int64, tensor),
        is_contiguous=bind("ggml_is_contiguous", ctypes.c_bool, tensor),
        tensor_get=bind("ggml_backend_tensor_get", None, tensor, ctypes.c_void_p, size, size),
        tensor_set=bind("ggml_backend_tensor_set", None, tensor, ctypes.c_void_p, size, size),
    )
