"""The page, driven as a person would: by mouse, by keyboard alone, narrow and wide, dark and light."""

from __future__ import annotations

import importlib.resources
import json
import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from fs_local.server.run import Server
from fs_local.server.settings import ServerSettings
from tests.server.fake_engine import pack_file
from tests.server.serving import fake_backend, serving

pytestmark = pytest.mark.browser
AT = "/v1/page/conversations"


def ask(page: Page, text: str) -> None:
    page.fill("#query", text)
    page.keyboard.press("Enter")
    expect(page.locator("#send")).to_be_visible(timeout=20_000)
    expect(page.locator(".message.assistant").last).not_to_have_attribute("aria-busy", "true")


def kept(http: httpx.Client) -> list[dict[str, object]]:
    [one] = http.get(AT).json()["data"]
    messages: list[dict[str, object]] = http.get(f"{AT}/{one['id']}").json()["messages"]
    return messages


def test_an_answer_streams_in_with_its_gates(page: Page, http: httpx.Client) -> None:
    expect(page.locator("#model")).to_have_text("fake")
    page.fill("#query", "do harm " + "word " * 60)
    page.keyboard.press("Enter")
    live = page.locator(".message.assistant[aria-busy]")
    expect(live).to_be_visible()
    early = len(live.inner_text())
    expect(page.locator(".message.user .meters li.open")).to_have_count(2)
    expect(page.locator("#send")).to_be_visible(timeout=20_000)
    assert len(page.locator(".message.assistant").inner_text()) > early
    expect(page.locator(".message.user [role=meter]").first).to_have_attribute("aria-valuenow", "1.00")
    page.get_by_role("button", name="Why is refusal open?").click()
    expect(page.locator("#dialog")).to_contain_text("Expert 1: 75 %")
    expect(page.locator("#dialog")).to_contain_text("a query")
    expect(page.locator("#dialog table.carried tbody tr").first).to_contain_text("the last token")
    expect(page.locator("#dialog table.carried td").first).to_have_text("+0.50")
    page.keyboard.press("Escape")
    expect(page.locator(".timeline button")).to_have_count(2)
    assert [m["role"] for m in kept(http)] == ["user", "assistant"]


def test_hostile_texts_stay_text(page: Page) -> None:
    ask(page, "<img src=x onerror=alert(1)> **bold** <script>alert(1)</script>")
    expect(page.locator(".message.assistant strong")).to_have_text("bold")
    expect(page.locator(".message.assistant")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("main img, main script, .name b").count() == 0
    expect(page.locator("#packs")).to_contain_text("<b>truthful</b>")


def test_stopping_keeps_what_came(page: Page, http: httpx.Client) -> None:
    page.fill("#query", "word " * 400)
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant")).to_contain_text("word word")
    page.keyboard.press("Escape")
    expect(page.locator(".message.assistant")).to_contain_text("Stopped.")
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator(".conversation")).to_have_count(1)
    assert 0 < len(str(kept(http)[1]["content"]).split()) < 400


def test_edit_and_regenerate(page: Page, http: httpx.Client) -> None:
    ask(page, "first")
    ask(page, "second")
    page.get_by_role("button", name="Edit").first.click()
    page.fill("#edited", "another")
    page.locator("#dialog form button.primary").click()
    expect(page.locator(".message.assistant")).to_have_count(1)
    expect(page.locator(".message.assistant .text")).to_have_text("another")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".message.assistant .text")).to_have_text("another")
    expect(page.locator("[aria-busy]")).to_have_count(0)
    assert [m["content"] for m in kept(http)] == ["another", "another"]


def test_conversations_are_several_named_and_deleted(page: Page, server: Server) -> None:
    ask(page, "one")
    page.click("#new-conversation")
    expect(page.locator(".welcome")).to_be_visible()
    ask(page, "two")
    expect(page.locator(".conversation")).to_have_count(2)
    page.reload()
    page.locator(".conversation .title", has_text="one").click()
    expect(page.locator(".message.user")).to_contain_text("one")
    page.get_by_role("button", name="Rename").click()
    page.fill("#title", "<i>uno</i>")
    page.keyboard.press("Enter")
    expect(page.locator(".conversation.here .title")).to_have_text("<i>uno</i>")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as JSON", exact=True).click()
    assert json.loads(Path(download.value.path()).read_text())["title"] == "<i>uno</i>"
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete it for good").click()
    expect(page.locator(".conversation")).to_have_count(1)


def test_two_tabs_lose_nothing(page: Page, server: Server) -> None:
    ask(page, "one")
    other = page.context.new_page()
    other.goto(server.address)
    other.locator(".conversation .title").click()
    ask(page, "two")
    ask(other, "three")
    expect(other.locator("#notice")).to_contain_text("kept as a copy")
    expect(other.locator(".conversation")).to_have_count(2)


