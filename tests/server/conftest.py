"""Two servers: one without a model, for what is about HTTP alone, and one with a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from fs_local.engine import Engine
from fs_local.runtime.model import Model
from fs_local.server.backend import Backend
from fs_local.server.run import Server
from tests.server.fake_engine import FakeEngine, pack_file
from tests.server.handy import TEMPLATE
from tests.server.real import real_server, write_packs
from tests.server.serving import client, fake_backend, serving
from tests.tiny_model import write_tiny_model


class Served(NamedTuple):
    """A server that runs, and what is behind it."""

    http: httpx.Client
    server: Server
    backend: Backend
    engine: FakeEngine
    packs: dict[str, Path]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    packs = {name: pack_file(tmp_path, name) for name in ("refusal", "truthful")}
    backend, engines = fake_backend(tmp_path, list(packs.values()))
    with serving(backend) as server, client(server) as http:
        yield Served(http, server, backend, engines[0], packs)
        still_works = http.post(
            "/v1/chat/completions", json={"model": "fake", "messages": [{"role": "user", "content": "a"}]}
        )
        assert still_works.status_code == 200
        assert not engines[0].running, "an answer was left behind"


class Real(NamedTuple):
    """A server with a real engine, and packs whose gates are open, half open and shut."""

    http: httpx.Client
    server: Server
    backend: Backend

    @property
    def engine(self) -> Engine:
        engine = self.backend.loaded_engine
        assert isinstance(engine, Engine)
        return engine


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def real_packs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    with Model.load(tiny) as model:
        return write_packs(model, tmp_path_factory.mktemp("packs"))


@pytest.fixture(scope="module")
def real(tiny: Path, real_packs: list[Path]) -> Iterator[Real]:
    with real_server(tiny, real_packs) as (server, backend), client(server) as http:
        yield Real(http, server, backend)


@pytest.fixture(scope="module")
def handy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server whose model knows tools."""
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "handy.gguf", TEMPLATE)
    with real_server(path) as (server, _), client(server) as http:
        yield http
