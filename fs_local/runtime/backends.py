"""ggml's devices: what this build of llama.cpp can compute on, and its RPC backend, if it was built with one."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from fs_local.errors import ModelError
from fs_local.runtime.library import function, library_path

Kind = Literal["cpu", "gpu", "accelerator", "other"]
_RPC = "ggml-rpc"
_KINDS: dict[int, Kind] = {0: "cpu", 1: "gpu", 2: "gpu", 3: "accelerator"}


@dataclass(frozen=True)
class Device:
    """One device. handle: `ggml_backend_dev_t`."""

    name: str
    description: str
    kind: Kind
    handle: int


_pointer, _text, _size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t


@dataclass(frozen=True)
class _Ggml:
    """What is needed of ggml."""

    dev_count: Callable[[], int]
    dev_get: Callable[[int], int]
    by_name: Callable[[bytes], int | None]
    register: Callable[[int], None]
    dev_name: Callable[[int], bytes]
    dev_description: Callable[[int], bytes]
    dev_type: Callable[[int], int]
    reg_dev_count: Callable[[int], int]
    reg_dev_get: Callable[[int, int], int]


@functools.lru_cache(maxsize=1)
def _ggml() -> _Ggml:
    return _Ggml(
        dev_count=function("ggml_backend_dev_count", "ggml", _size),
        dev_get=function("ggml_backend_dev_get", "ggml", _pointer, _size),
        by_name=function("ggml_backend_reg_by_name", "ggml", _pointer, _text),
        register=function("ggml_backend_register", "ggml", None, _pointer),
        dev_name=function("ggml_backend_dev_name", "ggml-base", _text, _pointer),
        dev_description=function("ggml_backend_dev_description", "ggml-base", _text, _pointer),
        dev_type=function("ggml_backend_dev_type", "ggml-base", ctypes.c_int, _pointer),
        reg_dev_count=function("ggml_backend_reg_dev_count", "ggml-base", _size, _pointer),
        reg_dev_get=function("ggml_backend_reg_dev_get", "ggml-base", _pointer, _pointer, _size),
    )


def local_devices() -> list[Device]:
    """The devices of this machine, as ggml registered them."""
    api = _ggml()
    return [_device(api, api.dev_get(i)) for i in range(api.dev_count())]


def devices_of(registered: int) -> list[Device]:
    """The devices of one backend (`ggml_backend_reg_t`)."""
    api = _ggml()
    count = api.reg_dev_count(registered)
    return [_device(api, api.reg_dev_get(registered, i)) for i in range(count)]


def _device(api: _Ggml, handle: int) -> Device:
    kind = _KINDS.get(api.dev_type(handle), "other")
    name, about = api.dev_name(handle), api.dev_description(handle)
    return Device(name.decode("utf-8", "replace"), about.decode("utf-8", "replace"), kind, handle)


@functools.lru_cache(maxsize=1)
def leave_out_accelerators() -> None:
    """Takes BLAS and its like (on macOS: Accelerate) out of what this process computes with, if llama.cpp was built with them.

    llama.cpp gives them the matrix products of 32 rows and more, each as a part of the graph of its own. A graph that is to end early would
    compute all of these, and the bits of a prompt's states would depend on how many rows are computed at once.
    """
    backend_of = function("ggml_backend_dev_backend_reg", "ggml-base", _pointer, _pointer)
    unload = function("ggml_backend_unload", "ggml", None, _pointer)
    for device in local_devices():
        if device.kind == "accelerator":
            unload(backend_of(device.handle))


def has_rpc() -> bool:
    """Whether this llama-cpp-python was built with RPC."""
    return library_path(_RPC).exists()


def rpc_install_line() -> str:
    """The one line that installs a llama-cpp-python with RPC in place of this one; pip's cache does not know of CMAKE_ARGS."""
    return (
        "CMAKE_ARGS=-DGGML_RPC=ON pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python "
        f"llama-cpp-python=={version('llama-cpp-python')}"
    )


@dataclass(frozen=True)
class Rpc:
    """The RPC backend: joins a worker (its devices come as a `ggml_backend_reg_t`), or serves as one."""

    add_server: Callable[[bytes], int | None]
    start_server: Callable[..., None]


@functools.lru_cache(maxsize=1)
def rpc() -> Rpc:
    """The RPC backend, registered.

    Raises:
        ModelError: this llama-cpp-python was built without it.
    """
    if not has_rpc():
        raise ModelError(f"this llama-cpp-python was built without RPC; install it with: {rpc_install_line()}")
    api = _ggml()
    if not api.by_name(b"RPC"):
        raise ModelError(
            f"{library_path(_RPC)} is not part of this llama-cpp-python; install it with: {rpc_install_line()}"
        )
    devices = ctypes.POINTER(_pointer)
    return Rpc(
        add_server=function("ggml_backend_rpc_add_server", _RPC, _pointer, _text),
        start_server=function("ggml_backend_rpc_start_server", _RPC, None, _text, _text, _size, _size, devices),
    )
