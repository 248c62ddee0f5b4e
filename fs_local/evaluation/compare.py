"""Packs on suites, side by side; and the frontier of effect against drift, where methods meet at equal cost."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fs_local.errors import DataError
from fs_local.evaluation.figures import Figure, auroc, figure, gain
from fs_local.evaluation.runner import Progress, Runner
from fs_local.evaluation.suites import SUITES, Row, read_suite
from fs_local.pack.file import Pack
from fs_local.pack.manifest import MAX_STRENGTH
from fs_local.runtime.context import default_threads
from fs_local.runtime.model import Model
from fs_local.steering import check_model, check_names
from fs_local.store import Store

EFFECTS = {"refusal": "refused", "truthfulqa": "mc2"}
"""The figure that says what a task wants; drift is the price."""
STRENGTH_FACTORS = (0.5, 1.0, 1.5)
FURTHER_FACTORS = (3.0, 6.0, 12.0)
"""Of packs that drift less than FineSteer's even so: they meet it further on."""
LABELS = ("ir", "general")


@dataclass(frozen=True)
class File:
    """Rows to measure on, and the suite that does. label: `ir` or `general`, where the user said what its queries are."""

    suite: str
    path: Path
    name: str
    rows: list[Row]
    label: str = ""


def read_files(suite: str, data: Sequence[Path], limit: int | None = None) -> list[File]:
    """The files of an evaluation: any number; each as SUITE=FILE for `compare`, and as `ir=FILE` or `general=FILE` for `opening` where
    it is to be known how well the gate tells these apart.

    Raises:
        DataError: naming the file, its line and field, or what is missing.
    """
    given: list[tuple[str, Path, str]] = []
    for path in data:
        name, is_pair, rest = str(path).partition("=")
        if suite == "compare":
            if not is_pair or name not in SUITES:
                raise DataError(
                    f"{path}: for compare, give each file as SUITE=FILE, with a suite of {', '.join(SUITES)}"
                )
            given.append((name, Path(rest), ""))
        elif suite == "opening" and is_pair and name in LABELS:
            given.append((suite, Path(rest), name))
        else:
            given.append((suite, path, ""))
    names = [(of, path.name) for of, path, _ in given]
    return [
        File(
            of, path, path.name if names.count((of, path.name)) == 1 else str(path), read_suite(of, path, limit), label
        )
        for of, path, label in given
    ]


