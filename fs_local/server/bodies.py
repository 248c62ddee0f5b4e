"""Reads the body of a request whole, within its limits, before anything waits for it."""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fs_local.server.errors import ApiError, error_response
from fs_local.server.limits import BODY_SECONDS, MAX_BODY_BYTES


class Bodies:
    """ASGI middleware: what is behind it gets a body of at most MAX_BODY_BYTES, which is there already."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            with anyio.fail_after(BODY_SECONDS):
                body = await _read(receive)
        except TimeoutError:
            body = ApiError(408, "the body took too long to come", headers={"Connection": "close"})
        if body is None:
            return  # the client is gone
        if isinstance(body, ApiError):
            await error_response(scope["path"], body)(scope, receive, send)
            return
        whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            if whole is None:
                return await receive()
            message, whole = whole, None
            return message

        await self._app(scope, replay, send)


async def _read(receive: Receive) -> bytes | ApiError | None:
    """The body; what is beyond the limit is taken from the client, who listens only then, and dropped."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size <= MAX_BODY_BYTES:
            parts.append(part)
        else:
            parts.clear()
        if not message.get("more_body", False):
            break
    if size > MAX_BODY_BYTES:
        return ApiError(413, f"the body is over {MAX_BODY_BYTES >> 20} MiB", headers={"Connection": "close"})
    return b"".join(parts)
