"""Packs for the benchmark: their gates are held."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fs_local.benchmark.packs import held, synthetic_pack
from fs_local.pack.file import Pack
from fs_local.runtime.model import Model


def test_a_gate_is_held_open_or_closed(tiny: Model, tmp_path: Path) -> None:
    state = np.ones(tiny.width, dtype=np.float32)
    for opened in (True, False):
        pack = held(synthetic_pack(tiny), opened, 2)
        assert pack.evaluator()(state, state).opening == float(opened)
        pack.save(tmp_path / "held.fspack")
        again = Pack.load(tmp_path / "held.fspack")
        assert again.manifest.gate.layers == [2]
        assert again.evaluator("onnx")(state, state).opening == float(opened)
