"""Models whose blocks lie on two workers: exact, as on one machine, and no end of the program where a worker ends.

Needs a llama-cpp-python with RPC: `fs-local doctor` shows the line that installs it. Run with: pytest -m rpc -n 0
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fs_local.engine import Decision, Engine, Request, Sampling, Steer
from fs_local.model_files import resolve_model
from fs_local.runtime.context import Context
from fs_local.runtime.layer_states import LayerStates
from fs_local.runtime.model import Model
from fs_local.runtime.placement import Placement
from tests.packs import synthetic_pack
from tests.rpc.proxy import Proxy
from tests.rpc.worker import ROOT, WorkerProcess

pytestmark = pytest.mark.rpc
TOKENS = list(range(100, 140))


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    with WorkerProcess() as a, WorkerProcess() as b:
        yield a, b


@pytest.fixture(scope="module")
def far(two: tuple[WorkerProcess, WorkerProcess]) -> Iterator[Model]:
    """SmolLM2 on two workers."""
    with Model.load(resolve_model("smollm2"), placement=Placement(workers=(two[0].address, two[1].address))) as model:
        yield model


@pytest.fixture(scope="module")
def near() -> Iterator[Model]:
    """The same here, without the kernels that workers don't have."""
    with Model.load(resolve_model("smollm2"), extra_kernels=False) as model:
        yield model


def results(model: Model) -> dict[str, np.ndarray]:
    """Logits of a prompt and a token after it, in every way that there is to steer."""
    vector = np.random.default_rng(0).standard_normal(model.width).astype(np.float32)

    def add(states: LayerStates) -> bool:
        states.add(vector)
        return True

    with Context(model, n_ctx=256, n_threads=1) as context:

        def logits() -> np.ndarray:
            context.clear()
            context.decode(TOKENS, start=0)
            context.decode([7], start=len(TOKENS))
            return context.logits()

        found = {"plain": logits()}
        with context.hooked([4, 20], lambda states: states.read() is not None):
            found["read"] = logits()
        for layer in (4, 20):
            with context.hooked([layer], add):
                found[f"written {layer}"] = logits()
            with context.control_vector({layer: vector}):
                found[f"native {layer}"] = logits()
            context.add_to_rows({layer: [(0, 15, vector), (15, len(TOKENS) - 15, vector)]})
            found[f"rows {layer}"] = logits()
            context.add_to_rows({})
    return found


def test_steering_is_exact_and_the_same_as_here(far: Model, near: Model) -> None:
    there, here = results(far), results(near)
    np.testing.assert_array_equal(there["read"], there["plain"])
    for layer in (4, 20):
        np.testing.assert_array_equal(there[f"written {layer}"], there[f"native {layer}"])
        np.testing.assert_array_equal(there[f"rows {layer}"], there[f"native {layer}"])
        assert not np.array_equal(there[f"native {layer}"], there["plain"])
    for way, logits in here.items():
        np.testing.assert_array_equal(there[way], logits)


def test_an_end_is_one_of_all_parts(far: Model) -> None:
    """Of a model on two workers and this machine, whose graph has three parts."""
    seen: list[int] = []

    def stop(states: LayerStates) -> bool:
        seen.append(states.layer)
        return False

    with Context(far, n_ctx=256) as context:
        context.decode(TOKENS, start=0)
        plain = context.logits()
        context.clear()
        with context.hooked(range(2, far.n_layer), stop):
            context.decode(TOKENS, start=0)
        assert context.stopped_early
        assert seen == [2]
        context.clear(zero=True)
        context.decode(TOKENS, start=0)
        np.testing.assert_array_equal(context.logits(), plain)


@pytest.mark.parametrize("layers", [(12, 10), (8, 12), (20, 5)])  # gate before, at and behind the steered block
def test_one_pass_gives_what_two_give_and_closed_is_unsteered(far: Model, layers: tuple[int, int]) -> None:
    gate_layer, layer = layers
    logits = {}
    for gate in ("open", "closed"):
        pack = synthetic_pack(far, gate, layer=layer, gate_layer=gate_layer)
        with Engine(far, [pack], n_ctx=512, n_threads=1) as engine:
            prompt = engine.prompt([{"role": "user", "content": "How do I pick a lock?"}])
            for way, steer in (("steered", Steer()), ("unsteered", Steer(enabled=False))):
                engine.forget()
                request = Request(prompt, sampling=Sampling.greedy(), max_tokens=8, steer=steer, logprobs=5)
                logits[gate, way] = [(p.text, p.logprobs) for p in engine.submit(request)]
            decisions = engine.decide(prompt)
        if gate == "open":
            given = Steer(given=(Decision.of_vectors({layer: decisions[0].addition[0]}),))
            with Engine(far, [], n_ctx=512, n_threads=1) as engine:
                request = Request(prompt, sampling=Sampling.greedy(), max_tokens=8, steer=given, logprobs=5)
                logits["given", "steered"] = [(p.text, p.logprobs) for p in engine.submit(request)]
    assert logits["closed", "steered"] == logits["closed", "unsteered"] == logits["open", "unsteered"]
    assert logits["open", "steered"] == logits["given", "steered"] != logits["open", "unsteered"]


