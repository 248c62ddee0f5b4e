"""Fits from lessons, by a child that does what `fs-local fit --json` does, as fast as a test wants it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

from fs_local.examples import Query, read_pairs
from fs_local.lessons import LessonRow, Lessons
from fs_local.pack.file import Pack
from fs_local.server.backend import Backend
from fs_local.server.fits import Fits
from fs_local.user_data import user_database
from tests.server.fake_engine import pack_file
from tests.server.serving import client, fake_backend, serving

CHILD = """
import json, pathlib, shutil, sys, time
arguments = sys.argv[1:]
value = lambda name: arguments[arguments.index(name) + 1]
folder = pathlib.Path(__file__).parent
(folder / "arguments").write_text(json.dumps(arguments))
shutil.copy(value("--pairs"), folder / "pairs.jsonl")
print(json.dumps({"stage": "capture", "done": 1, "total": 2}), file=sys.stderr, flush=True)
print("note: a note", file=sys.stderr, flush=True)
plan = (folder / "plan").read_text()
if plan == "wait":
    time.sleep(60)
if plan == "fail":
    print("fs-local: the disk is full", file=sys.stderr)
    sys.exit(1)
shutil.copy(folder / plan, value("-o"))
pathlib.Path(value("--report")).write_text("<p>report</p>")
"""


class Fitting(NamedTuple):
    """A server whose fits are the child's."""

    http: httpx.Client
    backend: Backend
    folder: Path

    def plan(self, what: str) -> None:
        (self.folder / "plan").write_text(what)

    def fit(self, how: str = "usual") -> None:
        assert self.http.post("/v1/page/fits", json={"lesson": "tone", "how": how}).status_code == 202

    def child(self) -> psutil.Process:
        """The process that fits, once it has begun."""
        for _ in range(400):
            if self.http.get("/v1/page/fits").json()["fit"]["stages"]:
                children = psutil.Process().children(recursive=True)
                [child] = [c for c in children if any("child.py" in part for part in c.cmdline())]
                return child
            time.sleep(0.05)
        raise AssertionError("it never began")

    def ended(self) -> dict[str, Any]:
        for _ in range(400):
            found: dict[str, Any] = self.http.get("/v1/page/fits").json()["fit"]
            if found["state"] != "running":
                return found
            time.sleep(0.05)
        raise AssertionError("it never ended")


@pytest.fixture
def fitting(tmp_path: Path, own_data: Path) -> Iterator[Fitting]:
    (tmp_path / "child.py").write_text(CHILD)
    for name, strength in (("first", 1.0), ("second", 2.0)):
        pack_file(tmp_path, "tone", strength).rename(tmp_path / name)
    lessons = Lessons(user_database())
    lessons.create("tone")
    lessons.add("tone", [LessonRow("pair", Query.of(f"query {i}"), ("yes",), ("no",)) for i in range(8)])
    backend, _ = fake_backend(tmp_path, [])
    with serving(backend) as server, client(server) as http:
        server.config.app.state.fits = Fits(backend, command=(sys.executable, str(tmp_path / "child.py")))  # type: ignore[union-attr]
        yield Fitting(http, backend, tmp_path)


def test_a_pack_comes_into_service_and_the_former_is_kept(fitting: Fitting) -> None:
    fitting.plan("first")
    fitting.fit()
    found = fitting.ended()
    assert (found["state"], found["stages"], found["notes"]) == ("done", {"capture": [1, 2]}, ["a note"])
    assert len(read_pairs(fitting.folder / "pairs.jsonl")[0]) == 8
    fitting.plan("second")
    fitting.fit("quick")
    assert fitting.ended()["state"] == "done"
    assert "--no-background" in (fitting.folder / "arguments").read_text()
    [pack] = fitting.http.get("/v1/page/packs").json()["packs"]
    assert (pack["strength"], pack["has_former"], pack["has_report"]) == (2.0, True, True)
    decided = fitting.http.post("/v1/steering/decide", json={"input": "harm"}).json()["data"][0]["decisions"]
    assert [d["strength"] for d in decided] == [2.0]
    for strength in (1.0, 2.0):
        [pack] = fitting.http.post("/v1/page/fits/restore", json={"pack": "tone"}).json()["packs"]
        assert (pack["strength"], pack["has_former"]) == (strength, True)
    report = fitting.http.get("/v1/page/fits/report?pack=tone")
    assert report.text == "<p>report</p>"
    assert "sandbox" in report.headers["content-security-policy"]


def test_a_fit_that_fails_changes_nothing(fitting: Fitting) -> None:
    fitting.plan("first")
    fitting.fit()
    fitting.ended()
    fitting.plan("fail")
    fitting.fit()
    found = fitting.ended()
    assert found["state"] == "failed"
    assert found["problem"] == "the fit failed, and the packs are as before: the disk is full"
    assert [p["strength"] for p in fitting.http.get("/v1/page/packs").json()["packs"]] == [1.0]


def test_a_fit_that_is_killed_changes_nothing(fitting: Fitting) -> None:
    fitting.plan("first")
    fitting.fit()
    fitting.ended()
    fitting.plan("wait")
    fitting.fit()
    fitting.child().kill()
    found = fitting.ended()
    assert (found["state"], found["problem"]) == ("failed", "the fit failed, and the packs are as before: it was ended")
    assert [p["strength"] for p in fitting.http.get("/v1/page/packs").json()["packs"]] == [1.0]
    fitting.plan("second")
    fitting.fit()
    assert fitting.ended()["state"] == "done"


def test_a_fit_is_cancelled_and_another_waits_for_it(fitting: Fitting) -> None:
    fitting.plan("wait")
    fitting.fit()
    second = fitting.http.post("/v1/page/fits", json={"lesson": "tone"})
    assert (second.status_code, "under way already" in second.text) == (400, True)
    child = fitting.child()
    assert child.nice() >= 10
    chat = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
    assert fitting.http.post("/v1/chat/completions", json=chat).status_code == 200
    headers = {"content-type": "application/json"}
    assert fitting.http.delete("/v1/page/fits", headers=headers).json()["fit"]["state"] == "cancelled"
    assert not child.is_running()
    assert fitting.http.get("/v1/page/packs").json()["packs"] == []


def test_packs_of_an_earlier_server_are_offered(fitting: Fitting) -> None:
    fitting.plan("first")
    fitting.fit()
    fitting.ended()
    fits = Fits(fitting.backend)
    fitting.backend.packs.clear()
    found = fitting.http.get("/v1/page/packs").json()
    fingerprint = fitting.backend.loaded_engine.model.fingerprint  # type: ignore[union-attr]
    same = Pack.load(fits.place("tone")).manifest.model.fingerprint == fingerprint
    assert found["kept"] == (["tone"] if same else [])
    assert [p["name"] for p in fitting.http.post("/v1/page/fits/load", json={"pack": "tone"}).json()["packs"]] == [
        "tone"
    ]
    assert fitting.http.post("/v1/page/fits/load", json={"pack": "../x"}).status_code == 409
