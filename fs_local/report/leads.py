"""Who is ahead of whom: the drift budgets of several evaluations in one table, which begins their page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fs_local.report.numbers import number, real

_View = dict[str, Any]


def leads(evaluations: Sequence[_View]) -> _View | None:
    """A row for each rival of the first FineSteer pack in each part of the page, a cell for each budget; None where nothing was compared.

    A lead's `verdict` is "ahead" or "behind" where its interval is clear of 0, else empty.
    """
    budgets: dict[str, None] = {}
    parts = []
    for place, evaluation in enumerate(evaluations):
        rows: dict[tuple[Any, Any], dict[str, _View]] = {}
        ours: dict[tuple[Any, str], _View] = {}
        for row in evaluation.get("budgets") or ():
            budget = number(row.get("budget"))
            budgets[budget] = None
            if row.get("lead"):
                rows.setdefault((row.get("task"), row.get("pack")), {})[budget] = row
            else:
                ours.setdefault((row.get("task"), budget), row)
        tasks = dict.fromkeys(task for task, _ in rows)
        parts += [
            {
                "place": place,
                "title": evaluation.get("title"),
                "task": task,
                "ours": {budget: row for (of, budget), row in ours.items() if of == task},
                "rivals": [
                    {
                        "name": rival,
                        "cells": {
                            budget: {**row, "verdict": _verdict(row["lead"])} for budget, row in at_budgets.items()
                        },
                    }
                    for (of, rival), at_budgets in rows.items()
                    if of == task
                ],
            }
            for task in tasks
        ]
    return {"budgets": list(budgets), "parts": parts} if parts else None


def _verdict(lead: _View) -> str:
    low, high = real(lead.get("low")), real(lead.get("high"))
    return "ahead" if low > 0 else "behind" if high < 0 else ""
