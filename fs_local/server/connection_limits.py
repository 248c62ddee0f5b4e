"""Connections that don't get on with it: uvicorn's HTTP/1.1 by httptools, with limits on a request's head and on how many there are."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fs_local.server.limits import HEADER_SECONDS, MAX_CONNECTIONS, MAX_HEAD_BYTES

_SENTENCE = (
    b'{"error": {"message": "too many connections", "type": "server_error", "param": null, "code": "overloaded"}}'
)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 2\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_SENTENCE), _SENTENCE)
)


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A client that sends the head of its request byte by byte, or without end, is hung up on."""

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.write(_FULL)
            transport.close()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()
        self._head_bytes = self._head_bytes + len(data) if self._waits_for_head else 0
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head of a request has at most {MAX_HEAD_BYTES} bytes.")

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """A deadline runs while no request is whole enough to be answered."""
        if not self._waits_for_head:
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._hang_up)

    @property
    def _waits_for_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _hang_up(self) -> None:
        self._deadline = None
        if self._waits_for_head and not self.transport.is_closing():
            self.transport.close()
