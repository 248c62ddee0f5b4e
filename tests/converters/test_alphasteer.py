"""AlphaSteer's matrices as low-rank maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.alphasteer import TOLERANCE, low_rank
from converters.conversion import convert
from converters.formats import recognize
from fs_local.errors import DataError
from fs_local.pack.file import Pack
from tests.converters.files import BLOCKS, WIDTH, write_model, write_npz, write_tensors


def matrices(layers: dict[int, int], n_layers: int = BLOCKS, width: int = WIDTH) -> np.ndarray:
    """As `calc_steering_matrix` saves them: zeros but for these layers -> rank."""
    rng = np.random.default_rng(0)
    made = np.zeros((n_layers, width, width), dtype=np.float32)
    for layer, rank in layers.items():
        made[layer] = rng.standard_normal((width, rank)) @ rng.standard_normal((rank, width))
    return made


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_model(tmp_path / "model.gguf"))


@pytest.mark.parametrize("container", ["safetensors", "npz"])
def test_one_layer_becomes_a_map_of_the_state_before_it(container: str, model: str, tmp_path: Path) -> None:
    made = matrices({4: 1, 7: 3})
    source = tmp_path / "matrix.x"
    (write_tensors if container == "safetensors" else write_npz)(source, {"steering_matrix": made})
    done = convert(source, tmp_path / "p.fspack", model=model, layers="7")
    assert done.source == "alphasteer"
    assert f"of {WIDTH}, 3 are kept" in done.lost[0]
    assert "layers 4;" in done.lost[1]
    assert any("-0.1 to -0.5" in sentence for sentence in done.lost)
    assert any("generated tokens are not steered" in sentence for sentence in done.lost)
    pack = Pack.load(tmp_path / "p.fspack")
    m = pack.manifest
    assert (m.method, m.gate.kind, m.gate.layers, m.steer.layers) == ("alphasteer", "open", [6], [6])
    assert m.name == "matrix-layer-7"
    states = np.random.default_rng(1).standard_normal((5, WIDTH), dtype=np.float32)
    wanted = states.astype(np.float64) @ made[7]
    np.testing.assert_allclose(pack.experts.vector(states), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    found = pack.evaluator("onnx")(states[0], states[0])
    np.testing.assert_allclose(found.vector, wanted[0], rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 48), st.integers(0, 99), st.floats(0, 2))
def test_the_rank_is_the_lowest_that_keeps_the_error(width: int, seed: int, decay: float) -> None:
    rng = np.random.default_rng(seed)
    matrix = (rng.standard_normal((width, width)) * np.exp(-decay * np.arange(width))).astype(np.float32)
    inner, outer, error = low_rank(matrix, TOLERANCE)
    exact = np.linalg.norm(matrix - inner.T.astype(np.float64) @ outer) / np.linalg.norm(matrix)
    assert error == pytest.approx(exact, abs=1e-6)
    assert error <= TOLERANCE + 1e-6
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    r = len(inner)
    assert np.linalg.norm(values[r - 1 :]) > 0.999 * TOLERANCE * np.linalg.norm(values) or r == 1


def test_a_matrix_of_full_rank_is_kept_whole() -> None:
    inner, _, error = low_rank(np.eye(100, dtype=np.float32), TOLERANCE)
    assert (len(inner), error < 1e-6) == (100, True)


def test_a_lone_matrix_needs_no_choice(model: str, tmp_path: Path) -> None:
    source = write_npz(tmp_path / "m.npz", {"m": matrices({4: 1})})
    convert(source, tmp_path / "p.fspack", model=model)
    assert Pack.load(tmp_path / "p.fspack").manifest.steer.layers == [3]


def test_matrices_that_make_no_pack(model: str, tmp_path: Path) -> None:
    path, target = tmp_path / "m.npz", tmp_path / "p.fspack"

    def refused(made: np.ndarray, message: str, layers: str | None = None) -> None:
        write_npz(path, {"m": made})
        with pytest.raises(DataError, match=message):
            convert(path, target, model=model, layers=layers)
        assert not target.exists()

    refused(matrices({4: 1, 5: 1, 7: 1}), "has matrices for layers 4-5, 7, each .* choose one with --layers")
    refused(matrices({4: 1, 5: 1}), "choose one with --layers", "4-5")
    refused(matrices({4: 1}), "has no matrix for layer 5; it has some for layers 4", "5")
    refused(matrices({4: 1}), "nothing to use for layer 40; its layers are 0-11", "40")
    refused(matrices({0: 1}), "acts on the embeddings", "0")
    refused(matrices({}), "has matrices for layers none")
    refused(np.ones((3, 4, 5), np.float32), "steering matrices are square")
    refused(np.full((12, 4, 4), np.inf, np.float32), "not finite", "4")
    refused(matrices({4: 1}).astype(np.float64), "numbers of type float64; save it as float32", "4")
    refused(matrices({4: 1}, width=32), "have width 32 and go up to block 3, and model of 64", "4")
    write_npz(path, {"m": matrices({4: 1})})
    with pytest.raises(Exception, match="no constant part"):
        convert(path, tmp_path / "v.gguf", model=model)
    assert recognize(path)[0].name == "alphasteer"
