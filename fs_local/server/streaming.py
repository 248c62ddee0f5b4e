"""Responses that are sent while they are made, as server-sent events or a JSON text a line."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import anyio
from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fs_local.server.hang_up import hung_up
from fs_local.server.limits import SEND_SECONDS

EVENTS, LINES = "text/event-stream", "application/x-ndjson"
DONE = b"data: [DONE]\n\n"


class LiveResponse(Response):
    """Sends what a generator yields; when that ends, when the client hangs up, or when it stops reading, lets go of what it held.

    The engine fills its streams whether or not anybody reads: a slow client delays itself alone.

    Args:
        held: of the engine, and of the answers under way: what is left of them is then cancelled.
    """

    def __init__(self, chunks: AsyncGenerator[bytes, None], media_type: str, held: AsyncExitStack) -> None:
        self._chunks, self._held = chunks, held
        self._sends_since: float | None = None
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                await hung_up(receive)
                group.cancel_scope.cancel()

            group.start_soon(watch)
            group.start_soon(self._hang_up, group.cancel_scope)
            try:
                await self._send_all(send)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._chunks.aclose()
                    await self._held.aclose()
            group.cancel_scope.cancel()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks:
            self._sends_since = time.monotonic()
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            self._sends_since = None
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _hang_up(self, answering: anyio.CancelScope) -> None:
        """Ends it when the client does not read: the connection is closed, as the response has no end. One look a while costs less than a
        deadline a chunk."""
        while True:
            await anyio.sleep(SEND_SECONDS / 4)
            if self._sends_since is not None and time.monotonic() - self._sends_since > SEND_SECONDS:
                answering.cancel()


def event(value: Any, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return b"%bdata: %b\n\n" % (head, to_json(value))


def line(value: Any) -> bytes:
    """A line of JSON."""
    return to_json(value) + b"\n"
