"""This machine as a worker: its devices, served over llama.cpp's RPC by `ggml_backend_rpc_start_server`.

The protocol has no authentication and no encryption, and a client may make a worker compute and hold anything: it is for the loopback,
or behind a tunnel.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fs_local.errors import ModelError
from fs_local.runtime.backends import Device, local_devices, rpc
from fs_local.runtime.threads import default_threads

DEFAULT_PORT = 50052


def serve(
    host: str,
    port: int,
    *,
    cache: Path | None = None,
    n_threads: int | None = None,
    ready: Callable[[str, list[Device]], None] = lambda address, devices: None,
) -> None:
    """Serves until Ctrl-C: one client at a time, and then the next.

    Args:
        cache: folder that keeps weights of 10 MB and more, so that they are sent once; None for none.
        ready: called with the address and the devices once clients can come. What ggml prints goes to standard error from here on.

    Raises:
        ModelError: no RPC in this llama-cpp-python, an address that can't be used, or no such folder.
        KeyboardInterrupt: Ctrl-C.
    """
    library = rpc()
    port = _free_port(host, port)
    if cache is not None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(f"{cache} can't keep weights: {error.strerror or error}") from error
    devices = [d for d in local_devices() if d.kind == "gpu"] or [d for d in local_devices() if d.kind == "cpu"]
    handles = (ctypes.c_void_p * len(devices))(*(d.handle for d in devices))
    endpoint, folder = f"{host}:{port}", None if cache is None else os.fsencode(cache) + b"/"
    threads = n_threads or default_threads()
    os.dup2(2, 1)
    thread = threading.Thread(
        target=library.start_server,
        args=(endpoint.encode(), folder, threads, len(devices), handles),
        daemon=True,  # it never ends by itself, so that Ctrl-C has to end the process
    )
    thread.start()
    while thread.is_alive() and not _answers(host, port):
        time.sleep(0.02)
    if thread.is_alive():
        ready(endpoint, devices)
    while thread.is_alive():
        thread.join(1)
    raise ModelError(f"{endpoint} can't be served; choose another --port")


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. ggml says of one that is taken nothing that a person could use."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
            return int(trial.getsockname()[1])
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ModelError(f"{host}:{port} can't be used: {why}; choose another --port, or 0 for any free one") from error


def _answers(host: str, port: int) -> bool:
    """Whether the worker takes connections; to it, this is a client that leaves again."""
    try:
        with socket.create_connection((host, port), 1):
            return True
    except OSError:
        return False
