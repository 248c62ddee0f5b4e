"""The ONNX graph: the same results as numpy, from the same arrays, and nothing else in it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from fs_local.errors import PackError
from fs_local.method.folded import GateKind
from fs_local.pack.file import Pack
from fs_local.pack.graph import checked_graph, graph_arrays
from tests.packs import describe, random_experts, random_gate, random_pack, some_identity


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["quantile", "logistic", "soft", "open", "cosine_above", "cosine_below"]),
    seed=st.integers(0, 1000),
    u=st.sampled_from([0, 3]),
    k=st.integers(1, 6),
    layers=st.sampled_from([[4], [4, 6]]),
    gate_layers=st.sampled_from([[3], [2, 3, 5]]),
)
def test_numpy_and_onnx_agree(
    kind: GateKind, seed: int, u: int, k: int, layers: list[int], gate_layers: list[int]
) -> None:
    width, at_gate = 48, 48 * len(gate_layers)
    gate = random_gate(kind, at_gate, seed=seed)
    experts = random_experts(width, k=k, u=u, m=5 if u else 0, seed=seed, layers=len(layers))
    pack = describe(gate, experts, some_identity(width), layers=layers, gate_layers=gate_layers, strength=1.0, scope="all", name="p")  # fmt: skip
    numpy_engine, onnx_engine = pack.evaluator("numpy"), pack.evaluator("onnx")
    rng = np.random.default_rng(seed)
    for spread in (0.1, 1.0, 10.0):
        gate_state = (gate.mean + spread * rng.standard_normal(at_gate)).astype(np.float32)
        if seed % 3 == 0:
            gate_state = (gate.mean + spread * gate.basis[0]).astype(np.float32)  # inside the subspace: open
        state = (spread * rng.standard_normal(width)).astype(np.float32)
        a, b = numpy_engine(gate_state, state), onnx_engine(gate_state, state)
        np.testing.assert_allclose(a.energy_ratio, b.energy_ratio, atol=1e-5)
        np.testing.assert_allclose(a.opening, b.opening, atol=1e-5)
        np.testing.assert_allclose(a.weights, b.weights, atol=1e-5)
        np.testing.assert_allclose(a.vector, b.vector, atol=1e-5, rtol=1e-5)


def test_an_unpacked_pack_runs_in_any_onnx_runtime(tmp_path: Path) -> None:
    pack = random_pack("quantile")
    pack.save(tmp_path / "p.fspack")
    with zipfile.ZipFile(tmp_path / "p.fspack") as z:
        z.extractall(tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "decision.onnx"), providers=["CPUExecutionProvider"])
    states = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    opening, ratio, weights, vector = session.run(None, {"gate_states": states, "states": states})
    np.testing.assert_allclose(opening, pack.gate.opening(states), atol=1e-5)
    np.testing.assert_allclose(ratio, pack.gate.energy_ratio(states), atol=1e-5)
    np.testing.assert_allclose(weights, pack.experts.weights(states), atol=1e-5)
    np.testing.assert_allclose(vector, pack.experts.vector(states), atol=1e-5)


def test_operators_are_standard(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(random_pack().graph)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]


def test_weights_stand_in_a_pack_once(tmp_path: Path) -> None:
    pack = random_pack(width=4096, k=10, u=8, m=16)
    pack.save(tmp_path / "big.fspack")
    assert (tmp_path / "big.fspack").stat().st_size < 2 << 20
    assert len(pack.graph) < 10_000


def foreign(pack: Pack, change: object) -> bytes:
    model = onnx.load_model_from_string(pack.graph)
    change(model)  # type: ignore[operator]
    return bytes(model.SerializeToString())


def add_node(op: str, **attributes: Any) -> object:
    return lambda model: model.graph.node.append(helper.make_node(op, ["states"], ["x"], **attributes))


def point_elsewhere(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.external_data)
    tensor.name = "passwd"
    tensor.external_data[0].value = "/etc/passwd"


def large_constant(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1000, np.float32), "big"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_node("Loop"), "'Loop'"),
        (add_node("Relu", domain="com.evil"), "'Relu'"),
        (add_node("Constant", value=onnx.numpy_helper.from_array(np.zeros(9))), "tensor inside"),
        (point_elsewhere, "external data 'passwd'"),
        (large_constant, "large constant"),
        (lambda m: m.functions.add(name="f", domain="d"), "functions"),
    ],
)
def test_foreign_graphs_are_refused(change: object, message: str) -> None:
    pack = random_pack()
    with pytest.raises(PackError, match=message):
        checked_graph(foreign(pack, change), graph_arrays(pack.gate, pack.experts))


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(PackError, match="not ONNX"):
        checked_graph(b"\xff\xff\xff", {})


def test_an_unknown_provider_names_those_there_are() -> None:
    with pytest.raises(PackError, match=r"no NoSuchProvider here; it has .*CPUExecutionProvider"):
        random_pack().evaluator("onnx", ["NoSuchProvider"])


def test_a_graph_that_computes_something_else_is_refused() -> None:
    pack = random_pack()
    zero = onnx.numpy_helper.from_array(np.array(0, np.float32), "zero")

    def close_the_gate(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(zero)
        node = next(n for n in model.graph.node if "opening" in n.output)
        node.output[0] = "hidden_opening"
        model.graph.node.append(helper.make_node("Mul", ["hidden_opening", "zero"], ["opening"]))

    other = Pack(pack.manifest, pack.gate, pack.experts, foreign(pack, close_the_gate))
    with pytest.raises(PackError, match="disagree"):
        other.evaluator("onnx")


def test_a_graph_without_the_outputs_of_a_decision_is_refused() -> None:
    pack = random_pack()
    data = foreign(pack, lambda model: model.graph.output.pop())
    with pytest.raises(PackError, match="inputs and outputs"):
        checked_graph(data, graph_arrays(pack.gate, pack.experts))
