"""Eight clients for as long as one likes, and ten thousand requests: no wrong decision, nothing left, nobody stuck.

FS_LOCAL_SOAK_SECONDS=600 pytest -m slow -n 0 tests/server/test_soak.py
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from fs_local.benchmark.server_process import ServerProcess
from fs_local.benchmark.serving import Beside, write_packs
from fs_local.engine import Engine, Steer
from fs_local.model_files import resolve_model
from fs_local.pack.file import Pack
from fs_local.runtime.model import Model
from tests.packs import synthetic_pack, with_gate

CLIENTS = 8
QUERIES = [
    *(f"Question {i}: what is the capital of country {i}?" for i in range(6)),
    *("Tell me of the sea. " * n + "And now?" for n in (1, 6, 30)),
]


class Expected(NamedTuple):
    """What the library decides: the pack's opening, energy ratio and weights."""

    opening: float
    energy_ratio: float
    weights: list[float]


@pytest.mark.slow
def test_memory_does_not_grow_with_requests(tiny: Path, tmp_path: Path) -> None:
    with (
        Model.load(tiny) as model,
        ServerProcess(tiny, write_packs(model, tmp_path), n_ctx=2048, n_seq=CLIENTS) as server,
    ):
        (row,) = Beside(model, "tiny", {"all": server}, None).memory()
    assert row.met, f"{row.value:.1f} MB more"


@pytest.mark.slow
def test_eight_clients_with_packs_of_their_own(tiny: Path, tmp_path: Path) -> None:
    """A model may be named by FS_LOCAL_SOAK_MODEL, in place of the tiny one."""
    seconds = float(os.environ.get("FS_LOCAL_SOAK_SECONDS", "30"))
    path = resolve_model(os.environ.get("FS_LOCAL_SOAK_MODEL", str(tiny)))
    with Model.load(path) as model:
        packs = _packs(model)
        expected = _decided(model, packs)
    assert len({e.opening for e in expected.values()}) > len(packs), "the gates tell nothing apart"
    files = [tmp_path / f"{name}.fspack" for name in packs]
    for file, pack in zip(files, packs.values(), strict=True):
        pack.save(file)
    ends = time.monotonic() + seconds
    with ServerProcess(path, files, n_ctx=1536, n_seq=CLIENTS) as server:

        def client(number: int) -> Counter[str]:
            return Client(server.url, path.stem, number, expected).run_until(ends)

        with ThreadPoolExecutor(CLIENTS) as pool:
            done = sum(pool.map(client, range(CLIENTS)), Counter())
        time.sleep(1)
        figures = httpx.get(f"{server.url}/metrics").text
    print(dict(done))
    for figure in ("at_work", "waiting"):
        assert f'fs_local_engine{{figure="{figure}"}} 0.0' in figures
    assert min(done[kind] for kind in Client.KINDS) > 0


class Client:
    """One of eight: its own pack, another strength each time, and no manners."""

    KINDS = ("whole", "streamed", "given up", "hung up", "decided")

    def __init__(self, url: str, model: str, number: int, expected: dict[tuple[str, int], Expected]) -> None:
        self._url, self._model, self._expected = url, model, expected
        self._rng = random.Random(number)
        self._pack = _name(number)
        self._http = httpx.Client(base_url=url, timeout=120)

    def run_until(self, ends: float) -> Counter[str]:
        done: Counter[str] = Counter()
        with self._http:
            while time.monotonic() < ends:
                kind = self._rng.choice(self.KINDS)
                self._ask(kind)
                done[kind] += 1
        return done

    def _ask(self, kind: str) -> None:
        query, strength = self._rng.randrange(len(QUERIES)), round(self._rng.uniform(-2, 2), 3)
        steering = {"packs": {self._pack: {"enabled": True, "strength": strength}}, "explain": "full"}
        body: dict[str, Any] = {
            "model": f"{self._model}:{self._pack}",
            "messages": [{"role": "user", "content": QUERIES[query]}],
            "steering": steering,
            "max_tokens": self._rng.choice((1, 5, 30)),
        }
        if kind == "decided":
            decide = {"model": body["model"], "messages": body["messages"], "steering": steering}
            found = self._http.post("/v1/steering/decide", json=decide)
            assert found.status_code == 200, found.text
            self._check(found.json()["data"][0], query, strength)
        elif kind == "whole":
            found = self._http.post("/v1/chat/completions", json=body)
            assert found.status_code == 200, found.text
            self._check(found.json()["steering"], query, strength)
        elif kind == "hung up":
            self._hang_up(body)
        else:
            with self._http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as events:
                assert events.status_code == 200
                lines = (line for line in events.iter_lines() if line.startswith("data: {"))
                self._check(json.loads(next(lines)[6:])["steering"], query, strength)
                for i, line in enumerate(lines):
                    assert "error" not in json.loads(line[6:]), line
                    if kind == "given up" and i == 3:
                        break

    def _hang_up(self, body: dict[str, Any]) -> None:
        """Before anything is answered."""
        data = json.dumps({**body, "stream": self._rng.random() < 0.5}).encode()
        host, port = self._url.removeprefix("http://").split(":")
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            time.sleep(self._rng.uniform(0, 0.03))

    def _check(self, steering: dict[str, Any], query: int, strength: float) -> None:
        (found,) = steering["decisions"]
        expected = self._expected[self._pack, query]
        assert found["pack"] == self._pack
        assert found["strength"] == strength
        assert Expected(found["opening"], found["energy_ratio"], found["weights"]) == expected


def _name(number: int) -> str:
    return f"pack{number}"


def _packs(model: Model) -> dict[str, Pack]:
    """Each with other vectors, and a gate of another direction: before, at and behind the steered block, and on other readings."""
    found, layer = {}, model.n_layer // 2
    for i in range(CLIENTS):
        base = synthetic_pack(model, "half", layer=layer, gate_layer=layer + i % 3 - 1, seed=i, size=0.5, name=_name(i))
        coef = np.random.default_rng(i).standard_normal(model.width) / model.width**0.5
        found[_name(i)] = with_gate(base, coef, 0.0)
    return found


def _decided(model: Model, packs: dict[str, Pack]) -> dict[tuple[str, int], Expected]:
    """Each query by each pack, alone."""
    found = {}
    with Engine(model, list(packs.values())) as engine:
        for number, query in enumerate(QUERIES):
            prompt = engine.prompt([{"role": "user", "content": query}])
            for name in packs:
                (decision,) = engine.decide(prompt, Steer(disabled=frozenset(packs) - {name}, exact=True))
                weights = [float(x) for x in decision.weights]
                found[name, number] = Expected(float(decision.opening), float(decision.energy_ratio), weights)
    return found
