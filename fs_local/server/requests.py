"""How a route reads its request: strict JSON, and what the application keeps for all routes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from fs_local.server.backend import Backend
from fs_local.server.operation import Watch
from fs_local.server.strict_json import parse


class _StrictRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parse(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route whose body is read by `strict_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


def backend_of(http: Request) -> Backend:
    """The application's backend."""
    backend: Backend = http.app.state.backend
    return backend


def watch_of(http: Request) -> Watch:
    """What is written down of this request."""
    watch: Watch = http.state.watch
    return watch
