"""A running server for tests: real sockets, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from fs_local.server.backend import Backend, ServedPack
from fs_local.server.run import Server
from fs_local.server.settings import ServerSettings
from tests.server.fake_engine import FakeEngine


@contextmanager
def serving(backend: Backend, settings: ServerSettings | None = None) -> Iterator[Server]:
    """Serves while the `with` lasts."""
    loaded = threading.Event()
    server = Server(backend, settings or ServerSettings(port=0), lambda _: loaded.set())
    thread = threading.Thread(target=server.serve_until_stopped)
    thread.start()
    try:
        assert loaded.wait(60)
        yield server
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def fake_backend(
    folder: Path, packs: list[Path], idle: float | None = None, **options: float
) -> tuple[Backend, list[FakeEngine]]:
    """A backend of fake engines, and the list of those that were opened."""
    model = folder / "model.gguf"
    model.write_bytes(b"GGUF")
    opened: list[FakeEngine] = []

    def open_engine(loaded: object) -> FakeEngine:
        opened.append(FakeEngine(loaded, **options))  # type: ignore[arg-type]
        return opened[-1]

    return Backend("fake", model, [ServedPack.load(p) for p in packs], open_engine, idle), opened


def chat(text: str = "hello there", **more: object) -> dict[str, object]:
    """A small request."""
    return {"model": "fake", "messages": [{"role": "user", "content": text}], **more}


def client(server: Server, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=server.address, headers=headers, timeout=120)
