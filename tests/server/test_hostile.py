"""What bad input gets: one sentence, the right status, and the next request works (the fixture asks for that)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from fs_local.server import bodies, connection_limits, limits, streaming
from tests.server.conftest import Served
from tests.server.serving import chat, client, fake_backend, serving

JSON = {"Content-Type": "application/json"}


def sentence(answer: httpx.Response, status: int) -> str:
    """The one sentence of an error."""
    assert answer.status_code == status, answer.text
    text = answer.json()["error"]["message"]
    assert isinstance(text, str)
    assert 0 < len(text) <= 400
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def post(served: Served, content: bytes | str, path: str = "/v1/chat/completions") -> httpx.Response:
    return served.http.post(path, content=content, headers=JSON)


def with_value(text: str) -> str:
    return f'{{"model": "fake", "messages": [{{"role": "user", "content": "a"}}], "temperature": {text}}}'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "body is missing"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 10_000 + b"]" * 10_000, "nested"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested"),
        (b"[" * 1_000_000, "nested"),
        (b"[" * 66 + b"]" * 66, "nested"),
        (with_value("NaN"), "NaN"),
        (with_value("Infinity"), "Infinity"),
        (with_value("-Infinity"), "-Infinity"),
        (with_value("1e999"), "too large"),
        (with_value("9" * 5000), "too long"),
        (with_value("1e300"), "temperature"),
        (with_value("-1"), "temperature"),
        (with_value('"\\ud800"'), "surrogate"),
        (with_value('0, "\\udfff": 1'), "surrogate"),
        (with_value("1, \"temperature\": 2"), "twice"),
        (b'{"messages": [{"role": "user", "role": "system", "content": "a"}]}', "twice"),
        (b"[]", "valid dictionary"),
        (b'"text"', "valid dictionary"),
        (b"[" + b"0," * 300_000 + b"0]", "values"),
    ],
)  # fmt: skip
def test_what_is_no_json_of_ours(served: Served, content: bytes | str, said: str) -> None:
    assert said in sentence(post(served, content), 400)


def test_a_character_outside_the_basic_plane_is_no_lone_surrogate(served: Served) -> None:
    body = '{"model": "fake", "messages": [{"role": "user", "content": "\\ud83d\\ude00"}]}'
    assert post(served, body).json()["choices"][0]["message"]["content"] == "😀"


def test_a_body_of_100_megabytes(served: Served) -> None:
    assert "8 MiB" in sentence(post(served, b" " * (100 << 20)), 413)

    def endless() -> Any:
        for _ in range(100):
            yield b" " * (1 << 20)

    assert "8 MiB" in sentence(served.http.post("/v1/chat/completions", content=endless(), headers=JSON), 413)


def test_100_000_messages(served: Served) -> None:
    messages = [{"role": "user", "content": "a"}] * 60_000
    sentence(served.http.post("/v1/chat/completions", json={"model": "fake", "messages": messages}), 400)
    assert "8 MiB" in sentence(
        served.http.post("/v1/chat/completions", json={"model": "fake", "messages": messages * 8}), 413
    )


@pytest.mark.parametrize(
    "more",
    [
        {"n": 10**6},
        {"n": -1},
        {"max_tokens": -5},
        {"max_tokens": 10**18},
        {"seed": 10**30},
        {"top_p": -0.1},
        {"stop": ["x"] * 5000},
        {"stop": "x" * 100_000},
        {"logit_bias": {str(i): 1 for i in range(5000)}},
        {"logit_bias": {"5": 1e9}},
        {"logit_bias": {"-5": 1}},
        {"steering": {"packs": {str(i): {} for i in range(1000)}}},
        {"steering": {"packs": {"refusal": {"strength": -1e308}}}},
        {"model": "x" * 10_000},
        {"model": "../../etc/passwd"},
        {"messages": [{"role": "user", "content": "x " * 3000}]},
    ],
)
def test_numbers_and_lists_beyond_reason(served: Served, more: dict[str, Any]) -> None:
    sentence(
        served.http.post("/v1/chat/completions", json={**chat(), **more}),
        404 if "model" in more and "/" in more["model"] else 400,
    )


def test_a_prompt_longer_than_the_context_says_so(served: Served) -> None:
    answer = served.http.post("/v1/chat/completions", json=chat("x " * 3000))
    assert "4,096" in sentence(answer, 400)
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    long = served.http.post("/v1/chat/completions", json=chat("x" * (3 << 20)))
    assert "characters" in sentence(long, 400)


def nested(depth: int) -> str:
    return '{"items":' * depth + "{}" + "}" * depth


@pytest.mark.parametrize(
    ("schema", "status"),
    [
        (nested(60_000), 400),
        (nested(40), 400),
        (nested(10), 200),
        ('{"$ref": "#"}', 400),
        ('{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}', 400),
        ('{"$ref": "#/nowhere"}', 400),
        ('{"$ref": "https://evil.example/schema"}', 400),
        ('{"type": "string", "pattern": "((((a{1,100}){1,100}){1,100}){1,100})"}', None),
        ('{"type": "string", "pattern": "(a|aa)+$(?=b)"}', 400),
        ('{"type": "string", "pattern": "(.*a){40}b{500}"}', None),
        ('{"type": "string", "maxLength": 1000000000}', None),
        ('{"type": "array", "minItems": 100000000}', None),
        ('{"type": "nonsense"}', 400),
        (json.dumps({"enum": ["x" * 100_000]}), 400),
        (json.dumps({"anyOf": [{"const": i} for i in range(3000)]}), None),
        ('{"multipleOf": 1e-300}', None),
        ("true", None),
        ("[]", 400),
    ],
    ids=range(18),
)  # fmt: skip
def test_hostile_schemas_end_nothing(served: Served, schema: str, status: int | None) -> None:
    """Those without a status may be followed or refused; what matters is that they are answered soon."""
    form = f'{{"type": "json_schema", "json_schema": {{"name": "s", "schema": {schema}}}}}'
    body = f'{{"model": "fake", "messages": [{{"role": "user", "content": "a"}}], "response_format": {form}}}'
    began = time.monotonic()
    answer = post(served, body)
    assert time.monotonic() - began < limits.SCHEMA_SECONDS + 3
    if status == 200:
        assert answer.status_code == 200, answer.text
    elif status or answer.status_code != 200:
        sentence(answer, 400)


def until(condition: Any, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/steering/compare"])
def test_a_client_that_hangs_up_leaves_nothing_behind(tmp_path: Path, stream: bool, path: str) -> None:
    backend, engines = fake_backend(tmp_path, [], delay=0.05)
    with serving(backend) as server, client(server) as http:
        body = json.dumps(chat("word " * 200, stream=stream)).encode()
        connection = socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2])))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert until(lambda: engines[0].running)
        connection.close()
        assert until(lambda: not engines[0].running, 2)
        assert http.post("/v1/chat/completions", json=chat()).status_code == 200


def test_a_client_that_does_not_read_holds_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.5)
    backend, engines = fake_backend(tmp_path, [])
    with serving(backend) as server, client(server) as http:
        with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps(chat("w " * 2000, n=16, stream=True)).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert until(lambda: len(engines[0].requests) == 16)
            assert until(lambda: not engines[0].running)
        assert http.post("/v1/chat/completions", json=chat()).status_code == 200


def test_500_connections_and_slow_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "HEADER_SECONDS", 1.0)
    backend, _ = fake_backend(tmp_path, [])
    with serving(backend) as server, client(server) as http:
        address = ("127.0.0.1", int(server.address.rpartition(":")[2]))
        slow = [socket.create_connection(address) for _ in range(500)]
        for connection in slow:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        assert http.post("/v1/chat/completions", json=chat()).status_code == 200
        more = [socket.create_connection(address) for _ in range(30)]
        assert b" 503 " in more[-1].recv(200), "beyond the bound"
        for connection in slow:
            connection.settimeout(10)
            assert connection.recv(100) == b"", "hung up on"
        for connection in slow + more:
            connection.close()
        assert http.post("/v1/chat/completions", json=chat()).status_code == 200


def test_a_slow_body(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", int(served.server.address.rpartition(":")[2]))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        connection.settimeout(5)
        assert b" 408 " in connection.recv(200)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/models/%ff%fe%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET //evil.example/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
    ids=["tls", "version", "long header", "negative length", "two lengths", "odd path", "path up"],
)  # fmt: skip
def test_what_is_no_http_of_ours(served: Served, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", int(served.server.address.rpartition(":")[2]))) as connection:
        connection.settimeout(10)
        connection.sendall(raw)
        status = connection.recv(100)
        assert status.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")) or status == b""


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    backend, engines = fake_backend(tmp_path, [], delay=0.02, room=4)
    with serving(backend) as server, client(server) as http, ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda _: http.post("/v1/chat/completions", json=chat("word " * 20)), range(32)))
        assert {a.status_code for a in found} == {200, 503}
        assert all(a.headers["Retry-After"] == "2" for a in found if a.status_code == 503)
        partly = http.post("/v1/chat/completions", json=chat(n=6))
        assert partly.status_code == 503
        assert not engines[0].running, "all answers or none"
        assert http.post("/v1/chat/completions", json=chat()).status_code == 200


def test_a_model_file_that_changes_is_noticed_before_it_is_read(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    whole, times = file.read_bytes(), file.stat()
    os.truncate(file, 2)
    assert "changed on disk" in sentence(served.http.post("/v1/chat/completions", json=chat()), 503)
    file.write_bytes(whole)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_stop_under_load_ends_streams_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fs_local.server.run.GRACE_SECONDS", 0.3)
    backend, engines = fake_backend(tmp_path, [], delay=0.05)
    texts: list[str] = []
    with serving(backend) as server:

        def read() -> None:
            with client(server) as http:
                texts.append(http.post("/v1/chat/completions", json=chat("word " * 100, stream=True)).text)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert until(lambda: len(engines[0].running) == 4)
    for thread in threads:
        thread.join(10)
    assert len(texts) == 4
    for text in texts:
        assert "shutting down" in text
        assert text.endswith("data: [DONE]\n\n")
    assert engines[0].closed


def test_a_short_answer_under_way_is_whole_at_a_stop(tmp_path: Path) -> None:
    backend, engines = fake_backend(tmp_path, [], delay=0.05)
    found: list[httpx.Response] = []
    with serving(backend) as server:

        def ask() -> None:
            with client(server) as http:
                found.append(http.post("/v1/chat/completions", json=chat("word " * 10)))

        thread = threading.Thread(target=ask)
        thread.start()
        assert until(lambda: engines[0].running)
    thread.join(10)
    assert found[0].json()["choices"][0]["finish_reason"] == "stop"


def test_sigterm_ends_a_process_that_loads_or_serves(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from tests.server.serving import fake_backend; from fs_local.server.run import serve_forever\n"
        "from fs_local.server.settings import ServerSettings\n"
        "backend, _ = fake_backend(pathlib.Path(sys.argv[1]), [])\n"
        "serve_forever(backend, ServerSettings(port=0), lambda a: print(a, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert httpx.get(f"{address}/health").status_code == 200
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
    assert process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in log


def test_an_engine_that_fails_is_said_in_the_stream(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from fs_local.errors import FsLocalError
    from tests.server.fake_engine import FakeStream

    async def broken(self: FakeStream) -> Any:
        raise FsLocalError("the state after block 3 is not finite")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(FakeStream, "__aiter__", broken)
        assert "not finite" in sentence(served.http.post("/v1/chat/completions", json=chat()), 500)
        streamed = served.http.post("/v1/chat/completions", json=chat(stream=True))
        assert streamed.status_code == 200
        assert "not finite" in streamed.text


def test_our_own_mistakes_show_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret: /home/someone")

    with monkeypatch.context() as patch:
        patch.setattr(served.engine, "submit", broken)
        text = sentence(served.http.post("/v1/chat/completions", json=chat()), 500)
        assert "secret" not in text
