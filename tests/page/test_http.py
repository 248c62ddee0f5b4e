"""The page's routes, without a browser."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import httpx
import pytest

from fs_local.server.run import Server
from fs_local.server.settings import ServerSettings
from tests.server.fake_engine import pack_file
from tests.server.serving import client, fake_backend, serving

KEPT = [
    "/v1/page/conversations",
    "/v1/page/lessons",
    "/v1/page/fits",
    "/v1/page/lessons/a/rows",
    "/v1/page/fits/report",
]
PAIR = {"kind": "pair", "messages": [{"role": "user", "content": "a"}], "preferred": ["yes"], "undesired": ["no"]}


def test_the_pages_files_come_with_a_strict_policy(http: httpx.Client) -> None:
    found = http.get("/")
    assert "default-src 'none'" in found.headers["content-security-policy"]
    assert "unsafe" not in found.headers["content-security-policy"]
    assert "<script>" not in found.text
    assert " style=" not in found.text
    folder = Path(__file__).parents[2] / "fs_local" / "page"
    preloaded = set(re.findall(r'modulepreload" href="([a-z_]+\.js)"', found.text))
    wanted, seen = ["main.js"], set()
    while wanted:
        seen.add(name := wanted.pop())
        wanted += set(re.findall(r'^import .*"\./([a-z_]+\.js)"', (folder / name).read_text(), re.MULTILINE)) - seen
    assert preloaded == seen - {"main.js"}, "else they come one after the other"
    size = sum(len(http.get(f"/{path.name}").content) for path in folder.iterdir())
    assert size <= 150_000


def test_conversations_are_kept(http: httpx.Client, server: Server, own_data: Path) -> None:
    at = "/v1/page/conversations"
    messages = [
        {"role": "user", "content": "hi", "decisions": []},
        {"role": "assistant", "content": "ho", "better": "hello"},
    ]
    one = http.post(at, json={"title": "<b>one</b>", "messages": messages}).json()
    assert http.get(f"{at}/{one['id']}").json()["messages"] == messages
    changed = http.patch(f"{at}/{one['id']}", json={"version": 1, "title": "two"})
    assert changed.json()["version"] == 2
    assert [c["title"] for c in http.get(at).json()["data"]] == ["two"]
    stale = http.patch(f"{at}/{one['id']}", json={"version": 1, "messages": []})
    assert (stale.status_code, stale.json()["error"]["code"]) == (409, "changed")
    pairs = http.get(f"{at}/{one['id']}/export?form=pairs").text
    assert pairs == '{"messages": [{"role": "user", "content": "hi"}], "preferred": ["hello"], "undesired": ["ho"]}\n'
    assert http.get(f"{at}/{one['id']}/export").json()["title"] == "two"
    file = own_data / "fs-local" / "fs-local.sqlite3"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert http.delete(f"{at}/{one['id']}", headers={"content-type": "application/json"}).status_code == 200
    assert http.get(f"{at}/{one['id']}").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"title": ""},
        {"title": "a", "messages": [{"role": "tool", "content": ""}]},
        {"title": "a", "more": 1},
        {"title": "a" * 201},
    ],
)
def test_conversations_that_are_none(http: httpx.Client, body: dict[str, object]) -> None:
    assert http.post("/v1/page/conversations", json=body).status_code == 400


def test_lessons(http: httpx.Client) -> None:
    at = "/v1/page/lessons"
    name = "a?b#c% <i>"
    assert http.post(at, json={"name": name}).status_code == 201
    assert http.post(at, json={"name": name}).status_code == 409
    assert http.get(f"{at}/no-such/rows").status_code == 404
    there = f"{at}/a%3Fb%23c%25%20%3Ci%3E"
    assert http.get(f"{there}/rows").status_code == 200
    added = http.post(f"{there}/rows", json=PAIR).json()
    assert added["missing"][0].startswith("At least 7 more pairs")
    assert not added["can_fit"]
    empty = http.post(f"{there}/rows", json={**PAIR, "preferred": []})
    assert (empty.status_code, empty.json()["error"]["message"]) == (
        400,
        "this row: `preferred` must be a text or a list of texts",
    )
    bad = http.post(f"{there}/import", json={"text": '{"query": "a"}\n{'})
    assert "line 1: `kind` must be" in bad.json()["error"]["message"]
    more = http.post(f"{there}/import", json={"text": '{"query": "a"}', "kind": "general"}).json()
    assert len(more["contradictions"]) == 1
    assert http.patch(f"{there}/rows/99", json=PAIR).status_code == 404
    exported = http.get(f"{there}/export")
    assert exported.headers["content-type"] == "application/jsonl"
    assert len(exported.text.splitlines()) == 2
    refused = http.post("/v1/page/fits", json={"lesson": name})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_few_examples")


@pytest.mark.parametrize(
    ("text", "never"),
    [
        ("<script>alert(1)</script>", "<script"),
        ("<img src=x onerror=alert(1)>", "<img"),
        ("![a](http://example.org/a.png)", "<img"),
        ("[a](javascript:alert(1))", "<a"),
        ("[a](data:text/html,x)", "<a"),
    ],
)
def test_hostile_markdown_is_text(http: httpx.Client, text: str, never: str) -> None:
    [html] = http.post("/v1/page/markdown", json={"texts": [text]}).json()["html"]
    assert never not in html


def test_what_is_kept_is_the_admins(tmp_path: Path) -> None:
    backend, _ = fake_backend(tmp_path, [pack_file(tmp_path)])
    settings = ServerSettings(port=0, key="of-a-user", admin_key="of-an-admin")
    with serving(backend, settings) as server, client(server) as http:
        user, admin = ({"Authorization": f"Bearer {key}"} for key in (settings.key, settings.admin_key))
        assert http.get("/").status_code == 200
        for path in KEPT:
            assert [http.get(path, headers=h).status_code for h in ({}, user)] == [401, 403], path
            assert http.get(path, headers=admin).status_code not in (401, 403)
            assert http.get(path + "?x=1", headers=user).status_code == 403
        assert "need the admin key" in http.get(KEPT[0], headers=user).json()["error"]["message"]
        assert http.post("/v1/page/demo", json={}, headers=user).status_code == 403
        assert http.post("/v1/page/fits", json={"lesson": "a"}, headers=user).status_code == 403
        assert http.post("/v1/page/fits", json={"lesson": "a"}, headers=admin).status_code == 404
        assert http.get("/v1/page/packs").status_code == 401
        of_user, of_admin = (http.get("/v1/page/packs", headers=h).json() for h in (user, admin))
        assert (of_user["is_owner"], of_admin["is_owner"]) == (False, True)
        assert of_user["packs"][0]["experts"][0]["queries"] == [], "they are the owner's examples"
        assert of_admin["packs"][0]["experts"][0]["queries"] == ["a query"]
        assert http.post("/v1/page/markdown", json={"texts": ["a"]}, headers=user).status_code == 200


@pytest.mark.parametrize(
    ("settings", "shown", "status"),
    [
        (ServerSettings(port=0), "", 200),
        (ServerSettings(port=0, key="of-a-user"), "of-a-user", 200),
        (ServerSettings(port=0, key="of-a-user"), "", 401),
        (ServerSettings(port=0, admin_key="of-an-admin"), "", 401),
        (ServerSettings(port=0, admin_key="of-an-admin"), "of-an-admin", 200),
        (ServerSettings("0.0.0.0", port=0, key="of-a-user"), "of-a-user", 403),
        (ServerSettings("0.0.0.0", port=0, key="of-a-user", admin_key="of-an-admin"), "of-an-admin", 200),
    ],
)
def test_whose_what_is_kept_is(tmp_path: Path, settings: ServerSettings, shown: str, status: int) -> None:
    backend, _ = fake_backend(tmp_path, [])
    with serving(backend, settings) as server:
        port = server.address.rpartition(":")[2]
        for path in KEPT[:2]:
            headers = {"Authorization": f"Bearer {shown}"} if shown else {}
            answer = httpx.get(f"http://127.0.0.1:{port}{path}", headers=headers)
            assert answer.status_code == status, answer.text
