"""The benchmark: that it measures what it says, with next to no time for it. Figures themselves are for a quiet machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fs_local.benchmark import bench, footprint, offline, online, packs, run
from fs_local.benchmark.tables import bench_table
from fs_local.benchmark.turns import Budget
from fs_local.errors import PackError
from tests.packs import random_pack


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"SHORT_PROMPT": 12, "LONG_PROMPT": 16, "_DECODED": 4, "_MANY": 2, "_MANY_TOKENS": 3, "_CAPTURED": 2, "_PAIRS": 30, "WIDE": 96}  # fmt: skip
    for module in (footprint, offline, online, packs):
        for name in small.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, small[name])


@pytest.mark.usefixtures("quick")
def test_every_figure_is_there(tiny_path: Path, tiny_pack_path: Path) -> None:
    said: list[str] = []
    report = bench(str(tiny_path), tiny_pack_path, Budget(0.0), lambda what, _done, _total: said.append(what))
    assert len(said) == 13
    whats = [r.what for r in report.rows]
    for part in (
        "decode a token, gate open", "decode a token, gate closed", "decode a token, stock once more", "prefill 12 tokens, one pass, gate open",
        "prefill 12 tokens, one pass, gate closed", "prefill 12 tokens, gate behind, at block 4, gate open",
        "prefill 12 tokens, gate behind, at block 4, gate closed", "prefill 16 tokens, one pass, gate open",
        "prefill 16 tokens, in micro-batches of 512, gate open", "first token after 12, gate open",
        "2 answers at once, each steered by another vector", "2 answers at once, each steered by another vector, pure Python",
        "1 answers at once, steered by 1 vectors", "decide, d = 96, K = 10, residual rank 10", "second turn of a chat, gate open",
        "second turn of a chat, gate closed", "capture 2 prompts at block 3", "fit 30 captured pairs, d = 96, K from 4 to 10",
        "resident memory of that", "score 8 answers to a question", "resident memory, steered", "pack, d = 64",
        "pack, d = 96, K = 10", "import fs_local", "start of fs-local --help",
    ):  # fmt: skip
        assert part in whats
    assert len(set(whats)) == len(whats) == 26
    second = [r for r in report.rows if r.what.startswith("second turn")]
    assert all(r.ratio is not None and r.ratio < 1.05 for r in second)  # its own tokens, and at most one more
    assert "pack telling" in report.settings
    assert json.loads(json.dumps(report.as_dict()))["rows"]
    assert bench_table(report).row_count == len(report.rows)


def test_a_pack_for_another_model_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    random_pack().save(tmp_path / "other.fspack")
    with pytest.raises(PackError, match="fit a pack for this model"):
        run.bench(str(tiny_path), tmp_path / "other.fspack", Budget(0.0))
