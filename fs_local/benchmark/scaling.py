"""How time and memory of capture and fit grow with the data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fs_local.benchmark import offline
from fs_local.benchmark.child import CaptureJob, FitJob
from fs_local.benchmark.figures import Measurement, machine, versions
from fs_local.benchmark.packs import WIDE
from fs_local.model_files import resolve_model
from fs_local.progress import Progress, untold
from fs_local.runtime.model import Model
from fs_local.runtime.threads import default_threads

CAPTURED = (250, 1000, 4000)
FITTED = (400, 2000, 20000)
_LAYERS = 3
_LINEAR, _FLAT = 1.3, 4.0
"""Ratio of times a row; and KB a row: a few times what a fit keeps of each, 256 coordinates."""


@dataclass(frozen=True)
class Point:
    """What some rows took."""

    rows: int
    seconds: float
    megabytes: float


@dataclass(frozen=True)
class Series:
    """One job at several sizes, by ascending rows. row_bytes: of the states of one row."""

    what: str
    row_bytes: int
    points: list[Point]


@dataclass(frozen=True)
class Scaling:
    """All series, how they are judged, and what they were measured on."""

    model: str
    machine: str
    versions: str
    settings: str
    seconds: float
    series: list[Series]
    rows: list[Measurement]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_scaling(model: str, progress: Progress | None = None) -> Scaling:
    """Measures every series, each point in a process of its own; minutes, with a small model.

    Raises:
        ModelError: as `Model.load`.
        FsLocalError: a process failed, for want of memory or room on the disk.
    """
    began = time.perf_counter()
    report = progress or untold
    path = resolve_model(model)
    with Model.load(path) as loaded:
        described = f"{loaded.name} {loaded.quantization} ({loaded.n_layer} blocks of {loaded.width})"
        width = loaded.width
    plan: list[tuple[str, int, list[CaptureJob | FitJob]]] = [
        (f"capture, d = {width}", width, [CaptureJob(str(path), n) for n in CAPTURED])
    ]
    for d in dict.fromkeys((width, WIDE)):
        plan.append((f"fit, d = {d}", d, [FitJob(n, d, _LAYERS) for n in FITTED]))
    total, done, series = sum(len(jobs) for _, _, jobs in plan) + 1, 0, []
    for what, d, jobs in plan:
        points = []
        for job in jobs:
            report(what, done, total)
            taken = job.run()
            points.append(Point(job.queries, taken.seconds, taken.megabytes))
            done += 1
        series.append(Series(what, 4 * _LAYERS * d, points))
    report("goal", done, total)
    rows = [row for s in series for row in judged(s)] + list(offline.fitting())
    report("done", total, total)
    return Scaling(
        model=described,
        machine=machine(),
        versions=versions(),
        settings=f"threads: {default_threads()}; states of {_LAYERS} layers, K from 4 to 10",
        seconds=time.perf_counter() - began,
        series=series,
        rows=rows,
    )


def judged(series: Series) -> Sequence[Measurement]:
    """The most rows against the second most: time a row, and memory a further row against that row's states."""
    *_, before, most = series.points
    times = [1e3 * p.seconds / p.rows for p in (before, most)]
    kept = 1e3 * (most.megabytes - before.megabytes) / (most.rows - before.rows)
    states = series.row_bytes / 1e3
    rows, fewer = f"{most.rows:,}", f"{before.rows:,}"
    return (
        Measurement(
            f"{series.what}: time a row of {rows}",
            f"of {fewer}",
            "ms",
            times[1],
            f"≤ {_LINEAR:g}",
            times[1] <= _LINEAR * times[0],
            times[0],
            times[1] / times[0],
        ),
        Measurement(
            f"{series.what}: memory a row from {fewer} to {rows}",
            "its states",
            "KB",
            kept,
            f"≤ {_FLAT:g} KB",
            kept <= _FLAT,
            states,
            kept / states,
        ),
    )
