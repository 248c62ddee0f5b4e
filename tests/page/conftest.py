"""The page in a real Chromium, before a server without a model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from fs_local.server.run import Server
from tests.server.fake_engine import pack_file
from tests.server.serving import client, fake_backend, serving

_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
              "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of this machine's own conversations and lessons."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def server(tmp_path: Path, own_data: Path) -> Iterator[Server]:
    """With two packs, whose gates open for queries that say `harm`; it answers with the query's words."""
    packs = [pack_file(tmp_path, name) for name in ("refusal", "<b>truthful</b>")]
    backend, _ = fake_backend(tmp_path, packs, delay=0.02)
    with serving(backend) as server:
        yield server


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with client(server) as http:
        yield http


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "install the distribution's chromium, or set CHROMIUM to the path of one"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, server: Server) -> Iterator[Page]:
    """The page, loaded; a test fails where a script failed or the policy was broken."""
    context = chromium.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if "Content Security" in m.text else None)
    page.goto(server.address)
    page.wait_for_selector("html[data-ready=yes]")
    yield page
    context.close()
    assert not problems