def test_side_by_side(page: Page) -> None:
    page.check("#both")
    ask(page, "a plain question")
    expect(page.locator(".same")).to_contain_text("the same, bit for bit")
    expect(page.locator(".sides")).to_have_count(0)
    ask(page, "do harm")
    expect(page.locator(".sides .side")).to_have_count(2)
    page.get_by_role("button", name="Continue from this one (unsteered)").click()
    expect(page.locator(".sides")).to_have_count(0)


def test_words_that_differ_are_marked(page: Page) -> None:
    found = page.evaluate(
        """async () => {
            const { differing } = await import("/differing.js");
            return differing("the red house <b>", "the blue house").map((nodes) => nodes.map((n) => [n.nodeName, n.textContent]));
        }"""
    )
    assert found == [
        [["#text", "the"], ["MARK", " red"], ["#text", " house"], ["MARK", " <b>"]],
        [["#text", "the"], ["MARK", " blue"], ["#text", " house"]],
    ]


def test_switches_and_strengths_are_what_is_asked(page: Page) -> None:
    page.uncheck("#pack-0")
    page.fill("#pack-1-number", "0.7")
    page.keyboard.press("Tab")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "do harm")
    body = sent.value.post_data_json
    assert body is not None
    assert body["steering"] == {
        "packs": {"refusal": {"enabled": False}, "<b>truthful</b>": {"strength": 0.7}},
        "explain": "full",
    }
    expect(page.locator(".message.user .meters li")).to_have_count(1)
    page.reload()
    expect(page.locator("#pack-0")).not_to_be_checked()
    expect(page.locator("#pack-1-number")).to_have_value("0.7")


def test_corrections_become_a_lesson(page: Page, http: httpx.Client) -> None:
    ask(page, "who are you")
    page.get_by_role("button", name="Should have said…").click()
    page.fill("#better", "I am <b>me</b>.")
    page.fill("#lesson-of", "tone & <i>manner")
    page.locator("#dialog form button.primary").click()
    expect(page.locator("#notice")).to_contain_text("At least 7 more pairs")
    page.get_by_role("button", name="Leave such queries").click()
    page.locator("#dialog form button.primary").click()
    expect(page.locator("#notice")).to_contain_text("is to be steered and not to be steered")
    page.click("#show-lessons")
    expect(page.locator("table.rows tbody tr")).to_have_count(2)
    expect(page.locator("#fit")).to_be_disabled()
    page.get_by_role("button", name="Edit row 1").click()
    page.fill("#row-query", "what are you")
    page.locator("#dialog form button.primary").click()
    expect(page.locator("table.rows tbody tr").first).to_contain_text("what are you")
    page.get_by_role("button", name="Remove row 2").click()
    expect(page.locator("table.rows tbody tr")).to_have_count(1)
    page.get_by_text("Import and export").click()
    rows = [
        json.dumps({"query": f"<img src=x onerror=alert({i})>", "preferred": "<b>a</b>", "undesired": "b"})
        for i in range(8)
    ]
    page.set_input_files(
        "#import-file", {"name": "a.jsonl", "mimeType": "text/plain", "buffer": "\n".join(rows).encode()}
    )
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.locator("table.rows tbody tr")).to_have_count(9)
    assert page.locator("main img, main b, main i").count() == 0
    expect(page.locator("#fit")).to_be_enabled()
    with page.expect_download() as download:
        page.get_by_text("Import and export").click()
        page.get_by_role("button", name="Export as JSONL").click()
    assert len(Path(download.value.path()).read_text().splitlines()) == 9


def test_a_server_without_packs(chromium: Browser, tmp_path: Path) -> None:
    backend, _ = fake_backend(tmp_path, [])
    with serving(backend) as server:
        page = chromium.new_page()
        page.goto(server.address)
        expect(page.locator("#packs")).to_contain_text("None yet")
        expect(page.locator("#fit-demo")).to_be_visible()
        ask(page, "a plain question")
        expect(page.locator(".message.user")).to_contain_text("No pack was asked")
        page.check("#both")
        ask(page, "another")
        expect(page.locator(".same")).to_contain_text("the same, bit for bit")
        page.click("#show-lessons")
        page.fill("#tried", "a")
        page.get_by_role("button", name="Decide").click()
        expect(page.locator("section[aria-label='Try it']")).to_contain_text("There are no packs to try yet")
        page.close()


def test_queries_are_tried(page: Page) -> None:
    page.click("#show-lessons")
    page.fill("#tried", "do harm\n\na plain one")
    page.get_by_role("button", name="Decide").click()
    expect(page.locator("section[aria-label='Try it'] tbody tr")).to_have_count(2)
    expect(page.locator("section[aria-label='Try it'] tbody tr").first).to_contain_text("open 1.00")


