"""Figures of a benchmark, and how they are judged."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fs_local.progress import Progress
from fs_local.runtime.library import llama
from fs_local.runtime.model import Model
from fs_local.runtime.node_filter import native_address
from fs_local.runtime.threads import default_threads


@dataclass(frozen=True)
class Measurement:
    """One figure.

    Attributes:
        what: was measured, and against: what it was compared with; empty where it stands alone.
        unit: of `value` and `base`, the medians of both sides.
        ratio: median of the pairs' ratios (value/base, or base/value where more is better), and spread: their quartiles.
        pairs: how many were measured.
        goal: what is to be reached, as text, and met: whether it is; None where it is no goal of ours.
    """

    what: str
    against: str
    unit: str
    value: float
    goal: str
    met: bool | None
    base: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    pairs: int = 1


@dataclass(frozen=True)
class Report:
    """All figures, and what they were measured on."""

    model: str
    machine: str
    versions: str
    settings: str
    seconds: float
    rows: list[Measurement]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def no_more(
    what: str, ours: Sequence[float], stock: Sequence[float], limit: float, unit: str = "ms", against: str = "stock"
) -> Measurement:
    """A row of pairs of seconds, which must not take more than `limit` times what stock takes."""
    ratios = [a / b for a, b in zip(ours, stock, strict=True)]
    ratio = statistics.median(ratios)
    scale = {"ms": 1e3, "s": 1.0}[unit]
    return Measurement(
        what,
        against,
        unit,
        statistics.median(ours) * scale,
        f"≤ {limit:.3f}",
        ratio <= limit,
        statistics.median(stock) * scale,
        ratio,
        quartiles(ratios),
        len(ratios),
    )


def no_less(
    what: str, ours: Sequence[float], stock: Sequence[float], limit: float, unit: str, against: str = "stock"
) -> Measurement:
    """A row of pairs of rates, which must be at least `limit` times stock's."""
    ratios = [a / b for a, b in zip(ours, stock, strict=True)]
    ratio = statistics.median(ratios)
    return Measurement(
        what,
        against,
        unit,
        statistics.median(ours),
        f"≥ {limit:g}",
        ratio >= limit,
        statistics.median(stock),
        ratio,
        quartiles(ratios),
        len(ratios),
    )


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def machine() -> str:
    """Processor, threads and memory."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line), name
        )
    return f"{platform.system()}, {name}, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def versions() -> str:
    return f"llama.cpp {llama().llama_version().decode()}, Python {platform.python_version()}, numpy {np.__version__}"


Stage = tuple[str, Callable[[], Iterator[Measurement]]]
"""Its name for whoever waits, and what measures it."""


def measured(model: Model, settings: str, stages: Sequence[Stage], report: Progress) -> Report:
    """Runs all stages, one after the other. settings: what else there is to know, behind threads and node filter."""
    began = time.perf_counter()
    rows: list[Measurement] = []
    for i, (what, measure) in enumerate(stages):
        report(what, i, len(stages))
        rows += measure()
    report("done", len(stages), len(stages))
    node_filter = "C" if native_address() else "pure Python"
    return Report(
        model=f"{model.name} {model.quantization} ({model.n_layer} blocks of {model.width})",
        machine=machine(),
        versions=versions(),
        settings=f"threads: {default_threads()}, {node_filter} node filter, {settings}",
        seconds=time.perf_counter() - began,
        rows=rows,
    )


def second_turn_row(opened: bool, what: str, evaluated: int, least: int) -> Measurement:
    """Tokens that a chat's second turn evaluates, beside the least that it can; opened: whether its gates are."""
    name = f"second turn of a chat, gate {'open' if opened else 'closed'}"
    return Measurement(name, what, "tokens", evaluated, "≤ 1.000", evaluated <= least, least, evaluated / least)
