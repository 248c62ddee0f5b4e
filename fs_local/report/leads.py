"""Who is ahead of whom: the drift budgets of several evaluations in one table, which begins their page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fs_local.report.numbers import number, real

_View = dict[str, Any]


def leads(evaluations: Sequence[_View]) -> _View | None:
    """A row for each rival of the first FineSteer pack in each part of the page, a cell for each budget; None where nothing was compared.

    A cell's `verdict` is "ahead" or "behind" where the interval of the lead is clear of 0, else empty.
    """
    budgets: dict[str, None] = {}
    parts: dict[tuple[int, str], _View] = {}
    for place, evaluation in enumerate(evaluations):
        for row in evaluation.get("budgets") or ():
            budget, task = number(row["budget"]), str(row["task"])
            budgets[budget] = None
            part = parts.setdefault(
                (place, task),
                {"place": place, "title": evaluation.get("title"), "task": task, "ours": {}, "rivals": {}},
            )
            if row["lead"]:
                part["rivals"].setdefault(row["pack"], {})[budget] = {**row, "verdict": _verdict(row["lead"])}
            else:
                part["ours"][budget] = row
    compared = [part for part in parts.values() if part["rivals"]]
    return {"budgets": list(budgets), "parts": compared} if compared else None


def _verdict(lead: _View) -> str:
    low, high = real(lead.get("low")), real(lead.get("high"))
    return "ahead" if low > 0 else "behind" if high < 0 else ""
