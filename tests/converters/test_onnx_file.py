"""The decision as a lone ONNX file: what it computes, says, and loses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from converters.conversion import convert
from fs_local.errors import PackError
from fs_local.method.folded import GateKind
from fs_local.pack.file import Pack
from tests.packs import random_pack

KINDS = ["quantile", "logistic", "soft", "open", "cosine_above"]


def run(path: Path, pack: Pack, n: int = 20) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal((n, 64), dtype=np.float32) for name in ("gate_states", "states")}
    session = onnxruntime.InferenceSession(
        path.read_bytes(), providers=["CPUExecutionProvider"]
    )  # bytes: no file beside
    return session.run(["opening", "weights", "vector"], inputs), inputs


@pytest.mark.parametrize("kind", KINDS)
def test_the_lone_graph_decides_as_the_pack_does(kind: GateKind, tmp_path: Path) -> None:
    pack = random_pack(kind)
    pack.save(tmp_path / "p.fspack")
    convert(tmp_path / "p.fspack", tmp_path / "p.onnx")
    (opening, weights, vector), inputs = run(tmp_path / "p.onnx", pack)
    np.testing.assert_allclose(opening, pack.gate.opening(inputs["gate_states"]), atol=1e-5)
    np.testing.assert_allclose(weights, pack.experts.weights(inputs["states"]), atol=1e-5)
    np.testing.assert_allclose(vector, pack.experts.vector(inputs["states"]), atol=1e-4)


def test_it_says_what_goes_in_and_out(tmp_path: Path) -> None:
    random_pack().save(tmp_path / "p.fspack")
    done = convert(tmp_path / "p.fspack", tmp_path / "p.onnx")
    about = {p.key: p.value for p in onnx.load(tmp_path / "p.onnx").metadata_props}
    for part in (
        "gate_states (n, 64): residual stream after block 8",
        "after block 10",
        "opening (n,)",
        "1.5 * opening",
    ):
        assert part in about["readme"]
    assert (about["steer_layers"], about["strength"], about["fingerprint"]) == ("10", "1.5", "0123456789abcdef")
    assert "applies nothing" in done.lost[0]


@pytest.mark.parametrize("kind", KINDS)
def test_float16_halves_the_file_and_states_its_error(kind: GateKind, tmp_path: Path) -> None:
    pack = random_pack(kind, k=40)
    pack.save(tmp_path / "p.fspack")
    whole = convert(tmp_path / "p.fspack", tmp_path / "p.onnx")
    half = convert(tmp_path / "p.fspack", tmp_path / "half.onnx", dtype="float16")
    assert half.n_bytes < 0.75 * whole.n_bytes
    assert "float16 weights: over 64 random states, openings differ by" in half.lost[1]
    (exact, _, vector), _ = run(tmp_path / "p.onnx", pack)
    (rounded, _, close), _ = run(tmp_path / "half.onnx", pack)
    np.testing.assert_allclose(rounded, exact, atol=0.05)
    np.testing.assert_allclose(close, vector, atol=0.05 * np.abs(vector).max())


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    random_pack(size=1e6).save(tmp_path / "p.fspack")
    with pytest.raises(PackError, match="beyond float16"):
        convert(tmp_path / "p.fspack", tmp_path / "p.onnx", dtype="float16")
