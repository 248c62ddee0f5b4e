"""An evaluation as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from fs_local.evaluation.fluency import FLUENCY
from fs_local.evaluation.intervals import alike_rows

_MOST_FIGURES = 4
"""Side by side."""


def evaluation_tables(found: dict[str, Any]) -> Iterator[Table]:
    """What `evaluate` measured: a table for each suite and file, a row for each pack."""
    for results in _by_file(found["results"]):
        names = list(results[0]["figures"])
        yield _suite_table(results, [n for n in names if n not in FLUENCY])
        if fluent := [n for n in names if n in FLUENCY]:
            yield _suite_table(results, fluent, "fluency of ")
    if found["auroc"]:
        table = Table(title="how well gates tell IR from general queries", title_justify="left")
        for column in ("pack", "IR queries", "general queries", "AUROC"):
            table.add_column(column)
        for p in found["auroc"]:
            table.add_row(escape(p["pack"]), str(p["ir"]), str(p["general"]), _interval(p["auroc"]))
        yield table
    if found["frontier"]:
        table = Table(title="effect and drift as the strength grows", title_justify="left")
        for column in ("task", "pack", "strength", "effect", "drift (KL, nats a token)"):
            table.add_column(column)
        for p in found["frontier"]:
            table.add_row(
                escape(p["task"]),
                escape(p["pack"]),
                f"{p['strength']:g}" + ("" if p["fluent"] else ", not fluent"),
                _interval(p["effect"]),
                _interval(p["drift"]),
            )
        yield table
    if found["budgets"]:
        table = Table(title="the best effect within a drift budget", title_justify="left")
        for column in ("task", "budget", "pack", "strength", "drift", "effect", "the first FineSteer pack is ahead by"):
            table.add_column(column)
        for p in found["budgets"]:
            lead = "" if p["lead"] is None else _interval(p["lead"])
            numbers = f"{p['strength']:.3g}", f"{p['drift']:.3f}", _interval(p["effect"])
            table.add_row(escape(p["task"]), f"{p['budget']:g}", escape(p["pack"]), *numbers, lead)
        yield table
    if found["floor"]:
        table = Table(title="the floor: what a vector of almost nothing does", title_justify="left")
        for column in ("what", "by"):
            table.add_column(column)
        table.add_row("drift (KL, nats a token)", _interval(found["floor"]["drift"]))
        for p in found["floor"]["tasks"]:
            table.add_row(f"change of {escape(p['task'])}", _interval(p["change"]))
        yield table


def fitted_table(found: dict[str, Any]) -> Table:
    """What a protocol's methods were fitted on, and what they chose."""
    title = f"fitted by code {found['code']} in {found['seconds']:.0f} seconds, measuring included; {found['machine']}"
    prompts = [f"{escape(f['name'])}: {escape(f['system'])}" for f in found["fitted"] if "system" in f]
    table = Table(title=title, title_justify="left", caption="\n".join(prompts) or None, caption_justify="left")
    for column in (
        "name",
        "method",
        "IR",
        "pairs",
        "general",
        "trials",
        "gate",
        "after blocks",
        "λ",
        "scope",
        "error / constant",
    ):
        table.add_column(column)
    for f in found["fitted"]:
        if "system" in f:
            table.add_row(escape(f["name"]), "system prompt")
            continue
        errors = "" if f["validation_error"] is None else f"{f['validation_error'] / f['constant_error']:.3f}"
        counts = (str(f[k]) for k in ("ir", "pairs", "general", "trials"))
        layers = ", ".join(map(str, f["layers"]))
        method = f["method"] if f["form"] is None else f"{f['method']}: {f['form']}"
        table.add_row(escape(f["name"]), method, *counts, f["gate"], layers, f"{f['strength']:g}", f["scope"], errors)
    return table


def _by_file(results: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    files: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in results:
        files.setdefault((r["suite"], r["file"]), []).append(r)
    return list(files.values())


def _suite_table(results: list[dict[str, Any]], names: list[str], about: str = "") -> Table:
    """A row a pack; or a row a figure, where there are fewer packs than figures and so many of these that a terminal could not hold them."""
    first = results[0]
    title = f"{about}{first['suite']} on {escape(first['file'])}, {first['rows']} rows"
    table = Table(title=title, title_justify="left")
    labels = [escape(r["pack"]) + ("" if r["strength"] is None else f" λ {r['strength']:g}") for r in results]
    cells = [[_interval(r["figures"][name]) for name in names] for r in results]
    figures = [name.replace("_", " ") for name in names]
    if len(results) < len(names) > _MOST_FIGURES:
        corner, columns, heads, rows = "figure", labels, figures, list(zip(*cells, strict=True))
    else:
        corner, columns, heads, rows = "pack", figures, labels, [tuple(row) for row in cells]
    for column in (corner, *columns):
        table.add_column(column)
    for head, row in zip(heads, rows, strict=True):
        table.add_row(head, *row)
    return table


def _interval(figure: dict[str, Any]) -> str:
    mean, low, high, rows = (figure[k] for k in ("mean", "low", "high", "rows"))
    if low is not None:
        return f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    return f"{mean:.3f} in all {rows} rows, so in {1 - alike_rows(rows):.0%} or more"
