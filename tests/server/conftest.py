"""A server without a model, for what is about HTTP alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from fs_local.server.backend import Backend
from fs_local.server.run import Server
from tests.server.fake_engine import FakeEngine, pack_file
from tests.server.serving import client, fake_backend, serving


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
