"""FineSteer's own checkpoints: the pack computes what the network of the checkpoint does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.conversion import convert
from converters.formats import recognize
from fs_local.errors import DataError
from fs_local.pack.file import Pack
from tests.converters.files import bfloat16, mose_state, write_model, write_npz, write_tensors


def unfolded(state: dict[str, np.ndarray], states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """α and v of the network as FineSteer evaluates it, layer by layer, in float64."""
    w = {name: array.astype(np.float64) for name, array in state.items()}
    h = states.astype(np.float64)
    query = h @ w["query.weight"].T + w["query.bias"]
    key = w["prototypes"] @ w["key.weight"].T + w["key.bias"]
    scores = query @ key.T / np.sqrt(query.shape[1])
    alpha = np.exp(scores - scores.max(axis=1, keepdims=True))
    alpha /= alpha.sum(axis=1, keepdims=True)
    value = w["prototypes"]
    if "value.weight" in w:
        value = value @ w["value.weight"].T + w["value.bias"]
    beta = np.maximum(h @ w["beta.0.weight"].T + w["beta.0.bias"], 0) @ w["beta.2.weight"].T + w["beta.2.bias"]
    return alpha, alpha @ value + beta @ w["residual_basis"].T


def check_same(pack: Pack, state: dict[str, np.ndarray], seed: int, scale: float = 1.0) -> None:
    states = (scale * np.random.default_rng(seed).standard_normal((8, len(pack.experts.center)))).astype(np.float32)
    alpha, v = unfolded(state, states)
    np.testing.assert_allclose(pack.experts.weights(states), alpha, atol=1e-5)
    before, after = np.split(pack.experts.vector(states), 2, axis=1)
    assert not before.any()
    np.testing.assert_allclose(after, v, rtol=1e-5, atol=1e-5 * np.abs(v).max())


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_model(tmp_path / "model.gguf", width=32))


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        mose_state,
        d=st.integers(2, 40),
        k=st.integers(1, 10),
        u=st.integers(1, 2),
        a=st.integers(1, 40),
        m=st.integers(1, 40),
        value=st.booleans(),
        seed=st.integers(0, 99),
    ),
    st.sampled_from([0.1, 1.0, 30.0]),
)
def test_the_folded_network_is_the_network(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, np.ndarray], scale: float
) -> None:
    folder = tmp_path_factory.mktemp("finesteer")
    model = write_model(folder / "model.gguf", width=state["prototypes"].shape[1])
    source = write_tensors(folder / "MoSE.safetensors", state)
    convert(source, folder / "p.fspack", model=str(model), layers="7")
    check_same(Pack.load(folder / "p.fspack"), state, 1, scale)


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("container", ["safetensors", "npz"])
def test_a_checkpoint_becomes_a_pack(container: str, value: bool, model: str, tmp_path: Path) -> None:
    state = mose_state(value=value)
    source = tmp_path / "MoSE.x"
    named = {f"state_dict.{name}": array for name, array in state.items()}
    write_tensors(source, named) if container == "safetensors" else write_npz(source, named)
    done = convert(source, tmp_path / "p.fspack", model=model, layers="7")
    assert (done.source, done.target) == ("finesteer", "fspack")
    assert "by default 2.5" in done.lost[0]
    assert "every query is steered" in done.lost[1]
    pack = Pack.load(tmp_path / "p.fspack")
    m = pack.manifest
    assert (m.method, m.gate.kind, m.steer.strength, m.steer.scope) == ("finesteer", "open", 1, "all")
    assert (m.gate.layers, m.steer.layers) == (
        [6],
        [6, 7],
    )  # read in hidden_states[7], added to the output of layers[7]
    assert m.data["prototypes"].rows == 4
    check_same(pack, state, 0)
    found = pack.evaluator("onnx")(np.ones(32, np.float32), np.ones(32, np.float32))
    np.testing.assert_allclose(found.vector[32:], unfolded(state, np.ones((1, 32)))[1][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "name"), [("F16", "float16"), ("BF16", "bfloat16")])
def test_short_numbers_are_taken_and_said(dtype: str, name: str, model: str, tmp_path: Path) -> None:
    state = mose_state()
    source = write_tensors(tmp_path / "MoSE.safetensors", state, dtype)
    done = convert(source, tmp_path / "p.fspack", model=model, layers="7")
    assert f"{name} became float32" in done.lost[-1]
    short = {k: bfloat16(v) if dtype == "BF16" else v.astype(np.float16).astype(np.float32) for k, v in state.items()}
    check_same(Pack.load(tmp_path / "p.fspack"), short, 0)


def test_what_is_no_whole_checkpoint_says_what_is_missing(model: str, tmp_path: Path) -> None:
    path, target = tmp_path / "MoSE.safetensors", tmp_path / "p.fspack"

    def refused(message: str, layers: str | None = "7", **changed: np.ndarray | None) -> None:
        state = {**mose_state(), **changed}
        write_tensors(path, {k.replace("__", "."): v for k, v in state.items() if v is not None})
        with pytest.raises(DataError, match=message) as error:
            convert(path, target, model=model, layers=layers)
        assert "\n" not in str(error.value)
        assert not target.exists()

    refused("it has beta.0.bias, .*; wanted are prototypes, residual_basis, .*beta.2.bias$", prototypes=None)
    refused("wanted are .*value.weight, value.bias", value__bias=np.ones(32, np.float32))
    refused("it has .*tau", tau=np.ones(1, np.float32))
    refused(
        r"'query.bias' of shape \(3,\), where \(a\) is wanted, with K = 4, d = 32",
        query__bias=np.ones(3, np.float32),
    )
    refused("'prototypes' of shape", prototypes=np.ones((2, 2, 2), np.float32))
    refused("'key.bias' that are not finite", key__bias=np.full(16, np.nan, np.float32))
    huge = (1e30 * np.random.default_rng(0).standard_normal((16, 32))).astype(np.float32)
    refused("products are not finite", query__weight=huge, key__weight=huge)
    refused("does not say at which layer it acts", layers=None)
    refused("does not say at which layer it acts", layers="6-7")
    refused("reads the embeddings", layers="0")
    refused("go up to block 12, and model of 32 has width 32 and blocks 0 to 11", layers="12")
    write_tensors(path, mose_state(), "F64")
    with pytest.raises(DataError, match="numbers of type F64; save it as float32"):
        convert(path, target, model=model, layers="7")
    old = ["query.weight", "query.bias", "key.weight", "key.bias", "scale.0.weight", "mix.0.weight", "gamma", "tau"]
    write_tensors(path, {name: np.ones(4, np.float32) for name in old})
    with pytest.raises(DataError, match=r"it has gamma, .*; wanted are prototypes"):
        convert(path, target, model=model, layers="7")


def test_other_formats_get_its_constant_part(model: str, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "MoSE.safetensors", mose_state())
    with pytest.raises(DataError, match="give its file with --model"):
        convert(source, tmp_path / "v.gguf", layers="7")
    done = convert(source, tmp_path / "v.npz", model=model, layers="7")
    assert any("the routing among 4 experts" in sentence for sentence in done.lost)
    assert any("FineSteer is told at run time" in sentence for sentence in done.lost)
    with np.load(tmp_path / "v.npz") as arrays:
        np.testing.assert_allclose(arrays["direction.7"], mose_state()["prototypes"].mean(axis=0), rtol=1e-5)
    assert recognize(source)[0].name == "finesteer"
    with pytest.raises(DataError, match="finesteer is read and not written"):
        convert(source, tmp_path / "x", to="finesteer")
