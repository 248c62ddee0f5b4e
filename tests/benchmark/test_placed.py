"""The table of a model whose blocks lie elsewhere; here they lie on this processor, and all the same it is filled in."""

from __future__ import annotations

from pathlib import Path

from fs_local.benchmark.placed import bench_placed
from fs_local.benchmark.turns import Budget
from fs_local.runtime.placement import Placement


def test_steered_is_compared_with_unsteered_there_and_with_steered_here(tiny_path: Path) -> None:
    found = bench_placed(str(tiny_path), Placement(gpu_layers=0), Budget(0, 2))
    assert [row.against for row in found.rows] == ["unsteered", "unsteered", "here"] * 2
    assert [row.met is None for row in found.rows] == [False, False, True] * 2
    assert all(row.ratio is not None and row.ratio > 0 for row in found.rows)
