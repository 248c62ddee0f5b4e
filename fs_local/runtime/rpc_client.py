"""The workers that `--rpc` names: reached and asked before llama.cpp is let near them, for it ends the process where one is not there.

A worker speaks first when it is spoken to: a client sends HELLO (command 14, 24 bytes of what its transport can do) and gets the
version of the protocol (three bytes, one unused, and 24 bytes again), each behind its length in 8 bytes.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence

from fs_local.errors import ModelError
from fs_local.runtime.backends import Device, devices_of, rpc
from fs_local.runtime.guard import Guard, WorkerLost
from fs_local.runtime.library import recent_problems

_TIMEOUT_S = 5.0
_HELLO, _CAPABILITIES = 14, 24
_MOST_WORKERS = 15
_LOOKS = 5

_joined: set[str] = set()
"""Workers that this process is a client of: one more connection would wait behind its own."""


def endpoints(text: str) -> tuple[str, ...]:
    """Workers as `--rpc` takes them: `host:port` with commas between.

    Raises:
        ModelError: another form, one twice, or more than ggml takes.
    """
    found = tuple(part.strip() for part in text.split(","))
    for one in found:
        host, _, port = one.rpartition(":")
        if not host or ":" in host or not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 1 << 16:
            raise ModelError(f"--rpc takes host:port, several with commas between them; got {one[:60]!r}")
    if len(set(found)) < len(found):
        raise ModelError("--rpc names a worker twice; each can be used once")
    if len(found) > _MOST_WORKERS:
        raise ModelError(f"--rpc takes {_MOST_WORKERS} workers at most")
    return found


def join(workers: Sequence[str], call: Guard) -> list[Device]:
    """The devices of these workers, in their order.

    Raises:
        ModelError: this llama-cpp-python has no RPC, or a worker is not there, busy, no worker, or of another version.
    """
    library = rpc()
    for worker in workers:
        if worker not in _joined:
            probe(worker)
    found = []
    for worker in workers:
        try:
            registered = call(library.add_server, worker.encode())
        except WorkerLost:
            raise ModelError(
                f"the worker {worker} speaks another version of llama.cpp's RPC ({recent_problems() or 'it broke off'}); "
                "install the same llama-cpp-python on both machines"
            ) from None
        if not registered:
            raise ModelError(f"the worker {worker} offers no device")
        _joined.add(worker)
        found += devices_of(registered)
    return found


def probe(worker: str) -> tuple[int, int, int]:
    """The version of the protocol that a worker speaks.

    Raises:
        ModelError: nobody is there, or something that is no worker, or one that serves another client.
    """
    host, _, port = worker.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), _TIMEOUT_S) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.sendall(struct.pack("<BQ", _HELLO, _CAPABILITIES) + bytes(_CAPABILITIES))
            answer = _receive(connection, 8 + 4 + _CAPABILITIES)
    except TimeoutError:
        raise ModelError(
            f"{worker} does not answer; a worker serves one client at a time, so another one may have it (or nothing listens there)"
        ) from None
    except OSError as error:
        raise ModelError(
            f"no worker at {worker}: {error.strerror or error}; start one there with: fs-local worker --port {port}"
        ) from None
    if len(answer) < 12 or struct.unpack_from("<Q", answer)[0] != 4 + _CAPABILITIES:
        raise ModelError(
            f"{worker} is no worker of this version: it does not speak llama.cpp's RPC, or another version of it; install the same "
            "llama-cpp-python on both machines"
        )
    return (answer[8], answer[9], answer[10])


def _receive(connection: socket.socket, n: int) -> bytes:
    """Up to n bytes; fewer where the other side ends."""
    data = b""
    while len(data) < n and (more := connection.recv(n - len(data))):
        data += more
    return data


def who_is_gone(workers: Sequence[str]) -> str:
    """A sentence that names the worker that is lost."""
    for _ in range(_LOOKS):  # a process that ends closes a connection before it stops listening
        lost = [worker for worker in workers if _refuses(worker)]
        if lost:
            return f"the worker {lost[0]} is gone"
        time.sleep(0.3)
    return f"a worker broke off ({', '.join(workers)})"


def _refuses(worker: str) -> bool:
    """Whether nobody listens there any more. One that serves somebody lets others wait, until their time is over."""
    host, _, port = worker.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 0.3):
            return False
    except TimeoutError:
        return False
    except OSError:
        return True
