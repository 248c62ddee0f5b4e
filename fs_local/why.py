"""What a decision looks like to a person: in a line, in detail as `/why` shows it, in a table, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from fs_local.engine import Decision
from fs_local.method.readings import Reading
from fs_local.pack.file import Pack
from fs_local.pack_summary import READINGS, blocks, gate_threshold
from fs_local.printable import printable


def decision_line(decision: Decision) -> str:
    """One decision in a line, in rich markup."""
    state = f"[yellow]open {decision.opening:.2f}[/]" if decision.is_open else "[green]closed[/]"
    top = max(range(len(decision.weights)), key=lambda k: float(decision.weights[k]))
    is_mixed = decision.is_open and len(decision.weights) > 1
    expert = f" · expert {top + 1} at {decision.weights[top]:.0%}" if is_mixed else ""
    return f"[dim]{escape(decision.pack)}: {state} · energy ratio {decision.energy_ratio:.2f}{expert}[/]"


def decision_json(decision: Decision) -> dict[str, Any]:
    return {
        "pack": decision.pack,
        "opening": round(decision.opening, 6),
        "energy_ratio": round(decision.energy_ratio, 6),
        "margin": round(decision.margin, 6) if math.isfinite(decision.margin) else None,
        "carried": [
            {"layer": layer, "reading": reading, "part": round(part, 6)} for layer, reading, part in decision.carried
        ],
        "weights": [round(float(w), 6) for w in decision.weights],
        "layers": list(decision.layers),
        "strength": decision.strength,
    }


def explain(decision: Decision, pack: Pack) -> Panel:
    """A decision in detail: opening, energy ratio and margin against the threshold, what carried it, and every expert with what it is about."""
    lines = [
        f"opening {decision.opening:.3f} · energy ratio {decision.energy_ratio:.3f} · gate at {blocks(pack.manifest.gate.layers)}",
        f"the gate {gate_threshold(pack)}",
        *margin_lines(decision)[:1],
        f"steered after {blocks(decision.layers)} with strength {decision.strength:g}"
        if decision.is_open
        else "not steered",
    ]
    table = Table(box=None, padding=(0, 1), show_header=False)
    order = sorted(range(len(decision.weights)), key=lambda k: -float(decision.weights[k]))
    for k in order:
        about = pack.manifest.experts[k]
        bar = "█" * max(1, round(float(decision.weights[k]) * 20))
        table.add_row(
            f"expert {k + 1}", f"{decision.weights[k]:.0%}", bar, escape(" / ".join(q[:60] for q in about.queries))
        )
    return Panel(
        Group(*[escape(line) for line in lines], *carried_tables(decision), table),
        title=f"why: {escape(decision.pack)}",
        title_align="left",
    )


def margin_lines(decision: Decision) -> list[str]:
    """How far a query is from where the gate begins to open, and what carried it: nothing where it is not known."""
    if not math.isfinite(decision.margin):
        return []
    side = "beyond" if decision.margin > 0 else "short of"
    lines = [f"{abs(decision.margin):.2f} {side} where the gate begins to open"]
    if decision.carried:
        by_reading: dict[Reading, float] = {}
        for _, reading, part in decision.carried:
            by_reading[reading] = by_reading.get(reading, 0.0) + part
        lines.append("carried by " + ", ".join(f"{READINGS[r]} {part:+.2f}" for r, part in by_reading.items()))
    return lines


def carried_tables(decision: Decision) -> list[Table]:
    """What carried a linear gate's margin, readings down and blocks across, with the sums of both: nothing for other gates."""
    if not decision.carried:
        return []
    parts = {(reading, layer): part for layer, reading, part in decision.carried}
    named, layers = list(dict.fromkeys(r for r, _ in parts)), sorted({layer for _, layer in parts})
    table = Table(box=None, padding=(0, 1))
    table.add_column("carried by")
    for layer in layers:
        table.add_column(f"block {layer}", justify="right")
    table.add_column("together", justify="right", style="bold")
    for reading in named:
        row = [parts.get((reading, layer), 0.0) for layer in layers]
        table.add_row(READINGS[reading], *(f"{part:+.2f}" for part in [*row, sum(row)]))
    sums = [sum(parts.get((reading, layer), 0.0) for reading in named) for layer in layers]
    table.add_row("together", *(f"{part:+.2f}" for part in [*sums, sum(sums)]), style="bold")
    return [table]


def decisions_table(rows: Sequence[tuple[str, Sequence[Decision]]]) -> Table:
    """Queries with what each pack decides, one line a decision."""
    table = Table(box=None, padding=(0, 1))
    for name in ("query", "pack", "gate", "opening", "margin", "carried by"):
        table.add_column(name, justify="right" if name in ("opening", "margin") else "left")
    for query, decisions in rows:
        for d in decisions:
            line = " ".join(query.split())
            carried = margin_lines(d)[1:]
            table.add_row(
                escape(printable(line[:60] + ("…" if len(line) > 60 else ""))),
                escape(printable(d.pack)),
                "open" if d.is_open else "closed",
                f"{d.opening:.2f}",
                f"{d.margin:+.2f}" if math.isfinite(d.margin) else "",
                escape(carried[0].removeprefix("carried by ")) if carried else "",
            )
    return table