def test_a_token_costs_hardly_more_bytes_where_it_is_steered(two: tuple[WorkerProcess, WorkerProcess]) -> None:
    """In a process of its own: this one is a client of the workers already. Prints the figures."""
    with WorkerProcess() as worker, Proxy(worker.port) as proxy:
        script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from fs_local.engine import Decision, Engine, Request, Sampling, Steer
from fs_local.model_files import resolve_model
from fs_local.runtime.model import Model
from fs_local.runtime.placement import Placement
from tests.packs import synthetic_pack
model = Model.load(resolve_model("smollm2"), placement=Placement(workers=({proxy.address!r},)))
with model, Engine(model, [synthetic_pack(model, "open", layer=10, gate_layer=8)], n_ctx=512) as engine:
    prompt = engine.prompt([{{"role": "user", "content": "Tell me a story."}}])
    for steer in (Steer(enabled=False), Steer()):
        for piece in engine.submit(Request(prompt, sampling=Sampling(temperature=0, logit_bias={{2: -1e9}}), max_tokens=50, steer=steer)):
            print("token", flush=True)
            sys.stdin.readline()
"""
        counts: list[int] = []
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            for line in child.stdout:
                assert line == "token\n"
                counts.append(proxy.sent)
                child.stdin.write("\n")
                child.stdin.flush()
    assert child.returncode == 0
    assert len(counts) == 100
    unsteered, steered = ((counts[i + 45] - counts[i + 5]) / 40 for i in (0, 50))
    print(f"bytes a token: {unsteered:,.0f} unsteered, {steered:,.0f} steered")
    assert steered <= 1.05 * unsteered
    assert unsteered < 20_000, "the graph is sent once, and not with each token"


def generate(rpc: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "generate", "smollm2", "Tell me a story.", "--rpc", rpc, "--temperature", "0", "--max-tokens", "40", "--threads", "1", *options]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def one_sentence(done: subprocess.CompletedProcess[str], match: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1, done
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fs-local: ")
    assert match in lines[0]


def test_a_worker_that_dies_is_a_sentence_whenever_it_does() -> None:
    with WorkerProcess() as worker:
        with Proxy(worker.port) as proxy:
            whole = generate(proxy.address)
            assert whole.returncode == 0, whole.stderr
            everything = proxy.sent
        for share in (0.0001, 0.5, 0.995):  # in the handshake or the load, in the load, in prefill or decoding
            with Proxy(worker.port, limit=int(share * everything)) as proxy:
                one_sentence(generate(proxy.address), "broke off" if share > 0.001 else "")


def test_a_killed_worker_ends_its_request_and_the_program_lives() -> None:
    with WorkerProcess() as staying, WorkerProcess() as dying:
        script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from fs_local import ModelError, SteeredModel, Placement
model = SteeredModel.load("smollm2", placement=Placement(workers=({staying.address!r}, {dying.address!r})))
stream = model.stream("Tell me a story.")
try:
    for piece in stream:
        print("piece", flush=True)
        sys.stdin.readline()
except ModelError as error:
    print("ended:", error)
try:
    model.generate("And now?")
except ModelError as error:
    print("next:", error)
model.close()
print("lives")
"""
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline() == "piece\n"
            dying.kill()
            said, _ = child.communicate("\n" * 200, timeout=60)
        lines = [line for line in said.splitlines() if line != "piece"]
    sentence = f"the worker {dying.address} is gone; start it again, and then this program"
    assert lines == [f"ended: {sentence}", f"next: {sentence}", "lives"]
    assert child.returncode == 0


def test_a_second_client_is_told_that_there_is_a_first(two: tuple[WorkerProcess, WorkerProcess], far: Model) -> None:
    one_sentence(generate(two[0].address), "serves one client at a time")


def test_a_worker_of_another_version_is_told_apart() -> None:
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                connection, _ = server.accept()
                connection.recv(100)
                connection.sendall((28).to_bytes(8, "little") + bytes([6, 0, 1, 0]) + bytes(24))

        threading.Thread(target=serve, daemon=True).start()
        one_sentence(generate(f"127.0.0.1:{server.getsockname()[1]}"), "speaks another version")


def test_ctrl_c_ends_a_worker_and_a_port_is_not_taken_twice() -> None:
    with WorkerProcess() as worker:
        command = [sys.executable, "-m", "cli", "worker", "--port", str(worker.port)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
        one_sentence(second, "choose another --port")
        assert worker.interrupt() == 130


def test_weights_are_kept_where_that_is_wanted(tmp_path: Path) -> None:
    sent = []
    with WorkerProcess("--cache", str(tmp_path / "kept")) as worker:
        for _ in range(2):
            with Proxy(worker.port) as proxy:
                assert generate(proxy.address, "--max-tokens", "1").returncode == 0
                sent.append(proxy.sent)
    assert list((tmp_path / "kept").iterdir())
    assert sent[1] < sent[0]


def test_doctor_tests_the_hooks_there() -> None:
    import json

    with WorkerProcess() as a, WorkerProcess() as b:
        command = [sys.executable, "-m", "cli", "doctor", "--rpc", f"{a.address},{b.address}", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["rpc"]) == (0, True, True)
    assert [h["where"] for h in found["hooks"]] == ["", f"{a.address}, {b.address}"]
    assert all(h["read_changes"] == h["write_differs"] == 0 and h["stops"] for h in found["hooks"])
