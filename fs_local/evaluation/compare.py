"""Packs on suites, side by side; for `compare`, also the frontier of effect against drift, where methods meet at equal cost."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

from fs_local.evaluation.figures import auroc
from fs_local.evaluation.files import LABELS, File
from fs_local.evaluation.frontier import Frontier
from fs_local.evaluation.runner import Progress, Runner
from fs_local.evaluation.suites import SUITES
from fs_local.pack.file import Pack
from fs_local.runtime.context import default_threads
from fs_local.runtime.model import Model
from fs_local.steering import check_model, check_names
from fs_local.store import Store


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
    measured = Frontier.measure(runner, packs, files) if compare else Frontier()
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
        **measured.as_dict(),
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
