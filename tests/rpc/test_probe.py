"""What `--rpc` names is reached before llama.cpp is let near it: whatever is there gets a sentence. No llama.cpp with RPC is needed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from fs_local.errors import ModelError
from fs_local.runtime import rpc_client
from fs_local.runtime.placement import Placement, parse_split
from fs_local.runtime.rpc_client import endpoints, probe

HELLO = bytes([14]) + (24).to_bytes(8, "little") + bytes(24)


def listening(answer: Callable[[socket.socket], None]) -> tuple[socket.socket, str]:
    """A server that takes one connection; and its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    return server, f"127.0.0.1:{server.getsockname()[1]}"


def test_a_worker_says_its_version() -> None:
    asked = []

    def answer(connection: socket.socket) -> None:
        asked.append(connection.recv(100))
        connection.sendall((28).to_bytes(8, "little") + bytes([7, 1, 2, 0]) + bytes(24))

    server, address = listening(answer)
    with server:
        assert probe(address) == (7, 1, 2)
    assert asked == [HELLO]


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3, b"", b"\x05", (3).to_bytes(8, "little") + bytes(28)]
)
def test_what_speaks_something_else_is_no_worker(data: bytes) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(data)

    server, address = listening(answer)
    with server, pytest.raises(ModelError, match="is no worker of this version"):
        probe(address)


def test_who_does_not_answer_may_be_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_client, "_TIMEOUT_S", 0.2)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(ModelError, match="serves one client at a time"):
        probe(f"127.0.0.1:{silent.getsockname()[1]}")


def test_where_nobody_is_the_sentence_says_how_to_start_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ModelError, match=f"no worker at 127.0.0.1:{port}: .*fs-local worker --port {port}"):
        probe(f"127.0.0.1:{port}")
    with pytest.raises(ModelError, match=r"no worker at no-such-host\.invalid:50052"):
        probe("no-such-host.invalid:50052")


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:65536", "host:1x", "a:1,,b:2", "::1:50052", "a:1,a:1", ",".join(f"a:{i}" for i in range(1, 17))])  # fmt: skip
def test_addresses_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ModelError, match="--rpc"):
        endpoints(text)


def test_addresses() -> None:
    assert endpoints("a:1, b.example.org:50052") == ("a:1", "b.example.org:50052")


def test_the_tensor_split_is_refused_with_its_reason() -> None:
    with pytest.raises(ModelError, match="no block's residual stream whole on one device"):
        parse_split("tensor")
    with pytest.raises(ModelError, match="must be one of layer, none, row"):
        parse_split("columns")
    assert parse_split("row") == "row"


def test_results_are_kept_apart_by_where_they_were_computed() -> None:
    places = [Placement(), Placement(12), Placement(-1), Placement(workers=("a:1",)), Placement(workers=("a:1", "b:1")), Placement(5, workers=("a:1",)), Placement(-1, split="row"), Placement(devices=("CUDA1",))]  # fmt: skip
    assert len({p.name for p in places}) == len(places)
    assert places[0].name == "cpu"
