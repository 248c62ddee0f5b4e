"""How capture and fit grow: children of their own, and what is made of their figures."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from fs_local.benchmark import child, offline, scaling
from fs_local.benchmark.child import CaptureJob, FitJob
from fs_local.benchmark.scaling import Point, Series, judged, measure_scaling
from fs_local.benchmark.tables import scaling_tables
from fs_local.errors import FsLocalError
from fs_local.method import crossfit, rows, subspace
from fs_local.report import write_report


def test_memory_of_a_fit_does_not_grow_with_its_states(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, small in (
        (child, "_WRITTEN", 16), (rows, "_CHUNK_NUMBERS", 1 << 16), (subspace, "_EXACT", 30), (crossfit, "_AXES", 8)
    ):  # fmt: skip
        monkeypatch.setattr(module, name, small)
    FitJob(100, width=32).measure()  # imports what it needs
    peaks = []
    for queries in (100, 800):
        tracemalloc.start()
        FitJob(queries, width=1024).measure()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.25 * 700 * 3 * 1024 * 4


def test_a_capture_is_measured(tiny_path: Path) -> None:
    taken = CaptureJob(str(tiny_path), 3).run()
    assert taken.seconds > 0
    assert taken.megabytes > 20


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(FsLocalError, match="too few"):
        FitJob(queries=4, width=16).run()


def test_growth_is_judged_by_the_most_rows() -> None:
    points = [Point(100, 1.0, 200.0), Point(1000, 2.0, 300.0), Point(10000, 22.0, 318.0)]
    time, memory = judged(Series("fit", 100_000, points))
    assert (time.value, time.ratio) == pytest.approx((2.2, 1.1))
    assert (time.base, time.met) == (2.0, True)
    assert (memory.value, memory.base, memory.ratio, memory.met) == (2.0, 100.0, 0.02, True)
    slow, fat = judged(Series("fit", 100_000, [*points[:2], Point(10000, 40.0, 400.0)]))
    assert not slow.met
    assert not fat.met


def test_all_series_are_measured_and_shown(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "CAPTURED", (2, 3, 4))
    monkeypatch.setattr(scaling, "FITTED", (40, 60, 80))
    monkeypatch.setattr(scaling, "WIDE", 96)
    monkeypatch.setattr(offline, "fitting", lambda: iter(()))
    monkeypatch.setattr(child, "run_python", _inside)
    said: list[str] = []
    found = measure_scaling(str(tiny_path), lambda what, _done, _total: said.append(what))
    assert len(said) == 11
    assert [[p.rows for p in s.points] for s in found.series] == [[2, 3, 4], [40, 60, 80], [40, 60, 80]]
    assert len(found.rows) == 6
    assert json.loads(json.dumps(found.as_dict()))["series"]
    sizes, goals = scaling_tables(found)
    assert (sizes.row_count, goals.row_count) == (9, 6)
    page = tmp_path / "scaling.html"
    write_report(page, scaling=found.as_dict())
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg ") >= 2
    assert "nan" not in text.lower()


def _inside(arguments: list[str]) -> str:
    """The child's work in this process: that it can be one of its own is another test's."""
    ((kind, job),) = json.loads(arguments[-1]).items()
    seconds = (FitJob(**job) if kind == "fit" else CaptureJob(**job)).measure()
    return json.dumps({"seconds": seconds, "megabytes": 100.0})
