"""ggml's devices: what this build of llama.cpp can compute on, and its RPC backend, if it was built with one."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from fs_local.errors import ModelError
from fs_local.runtime.library import base_library, library_path, llama

Kind = Literal["cpu", "gpu", "accelerator", "other"]
_KINDS: dict[int, Kind] = {0: "cpu", 1: "gpu", 2: "gpu", 3: "accelerator"}


@dataclass(frozen=True)
class Device:
    """One device. handle: `ggml_backend_dev_t`."""

    name: str
    description: str
    kind: Kind
    handle: int


@functools.lru_cache(maxsize=1)
def _ggml() -> Any:
    """`libggml` and `libggml-base`, bound as far as needed; ModelError where they are not."""
    llama()
    base, registry = base_library(), ctypes.CDLL(str(library_path("ggml")))
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    for library, name, result, arguments in (
        (registry, "ggml_backend_dev_count", size, []),
        (registry, "ggml_backend_dev_get", pointer, [size]),
        (registry, "ggml_backend_reg_by_name", pointer, [text]),
        (registry, "ggml_backend_register", None, [pointer]),
        (base, "ggml_backend_dev_name", text, [pointer]),
        (base, "ggml_backend_dev_description", text, [pointer]),
        (base, "ggml_backend_dev_type", ctypes.c_int, [pointer]),
        (base, "ggml_backend_reg_dev_count", size, [pointer]),
        (base, "ggml_backend_reg_dev_get", pointer, [pointer, size]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
        setattr(registry, name, function)
    return registry


def local_devices() -> list[Device]:
    """The devices of this machine, as ggml registered them."""
    api = _ggml()
    return [_device(api, api.ggml_backend_dev_get(i)) for i in range(api.ggml_backend_dev_count())]


def devices_of(registered: int) -> list[Device]:
    """The devices of one backend (`ggml_backend_reg_t`)."""
    api = _ggml()
    count = api.ggml_backend_reg_dev_count(registered)
    return [_device(api, api.ggml_backend_reg_dev_get(registered, i)) for i in range(count)]


def _device(api: Any, handle: int) -> Device:
    kind = _KINDS.get(api.ggml_backend_dev_type(handle), "other")
    name, about = api.ggml_backend_dev_name(handle), api.ggml_backend_dev_description(handle)
    return Device(name.decode("utf-8", "replace"), about.decode("utf-8", "replace"), kind, handle)


def has_rpc() -> bool:
    """Whether this llama-cpp-python was built with RPC."""
    return library_path("ggml-rpc").exists()


def rpc_install_line() -> str:
    """The one line that installs a llama-cpp-python with RPC in place of this one; pip's cache does not know of CMAKE_ARGS."""
    return (
        "CMAKE_ARGS=-DGGML_RPC=ON pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python "
        f"llama-cpp-python=={version('llama-cpp-python')}"
    )


@functools.lru_cache(maxsize=1)
def rpc() -> Any:
    """`libggml-rpc`, registered.

    Raises:
        ModelError: this llama-cpp-python was built without it.
    """
    api = _ggml()
    if not has_rpc():
        raise ModelError(f"this llama-cpp-python was built without RPC; install it with: {rpc_install_line()}")
    library = ctypes.CDLL(str(library_path("ggml-rpc")))
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    for name, result, arguments in (
        ("ggml_backend_rpc_reg", pointer, []),
        ("ggml_backend_rpc_add_server", pointer, [text]),
        ("ggml_backend_rpc_start_server", None, [text, text, size, size, ctypes.POINTER(pointer)]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if not api.ggml_backend_reg_by_name(b"RPC"):
        api.ggml_backend_register(library.ggml_backend_rpc_reg())
    return library
