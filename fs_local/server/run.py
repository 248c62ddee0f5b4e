"""Starts a server, and ends it without cutting answers off."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from fs_local.errors import FsLocalError
from fs_local.server.app import create_app
from fs_local.server.backend import Backend
from fs_local.server.connection_limits import BoundedProtocol
from fs_local.server.limits import GRACE_SECONDS, KEEP_ALIVE_SECONDS, MAX_CONNECTIONS
from fs_local.server.settings import ServerSettings

if TYPE_CHECKING:
    from fs_local.runtime.placement import Placement


def serve_forever(backend: Backend, settings: ServerSettings, ready: Callable[[str], None]) -> None:
    """Serves until it is told to stop (Ctrl-C or SIGTERM).

    Args:
        ready: called with the server's address when the model is loaded.

    Raises:
        FsLocalError: the address can't be used, or the model can't be loaded.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    Server(backend, settings, ready).serve_until_stopped()


class Server(uvicorn.Server):
    """uvicorn's, which answers while the model is being loaded, and ends streams before it ends itself.

    Attributes:
        address: where it listens, as `http://127.0.0.1:8080`.
    """

    def __init__(self, backend: Backend, settings: ServerSettings, ready: Callable[[str], None]) -> None:
        self._listening = _listen(settings)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.address = f"http://{host}:{self._listening.getsockname()[1]}"
        self._backend, self._ready, self._app = backend, ready, create_app(backend, settings)
        self._failed: FsLocalError | None = None
        self._loading: asyncio.Task[None] | None = None
        super().__init__(
            uvicorn.Config(
                self._app,
                http=BoundedProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=MAX_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(GRACE_SECONDS),
            )
        )

    def serve_until_stopped(self) -> None:
        """Serves. Raises FsLocalError: the model can't be loaded."""
        try:
            self.run(sockets=[self._listening])
        finally:
            self._listening.close()
        if self._failed is not None:
            raise self._failed

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            await self._backend.load()
        except FsLocalError as error:
            self._failed = error
            self.should_exit = True
            return
        self._app.state.started.set()
        self._ready(self.address)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for each in self.servers:
            each.close()  # no new connections while answers end
        await self._backend.drain(GRACE_SECONDS)
        await super().shutdown(sockets)


def _listen(settings: ServerSettings) -> socket.socket:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(found[0], socket.SOCK_STREAM)
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.set_inheritable(False)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise FsLocalError(
            f"{settings.host}:{settings.port} can't be used: {why}; choose another --port, or 0 for any free one"
        ) from error
    return listening


def open_backend(
    name: str,
    path: Path,
    packs: Sequence[Path],
    *,
    idle: float | None = None,
    placement: Placement | None = None,
    **engine_options: Any,
) -> Backend:
    """A backend for a model's file; reads the packs, and leaves the model for `Backend.load`.

    Raises:
        FsLocalError: a pack or the file can't be used.
    """
    from fs_local.server.backend import ServedPack

    def open_engine(loaded: Sequence[Any]) -> Any:
        from fs_local.engine import Engine
        from fs_local.runtime.model import Model

        model = Model.load(path, placement=placement)
        try:
            return Engine(model, loaded, **engine_options)
        except BaseException:
            model.close()
            raise

    return Backend(name, path, [ServedPack.load(p) for p in packs], open_engine, idle)