def evaluate_packs(
    model: Model,
    packs: Sequence[Pack],
    files: Sequence[File],
    *,
    compare: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Every pack on every file, the unsteered model first; all plain lists and numbers.

    Args:
        compare: also at other strengths, for the frontier, on files of a task (`EFFECTS`) and of `drift`.

    Raises:
        PackError: a pack for another model, or two of one name.
    """
    check_names(packs)
    notes = [note for pack in packs if (note := check_model(pack, model))]
    runner = Runner(model, store, progress)
    results = []
    scores: list[dict[str, list[float]]] = [{label: [] for label in LABELS} for _ in packs]
    for file in files:
        for i, pack in enumerate((None, *packs)):
            found = SUITES[file.suite](runner, file.rows, pack)
            results.append({**_labels(pack), **found.as_dict(), "file": file.name})
            if pack is not None and file.label:
                scores[i - 1][file.label] += found.scores
    frontier, equal_drift = _frontier(runner, packs, files) if compare else ([], [])
    return {
        "model": model.name,
        "quantization": model.quantization,
        "machine": f"{platform.system()} {platform.machine()}, {default_threads()} threads",
        "notes": notes,
        "packs": [
            {"name": p.manifest.name, "method": p.manifest.method, "strength": p.manifest.steer.strength} for p in packs
        ],
        "results": results,
        "auroc": _aurocs(packs, scores),
        "frontier": frontier,
        "equal_drift": equal_drift,
    }


def _labels(pack: Pack | None) -> dict[str, Any]:
    if pack is None:
        return {"pack": "unsteered", "method": "unsteered", "strength": None}
    m = pack.manifest
    return {"pack": m.name, "method": m.method, "strength": m.steer.strength}


def _aurocs(packs: Sequence[Pack], scores: Sequence[dict[str, list[float]]]) -> list[dict[str, Any]]:
    """How well each pack's gate tells IR from general queries, where files of both kinds were given."""
    return [
        {
            **_labels(pack),
            **{label: len(of[label]) for label in LABELS},
            "auroc": auroc(of["ir"], of["general"]).as_dict(),
        }
        for pack, of in zip(packs, scores, strict=True)
        if all(of.values())
    ]


@dataclass(frozen=True)
class _Point:
    strength: float
    effect: list[float]
    drift: list[float]

    @property
    def mean_drift(self) -> float:
        return float(np.mean(self.drift))


def _frontier(runner: Runner, packs: Sequence[Pack], files: Sequence[File]) -> tuple[list[Any], list[Any]]:
    tasks = [f for f in files if f.suite in EFFECTS]
    general = [row for f in files if f.suite == "drift" for row in f.rows]
    if not tasks or not general:
        return [], []
    points: list[dict[str, Any]] = []
    gains: list[dict[str, Any]] = []
    for task in tasks:
        lines = {p.manifest.name: [_point(runner, task, general, p, f) for f in STRENGTH_FACTORS] for p in packs}
        ours = _ours(packs)
        for pack in packs if ours is not None else ():
            assert ours is not None
            line, price = lines[pack.manifest.name], _as_fitted(lines[ours]).mean_drift
            for factor in FURTHER_FACTORS:
                if max(p.mean_drift for p in line) >= price:
                    break
                line.append(_point(runner, task, general, pack, factor))
        none = SUITES[task.suite](runner, task.rows, None).values[EFFECTS[task.suite]]
        for name, line in lines.items():
            points += [
                {
                    "task": f"{task.suite} on {task.name}",
                    "pack": name,
                    "strength": p.strength,
                    "effect": figure(p.effect).as_dict(),
                    "drift": figure(p.drift).as_dict(),
                }
                for p in line
            ]
        gains += _gains(task, lines, none, ours) if ours else []
    return points, gains


def _ours(packs: Sequence[Pack]) -> str | None:
    """Name of FineSteer's first pack, if there is one."""
    return next((p.manifest.name for p in packs if p.manifest.method == "finesteer"), None)


def _point(runner: Runner, task: File, general: Sequence[Row], pack: Pack, factor: float) -> _Point:
    at = pack.with_strength(min(pack.manifest.steer.strength * factor, MAX_STRENGTH))
    measured = SUITES[task.suite](runner, task.rows, at).values[EFFECTS[task.suite]]
    return _Point(at.manifest.steer.strength, measured, SUITES["drift"](runner, general, at).values["kl"])


def _as_fitted(line: Sequence[_Point]) -> _Point:
    """At the pack's own strength: the best one on these rows would have been chosen by them."""
    return line[STRENGTH_FACTORS.index(1.0)]


def _gains(task: File, lines: dict[str, list[_Point]], none: list[float], ours: str) -> list[dict[str, Any]]:
    """FineSteer's first pack as it was fitted less every other, each other one brought to its drift by interpolating along its strengths."""
    mine, found = _as_fitted(lines[ours]), []
    for name, line in lines.items():
        if name != ours:
            theirs = _at_drift(line, none, mine.mean_drift)
            difference: Figure = gain(mine.effect, theirs)
            found.append({"task": f"{task.suite} on {task.name}", "other": name, "gain": difference.as_dict()})
    return found


def _at_drift(line: Sequence[_Point], none: list[float], drift: float) -> list[float]:
    """A method's effect, a value a row, at a drift: between the two points of its frontier around it, the unsteered model being its
    beginning; its best point where even that costs less."""
    known = [
        (0.0, np.array(none)),
        *sorted(((p.mean_drift, np.array(p.effect)) for p in line), key=lambda x: x[0]),
    ]
    affordable = [e for d, e in known if d <= drift]
    best: np.ndarray[Any, Any] = max(affordable, key=lambda e: float(e.mean()))
    for (low, at_low), (high, at_high) in pairwise(known):
        if low <= drift < high:
            between = at_low + (at_high - at_low) * (drift - low) / (high - low)
            best = max(best, between, key=lambda e: float(e.mean()))
    return [float(x) for x in best]
