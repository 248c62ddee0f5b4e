"""CAST packs from two files of activation-steering."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.cast import Comparator, Comparison, Condition
from converters.conversion import convert
from fs_local.errors import DataError
from fs_local.pack.file import Pack
from tests.converters.files import WIDTH, directions, write_control_vector, write_model, write_svec


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_model(tmp_path / "model.gguf"))


@pytest.fixture
def behaviour(tmp_path: Path) -> Path:
    return write_svec(tmp_path / "refusal.svec", directions(range(1, 12)))


@pytest.fixture
def condition(tmp_path: Path) -> Path:
    return write_svec(tmp_path / "harmful.svec", directions(range(1, 12), seed=7))


def similarity(state: np.ndarray, c: np.ndarray) -> float:
    """As `LeashLayer` computes it: projector, tanh, cosine."""
    projector = np.outer(c, c) / (c @ c)
    projected = np.tanh(projector @ state)
    return float(state @ projected / (np.linalg.norm(state) * np.linalg.norm(projected)))


@pytest.mark.parametrize(("comparator", "comparison"), [("smaller", "mean"), ("larger", "last")])
def test_the_gate_is_the_condition(
    comparator: Comparator, comparison: Comparison, behaviour: Path, condition: Path, model: str, tmp_path: Path
) -> None:
    done = convert(
        behaviour,
        tmp_path / "p.fspack",
        model=model,
        layers="5-8",
        condition=Condition(condition, 7, 0.048, comparator, comparison),
    )
    assert not any("position" in sentence for sentence in done.lost)
    assert "layers 5-6 leave the prompt alone" in done.lost[-1]
    pack = Pack.load(tmp_path / "p.fspack")
    m = pack.manifest
    assert (m.method, m.gate.layers, m.steer.layers) == ("cast", [6], [4, 5, 6, 7])
    assert m.gate.readings == [comparison]
    assert {name: d.rows for name, d in m.data.items()} == {"directions": 4, "condition": 1}
    c = directions(range(1, 12), seed=7)[7].astype(np.float64)
    openings = set()
    for state in np.random.default_rng(0).standard_normal((40, WIDTH), dtype=np.float32):
        sim = similarity(state.astype(np.float64), c)
        met = sim > 0.048 if comparator == "smaller" else sim < 0.048
        for engine in ("numpy", "onnx"):
            found = pack.evaluator(engine)(state, state)
            assert found.opening == met
        openings.add(found.opening)
        np.testing.assert_array_equal(found.vector[:WIDTH], directions(range(1, 12))[5])
    assert openings == {0, 1}


def test_conditions_that_can_not_be(behaviour: Path, condition: Path, model: str, tmp_path: Path) -> None:
    target = tmp_path / "p.fspack"

    def refused(
        message: str, path: Path = condition, layer: int = 7, threshold: float = 0.1, source: Path = behaviour
    ) -> None:
        with pytest.raises(DataError, match=message):
            convert(source, target, model=model, condition=Condition(path, layer, threshold, "larger"))
        assert not target.exists()

    refused("from -1 to 1; got 1.5", threshold=1.5)
    refused("from -1 to 1; got nan", threshold=float("nan"))
    refused("checked on the embeddings", layer=0)
    refused("nothing to use for layer 12; its layers are 1-11", layer=12)
    gguf = write_control_vector(tmp_path / "v.gguf", directions([1]))
    refused("v.gguf is gguf; --condition joins", path=gguf)
    refused("v.gguf is gguf; --condition joins", source=gguf)
    refused("width 5, and the behaviour vector 64", path=write_svec(tmp_path / "a.svec", directions([7], width=5)))
    zeros = write_svec(tmp_path / "z.svec", {7: np.zeros(WIDTH, np.float32), 8: np.ones(WIDTH, np.float32)})
    refused("only zeros for layer 7", path=zeros)
    refused("only zeros, which steer nothing", path=write_svec(tmp_path / "n.svec", {7: np.zeros(WIDTH, np.float32)}))
    refused("can't be read", path=tmp_path / "missing.svec")