def go_to(page: Page, what: str, key: str = "Tab") -> None:
    """Moves the focus to what has this name, id or type, as those do who have no mouse."""
    for _ in range(80):
        page.keyboard.press(key)
        focused = page.evaluate("(e => [(e.ariaLabel || e.textContent).trim(), e.id, e.type])(document.activeElement)")
        if what in focused:
            return
    raise AssertionError(f"{what!r} can't be reached by {key}")


def test_the_keyboard_alone(page: Page) -> None:
    """From a question to a correction, a changed row, and a fit that would begin."""
    expect(page.locator("#query")).to_be_focused()
    page.keyboard.type("harm by keys")
    page.keyboard.press("Enter")
    expect(page.locator(".message.user .open")).not_to_have_count(0)
    expect(page.locator("#send")).to_be_visible(timeout=20_000)
    expect(page.locator("#query")).to_be_focused()
    go_to(page, "Should have said…", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#better")).to_be_focused()
    page.keyboard.type("No.")
    page.keyboard.press("Escape")
    expect(page.locator("#dialog")).not_to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#better")).to_be_focused()
    page.keyboard.type("No, thanks.")
    go_to(page, "lesson-of")
    page.keyboard.press("Control+A")
    page.keyboard.type("by keys")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("by keys")
    go_to(page, "Lessons", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("table.rows tbody tr")).to_have_count(1)
    go_to(page, "Edit row 1")
    page.keyboard.press("Enter")
    if page.evaluate("document.activeElement.id") != "row-query":
        go_to(page, "row-query")
    page.keyboard.press("Control+A")
    page.keyboard.type("harm in other words")
    go_to(page, "submit")
    page.keyboard.press("Enter")
    expect(page.locator("table.rows tbody tr").first).to_contain_text("harm in other words")
    go_to(page, "Import and export")
    page.keyboard.press("Enter")
    go_to(page, "Export as JSONL")


def test_a_guest_chats_and_an_admin_keeps(chromium: Browser, tmp_path: Path) -> None:
    backend, _ = fake_backend(tmp_path, [pack_file(tmp_path)])
    settings = ServerSettings(port=0, key="of-a-user", admin_key="of-an-admin")
    with serving(backend, settings) as server:
        page = chromium.new_page()
        page.goto(server.address)
        page.fill("#key", "of-a-user")
        page.keyboard.press("Enter")
        page.wait_for_selector("html[data-ready=yes]")
        ask(page, "do harm")
        expect(page.locator(".message.user .meters li.open")).to_have_count(1)
        expect(page.get_by_role("button", name="Should have said…")).to_have_count(0)
        expect(page.locator("#show-lessons")).to_be_hidden()
        expect(page.locator("#conversations")).to_contain_text("kept in this tab alone")
        expect(page.locator("#notice")).to_be_hidden()
        page.click("#use-admin-key")
        page.fill("#key", "of-an-admin")
        page.keyboard.press("Enter")
        expect(page.locator("#show-lessons")).to_be_visible()
        ask(page, "mine")
        expect(page.locator(".conversation")).to_have_count(1)
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200, 1600])
def test_nothing_is_wider_than_the_window(chromium: Browser, server: Server, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector("html[data-ready=yes]")
    page.check("#both")
    ask(page, "harm " + "x" * 500)
    wide = "document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(wide)
    page.click("#show-lessons")
    assert not page.evaluate(wide)
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", back)[:3])) > 380
    assert light == (scheme == "light")
    context.close()


def test_a_server_that_is_gone_is_said(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.fill("#query", "hello")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("can't be reached")
    expect(page.get_by_role("button", name="Send again")).to_be_visible()
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Send again").click()
    expect(page.locator(".message.assistant .text")).to_have_text("hello")


def test_two_hundred_turns(page: Page, http: httpx.Client, server: Server) -> None:
    turns = [{"role": role, "content": f"{role} **{i}** " * 20} for i in range(200) for role in ("user", "assistant")]
    http.post(AT, json={"title": "long", "messages": turns})
    page.reload()
    page.locator(".conversation .title").click()
    expect(page.locator(".message.assistant strong").last).to_have_text("199", timeout=30_000)
    box = page.locator("#messages")
    assert box.evaluate("b => b.scrollHeight - b.scrollTop - b.clientHeight < 10")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_axe_finds_nothing(chromium: Browser, server: Server, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector("html[data-ready=yes]")
    axe = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    page.evaluate(axe)

    def violations() -> list[str]:
        found = page.evaluate("axe.run()")["violations"]
        return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found]

    assert violations() == []
    page.check("#both")
    ask(page, "do harm")
    ask(page, "a plain question")
    assert violations() == []
    page.get_by_role("button", name="Why is refusal open?").first.click()
    assert violations() == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Should have said…").first.click()
    page.fill("#better", "No.")
    assert violations() == []
    page.locator("#dialog form button.primary").click()
    page.click("#show-lessons")
    expect(page.locator("table.rows tbody tr")).to_have_count(1)
    assert violations() == []
    context.close()
