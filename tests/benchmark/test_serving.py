"""What is measured over HTTP: that it is measured, beside another server, with next to no time for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fs_local.benchmark import serving
from fs_local.benchmark.http_client import HttpClient
from fs_local.benchmark.serving import bench_serving
from fs_local.benchmark.tables import bench_table
from fs_local.benchmark.turns import Budget
from fs_local.errors import FsLocalError
from tests.server.real import real_server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in {
        "CLIENTS": (1, 3), "_GOALS": {1: 0.97, 3: 0.95}, "TOKENS": 4, "N_CTX": 2048, "SHORT": 12, "LONG": 90, "REQUESTS": 60, "SETTLED": 21
    }.items():  # fmt: skip
        monkeypatch.setattr(serving, name, small)


@pytest.mark.usefixtures("quick")
def test_every_figure_is_there_beside_another_server(tiny_path: Path) -> None:
    said: list[str] = []
    with real_server(tiny_path) as (other, _):
        report = bench_serving(str(tiny_path), other.address, Budget(0.0), lambda what, *_: said.append(what))
    assert said == ["clients", "first token", "a token over HTTP", "second turn", "memory", "done"]
    rows = {r.what: r for r in report.rows}
    assert list(rows) == [
        *(
            f"{n}, each steered by another vector, {where}"
            for n in ("1 client", "3 clients")
            for where in ("from its message on", "its whole prompt")
        ),
        "slowest over fastest of 3 clients",
        "first token after 12 new tokens, gate closed: later by",
        "first token after 90 new tokens, gate closed",
        "HTTP and JSON a token, over the library's stream",
        "second turn of a chat, gate closed",
        "second turn of a chat, gate open",
        "memory after 60 requests, over after 21",
    ]
    assert all(r.base for r in report.rows)
    assert all(rows[f"second turn of a chat, gate {gate}"].met for gate in ("closed", "open"))
    assert json.loads(json.dumps(report.as_dict()))["rows"]
    assert bench_table(report).row_count == len(report.rows)


@pytest.mark.usefixtures("quick")
def test_without_another_server_speeds_are_told_and_not_judged(tiny_path: Path) -> None:
    report = bench_serving(str(tiny_path), None, Budget(0.0))
    speeds = [r for r in report.rows if "client" in r.what or "first token" in r.what]
    assert len(speeds) == 7
    assert all(r.met is None for r in speeds if not r.what.startswith("slowest"))


def test_a_server_that_is_not_there_or_refuses_is_named(tiny_path: Path) -> None:
    with pytest.raises(FsLocalError, match="is the server running"):
        HttpClient("http://127.0.0.1:9")
    with pytest.raises(FsLocalError, match="give it as http"):
        HttpClient("127.0.0.1:8080")
    with real_server(tiny_path) as (server, _):
        client = HttpClient(server.address)
        assert client.model == "tiny"
        with pytest.raises(FsLocalError, match="answers 400"):
            client.chat([])
