"""Packs on suites, side by side; for `compare`, also the frontier of effect against drift, where methods meet at equal cost."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

from fs_local.evaluation.budgets import BUDGETS
from fs_local.evaluation.contenders import UNSTEERED, Contender, method_of, name_of, strength_of
from fs_local.evaluation.figures import auroc
from fs_local.evaluation.files import LABELS, File
from fs_local.evaluation.frontier import Frontier
from fs_local.evaluation.runner import Runner
from fs_local.evaluation.suites import SUITES
from fs_local.pack.file import Pack
from fs_local.progress import Progress
from fs_local.runtime.model import Model
from fs_local.runtime.threads import default_threads
from fs_local.steering import check_model, check_names
from fs_local.store import Store


def evaluate_packs(
    model: Model,
    contenders: Sequence[Contender],
    files: Sequence[File],
    *,
    compare: bool = False,
    budgets: Sequence[float] = BUDGETS,
    store: Store | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Every contender on every file, the unsteered model first; all plain lists and numbers.

    Args:
        budgets: of drift, ascending, for the frontier.
        compare: also at other strengths, for the frontier, on files of a task (`EFFECTS`) and of `drift`.

    Raises:
        PackError: a pack for another model, or two of one name.
    """
    packs = [c for c in contenders if isinstance(c, Pack)]
    check_names(packs)
    notes = [note for pack in packs if (note := check_model(pack, model))]
    runner = Runner(model, store, progress)
    results = []
    scores: list[dict[str, list[float]]] = [{label: [] for label in LABELS} for _ in contenders]
    for file in files:
        for i, contender in enumerate((None, *contenders)):
            found = SUITES[file.suite](runner, file.rows, contender)
            results.append({**_labels(contender), **found.as_dict(), "file": file.name})
            if contender is not None and file.label:
                scores[i - 1][file.label] += found.scores
    measured = Frontier.measure(runner, contenders, files, budgets) if compare else Frontier()
    return {
        "model": model.name,
        "quantization": model.quantization,
        "machine": f"{platform.system()} {platform.machine()}, {default_threads()} threads",
        "notes": notes,
        "packs": [{"name": name_of(c), "method": method_of(c), "strength": strength_of(c)} for c in contenders],
        "results": results,
        "auroc": _aurocs(contenders, scores),
        **measured.as_dict(),
    }


def _labels(contender: Contender | None) -> dict[str, Any]:
    if contender is None:
        return {"pack": UNSTEERED, "method": UNSTEERED, "strength": None}
    return {"pack": name_of(contender), "method": method_of(contender), "strength": strength_of(contender)}


def _aurocs(contenders: Sequence[Contender], scores: Sequence[dict[str, list[float]]]) -> list[dict[str, Any]]:
    """How well each pack's gate tells IR from general queries, where files of both kinds were given."""
    return [
        {
            **_labels(contender),
            **{label: len(of[label]) for label in LABELS},
            "auroc": auroc(of["ir"], of["general"]).as_dict(),
        }
        for contender, of in zip(contenders, scores, strict=True)
        if isinstance(contender, Pack) and all(of.values())
    ]
