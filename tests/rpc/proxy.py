"""A connection in between, which counts what passes and can be cut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType


class Proxy:
    """Listens on a free port of the loopback, and hands everything on to another.

    Args:
        target: port of the loopback.
        limit: bytes that a client may send in a connection before it is cut; None for no end.

    Attributes:
        port: where it listens. sent: bytes that clients sent so far.
    """

    def __init__(self, target: int, limit: int | None = None) -> None:
        self._target, self.limit, self.sent = target, limit, 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Ends all connections, and takes no more."""
        _end(self._listening, *self._open)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open += [client, server]
            threading.Thread(target=self._hand_on, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._hand_on, args=(server, client, False), daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        passed = 0
        try:
            while data := source.recv(1 << 16):
                if counts:
                    self.sent += len(data)
                    passed += len(data)
                    if self.limit is not None and passed > self.limit:
                        break
                target.sendall(data)
        except OSError:
            pass
        _end(source, target)


def _end(*sockets: socket.socket) -> None:
    """Closed, since who sends to a socket that is shut down alone, and whose buffer is full, waits for ever."""
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
        one.close()
