"""Packs as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fs_local.errors import PackError
from fs_local.method.folded import GateKind
from fs_local.pack.file import Pack
from tests.packs import describe, random_experts, random_gate, random_pack, some_identity


@pytest.mark.parametrize("kind", ["quantile", "logistic", "soft", "open", "cosine_above", "cosine_below"])
def test_a_pack_comes_back_as_it_was(kind: GateKind, tmp_path: Path) -> None:
    pack = random_pack(kind)
    pack.save(tmp_path / "a.fspack")
    back = Pack.load(tmp_path / "a.fspack")
    assert back.manifest == pack.manifest
    states = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    np.testing.assert_array_equal(back.gate.opening(states), pack.gate.opening(states))
    np.testing.assert_array_equal(back.experts.vector(states), pack.experts.vector(states))
    back.save(tmp_path / "b.fspack")
    assert (tmp_path / "a.fspack").read_bytes() == (tmp_path / "b.fspack").read_bytes()


def test_another_strength_is_another_pack() -> None:
    pack = random_pack()
    assert pack.with_strength(0.25).manifest.steer.strength == 0.25
    assert pack.manifest.steer.strength == 1.5


@pytest.mark.parametrize(
    ("layer", "gate_layer", "width", "message"),
    [(30, 3, 64, "out of the model's range"), (4, 30, 64, "out of"), (4, 3, 32, "does not fit a model of width 32")],
)  # fmt: skip
def test_parts_that_do_not_fit_each_other_are_refused(
    layer: int, gate_layer: int, width: int, message: str, tmp_path: Path
) -> None:
    pack = describe(
        random_gate("soft", 64), random_experts(64), some_identity(width), layers=[layer], gate_layers=[gate_layer], strength=1.0, scope="all", name="p"
    )  # fmt: skip
    pack.save(tmp_path / "p.fspack")
    with pytest.raises(PackError, match=message):
        Pack.load(tmp_path / "p.fspack")


@pytest.mark.parametrize("layers", [[4, 4], [6, 4]])
def test_layers_ascend(layers: list[int], tmp_path: Path) -> None:
    gate, experts = random_gate("soft", 64), random_experts(64, layers=2)
    pack = describe(
        gate, experts, some_identity(64), layers=layers, gate_layers=[3], strength=1.0, scope="all", name="p"
    )
    pack.save(tmp_path / "p.fspack")
    with pytest.raises(PackError, match="do not ascend"):
        Pack.load(tmp_path / "p.fspack")
