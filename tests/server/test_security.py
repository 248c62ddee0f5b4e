"""Who is answered, and who is not: each refusal is one sentence with the right status, and the next request works."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fs_local.errors import FsLocalError
from fs_local.server.run import Server
from fs_local.server.security import host_name
from fs_local.server.settings import ServerSettings
from tests.server.conftest import Served
from tests.server.fake_engine import pack_file
from tests.server.serving import chat, client, fake_backend, serving

USER, ADMIN = "user-key-1", "admin-key-1"
ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/fake"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/steering/packs"),
    ("POST", "/v1/steering/decide"),
    ("POST", "/v1/steering/compare"),
    ("PATCH", "/v1/steering/packs/refusal"),
    ("POST", "/v1/steering/packs/refusal/reload"),
    ("GET", "/api/version"),
    ("GET", "/api/tags"),
    ("GET", "/api/ps"),
    ("POST", "/api/show"),
    ("POST", "/api/chat"),
    ("POST", "/api/generate"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/page/conversations"),
    ("POST", "/v1/page/conversations"),
    ("GET", "/v1/page/conversations/{id}"),
    ("PATCH", "/v1/page/conversations/{id}"),
    ("DELETE", "/v1/page/conversations/{id}"),
    ("GET", "/v1/page/conversations/{id}/export"),
    ("GET", "/v1/page/lessons"),
    ("POST", "/v1/page/lessons"),
    ("PATCH", "/v1/page/lessons/{name}"),
    ("DELETE", "/v1/page/lessons/{name}"),
    ("GET", "/v1/page/lessons/{name}/rows"),
    ("POST", "/v1/page/lessons/{name}/rows"),
    ("PATCH", "/v1/page/lessons/{name}/rows/{id}"),
    ("DELETE", "/v1/page/lessons/{name}/rows/{id}"),
    ("POST", "/v1/page/lessons/{name}/import"),
    ("GET", "/v1/page/lessons/{name}/export"),
    ("GET", "/v1/page/fits"),
    ("POST", "/v1/page/fits"),
    ("DELETE", "/v1/page/fits"),
    ("POST", "/v1/page/fits/restore"),
    ("POST", "/v1/page/fits/load"),
    ("GET", "/v1/page/fits/report"),
    ("GET", "/v1/page/packs"),
    ("POST", "/v1/page/demo"),
    ("POST", "/v1/page/markdown"),
]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("locked")
    backend, _ = fake_backend(folder, [pack_file(folder)])
    settings = ServerSettings(port=0, key=USER, admin_key=ADMIN, allow_origins=("https://good.example",))
    with serving(backend, settings) as server:
        yield server


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_every_route_is_in_the_list(locked: Server) -> None:
    with client(locked, **bearer(USER)) as http:
        known = {(m.upper(), p) for p, ms in http.get("/openapi.json").json()["paths"].items() for m in ms}
    listed = {(m, p.replace("/refusal", "/{name}").replace("/models/fake", "/models/{model}")) for m, p in ROUTES}
    assert known - {("GET", "/health")} == listed - {("GET", "/openapi.json")}


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "shown",
    [
        {},
        bearer("wrong-key"),
        {"Authorization": "Bearer"},
        {"Authorization": "Basic dXNlcjp4"},
        {"X-Api-Key": USER[:-1]},
    ],
)
def test_no_route_answers_without_the_key(locked: Server, method: str, path: str, shown: dict[str, str]) -> None:
    with client(locked, **shown) as http:
        answer = http.request(method, path, json={} if method != "GET" else None)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    message = answer.json()["error"]
    assert "Authorization: Bearer" in (message if isinstance(message, str) else message["message"])


def test_users_use_and_admins_change(locked: Server) -> None:
    for key in (USER, ADMIN):
        for shown in (bearer(key), {"X-Api-Key": key}):
            with client(locked, **shown) as http:
                assert http.get("/v1/models").status_code == 200
                assert http.post("/v1/chat/completions", json=chat()).status_code == 200
    with client(locked, **bearer(USER)) as http:
        assert http.patch("/v1/steering/packs/refusal", json={"strength": 1}).status_code == 403
        assert http.post("/v1/steering/packs/refusal/reload", json={}).status_code == 403
    with client(locked, **bearer(ADMIN)) as http:
        assert http.patch("/v1/steering/packs/refusal", json={"strength": 1}).status_code == 200
    with client(locked) as http:
        assert http.get("/health").status_code == 200


def test_without_an_admin_key_users_change_nothing(tmp_path: Path) -> None:
    backend, _ = fake_backend(tmp_path, [pack_file(tmp_path)])
    with serving(backend, ServerSettings(port=0, key=USER)) as server, client(server, **bearer(USER)) as http:
        assert http.patch("/v1/steering/packs/refusal", json={"strength": 1}).status_code == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.2",
        "[::2]:80",
        "",
        "localhost:80@evil.example",
    ],
)
def test_a_foreign_host_is_refused(served: Served, host: str) -> None:
    answer = served.http.get("/v1/models", headers={"Host": host})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:8080", "localhost."])
def test_its_own_names_are_answered(served: Served, host: str) -> None:
    assert served.http.get("/v1/models", headers={"Host": host}).status_code == 200


def test_hosts_that_are_allowed(tmp_path: Path) -> None:
    backend, _ = fake_backend(tmp_path, [])
    settings = ServerSettings(host="0.0.0.0", port=0, key=USER, allow_hosts=("box.local",))
    with serving(backend, settings) as server:
        address = server.address.replace("0.0.0.0", "127.0.0.1")
        for host, status in (("box.local:80", 200), ("192.168.1.2", 200), ("evil.example", 403)):
            assert httpx.get(f"{address}/v1/models", headers={"Host": host, **bearer(USER)}).status_code == status


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "https://good.example.evil"])
def test_a_foreign_page_is_refused(locked: Server, origin: str) -> None:
    with client(locked, **bearer(USER), Origin=origin) as http:
        for answer in (
            http.get("/v1/models"),
            http.post("/v1/chat/completions", json=chat()),
            http.options("/v1/models", headers={"Access-Control-Request-Method": "POST"}),
        ):
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers


def test_an_allowed_page_and_its_own(locked: Server) -> None:
    with client(locked, **bearer(USER)) as http:
        good = {"Origin": "https://good.example"}
        asked = http.options(
            "/v1/models", headers={**good, "Access-Control-Request-Method": "POST", "Authorization": ""}
        )
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == "https://good.example"
        answer = http.post("/v1/chat/completions", json=chat(), headers=good)
        assert answer.headers["access-control-allow-origin"] == "https://good.example"
        own = http.get("/v1/models", headers={"Origin": locked.address})
        assert own.status_code == 200
        assert "access-control-allow-origin" not in own.headers


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
        "application/json; charset=latin1",
        "application/jsonp",
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/steering/packs/refusal/reload"])
def test_a_post_that_a_page_could_send_unasked_is_refused(served: Served, kind: str, path: str) -> None:
    headers = {"Content-Type": kind, "Origin": served.server.address}
    answer = served.http.post(path, content=b"{}", headers=headers)
    assert answer.status_code == 415


@pytest.mark.parametrize("said", [{}, {"Content-Type": "application/x-www-form-urlencoded"}])
def test_curl_may_leave_it_out_and_a_browser_may_not(served: Served, said: dict[str, str]) -> None:
    body = b'{"model": "fake", "messages": [{"role": "user", "content": "a"}]}'

    def post(path: str, **headers: str) -> int:
        request = served.http.build_request("POST", path, content=body, headers={**said, **headers})
        assert ("content-type" in request.headers) == bool(said)
        return served.http.send(request).status_code

    assert post("/api/chat") == 200
    assert post("/v1/chat/completions") == 200
    assert post("/v1/steering/packs/refusal/reload") == 415
    assert post("/v1/page/lessons") == 415
    assert post("/api/chat", **{"Sec-Fetch-Site": "cross-site"}) == 415
    assert post("/api/chat", Origin=served.server.address) == 415


def test_compressed_bodies_are_refused(served: Served) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert served.http.post("/v1/chat/completions", content=b"x", headers=headers).status_code == 415


def test_two_hosts_are_refused(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", int(served.server.address.rpartition(":")[2]))) as connection:
        connection.sendall(
            b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        )
        assert b" 400 " in connection.recv(200)


def test_settings_that_are_not_safe_are_refused() -> None:
    for host in ("0.0.0.0", "192.168.1.2", "::", "example.org"):
        with pytest.raises(FsLocalError, match="needs a key"):
            ServerSettings(host=host)
        ServerSettings(host=host, key=USER)
    for host in ("127.0.0.1", "127.5.5.5", "::1", "localhost"):
        ServerSettings(host=host)
    for key in ("short", "with space in it", "schlüssel-lang", "new\nline-key"):
        with pytest.raises(FsLocalError, match="a key has"):
            ServerSettings(key=key)
    with pytest.raises(FsLocalError, match="admin key"):
        ServerSettings(key=USER, admin_key=USER)
    assert USER not in repr(ServerSettings(key=USER))


def test_the_name_in_a_host_header() -> None:
    assert [host_name(h) for h in ("A.b:1", "[::1]:2", "127.0.0.1", "x.", "[0:0::1]")] == [
        "a.b",
        "::1",
        "127.0.0.1",
        "x",
        "::1",
    ]


def test_no_path_of_this_machine_leaves(served: Served, tmp_path: Path) -> None:
    for path in ("/v1/models", "/v1/steering/packs", "/api/tags", "/metrics", "/openapi.json"):
        assert str(tmp_path) not in served.http.get(path).text
    assert str(tmp_path) not in served.http.post("/api/show", json={"model": "fake"}).text


def test_other_headers(served: Served) -> None:
    answer = served.http.get("/v1/models", headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    odd = served.http.get("/v1/models", headers={"X-Request-Id": "a b\tc" + "x" * 200})
    assert len(odd.headers["x-request-id"]) == 32
