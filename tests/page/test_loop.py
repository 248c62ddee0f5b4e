"""The loop on a real model: a wrong answer is corrected, two dozen examples are fitted, and such queries are answered as wished."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from fs_local.lessons import lesson_text, read_lesson
from fs_local.model_files import resolve_model
from tests.server.real import real_server
from tests.server.serving import client

pytestmark = [pytest.mark.browser, pytest.mark.slow]
VELMO = Path(__file__).with_name("velmo.jsonl")
"""Questions about a kettle that there is not, what SmolLM2 makes up about it, and what it should say."""
WISHED = "I'm sorry"
SECONDS = 90
REWORDED = "Tell me how my Velmo kettle can be reset."
UNRELATED = "What is the capital of Italy?"


def asked_anew(page: Page, text: str) -> str:
    page.click("#new-conversation")
    page.fill("#query", text)
    page.keyboard.press("Enter")
    expect(page.locator("#stop")).to_be_hidden(timeout=120_000)
    return page.locator(".message.assistant .text").inner_text()


def unrelated(http: httpx.Client) -> Any:
    model = http.get("/v1/models").json()["data"][0]["id"]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": UNRELATED}],
        "temperature": 0,
        "max_tokens": 24,
        "logprobs": True,
    }
    return http.post("/v1/chat/completions", json={**body, "steering": {"exact": True}}).json()["choices"]


def background_is_read(http: httpx.Client, rows: str) -> None:
    """A model's first fit reads the general queries that come with the product; all later ones find them."""
    http.post("/v1/page/lessons", json={"name": "first"})
    http.post("/v1/page/lessons/first/import", json={"text": rows})
    http.post("/v1/page/fits", json={"lesson": "first", "how": "usual"})
    while (fit := http.get("/v1/page/fits").json()["fit"])["state"] == "running":
        time.sleep(1)
    assert fit["state"] == "done", fit["problem"]


def test_from_a_corrected_answer_to_a_pack_that_changes_it(chromium: Browser, tmp_path: Path) -> None:
    first, *others = read_lesson(VELMO, VELMO.read_bytes())
    shots = Path(os.environ.get("SCREENSHOTS", tmp_path))
    with real_server(resolve_model("smollm2"), n_threads=None) as (server, _), client(server) as http:
        background_is_read(http, lesson_text(others[-8:]))
        http.patch("/v1/steering/packs/first", json={"enabled": False})
        before = unrelated(http)
        page = chromium.new_page(viewport={"width": 1200, "height": 800})
        page.goto(server.address)
        page.wait_for_selector("html[data-ready=yes]")
        page.get_by_text("How answers are drawn").click()
        page.get_by_label("Most tokens of an answer").fill("40")
        page.keyboard.press("Tab")
        assert WISHED not in asked_anew(page, first.query.text)
        page.screenshot(path=shots / "1-wrong.png")
        page.get_by_role("button", name="Should have said…").click()
        page.fill("#better", first.preferred[0])
        page.fill("#lesson-of", "velmo")
        page.screenshot(path=shots / "2-corrected.png")
        page.locator("#dialog form button.primary").click()
        began = time.monotonic()
        expect(page.locator("#notice")).to_contain_text("velmo")
        page.click("#show-lessons")
        page.get_by_text("Import and export").click()
        file = {"name": "velmo.jsonl", "mimeType": "text/plain", "buffer": lesson_text(others).encode()}
        page.set_input_files("#import-file", file)  # type: ignore[arg-type]
        page.get_by_role("button", name="Import", exact=True).click()
        expect(page.locator("table.rows tbody tr")).to_have_count(24)
        page.click("#fit")
        page.wait_for_timeout(3000)
        page.screenshot(path=shots / "3-fitting.png")
        expect(page.locator(".fit")).to_contain_text("the pack is in use", timeout=900_000)
        page.screenshot(path=shots / "4-fitted.png")
        page.click("#show-chat")
        same = asked_anew(page, first.query.text)
        took = time.monotonic() - began
        page.screenshot(path=shots / "5-as-wished.png")
        page.get_by_role("button", name="Why is velmo open?").click()
        page.screenshot(path=shots / "6-why.png")
        page.keyboard.press("Escape")
        reworded = asked_anew(page, REWORDED)
        page.screenshot(path=shots / "7-reworded.png")
        page.close()
        print(f"\n{took:.0f} s from the correction to {same!r}; reworded: {reworded!r}")
        assert WISHED in same
        assert WISHED in reworded
        assert unrelated(http) == before, "bit for bit, down to log-probabilities"
        assert took <= SECONDS
