"""How things look in a terminal: progress bars, decisions, summaries of packs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from fs_local.engine import Decision, Piece
from fs_local.method.readings import Reading
from fs_local.pack.file import Pack
from fs_local.pack.manifest import SCOPES
from fs_local.printable import printable

out = Console()
err = Console(stderr=True)


class _Rate(ProgressColumn):
    """Steps a second, or seconds a step where that is the larger number."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        if not rate:
            return Text("")
        return Text(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each", style="progress.data.speed")


@contextmanager
def stages(as_json: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars, one a stage, on standard error; for programs, lines of JSON there. Yields what a fit reports to."""
    if as_json:
        yield _progress_line
        return
    columns = [
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


def _progress_line(what: str, done: int, total: int) -> None:
    print(json.dumps({"stage": what, "done": done, "total": total}), file=sys.stderr, flush=True)


@contextmanager
def loading() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for a model that takes long to load; it disappears when that is done."""
    with Progress(TextColumn("load model"), BarColumn(), console=err, transient=True) as bar:
        task = bar.add_task("load")
        yield lambda _what, done, total: bar.update(task, completed=done, total=total)


def decision_line(decision: Decision) -> str:
    """One decision in a line, in rich markup."""
    state = f"[yellow]open {decision.opening:.2f}[/]" if decision.is_open else "[green]closed[/]"
    top = max(range(len(decision.weights)), key=lambda k: float(decision.weights[k]))
    expert = f" · expert {top + 1} at {decision.weights[top]:.0%}" if decision.is_open else ""
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


def timings_json(piece: Piece) -> dict[str, Any]:
    return {
        "prompt_tokens": piece.prompt_tokens,
        "prompt_seconds": round(piece.prompt_seconds, 4),
        "generated_tokens": piece.generated_tokens,
        "seconds": round(piece.seconds, 4),
        "tokens_per_second": round(piece.generated_tokens / piece.seconds, 2) if piece.seconds else None,
    }


def blocks(layers: Sequence[int]) -> str:
    """Layers in words: block 10, or blocks 10, 14."""
    return ("block " if len(layers) == 1 else "blocks ") + ", ".join(map(str, layers))


_READINGS: dict[Reading, str] = {
    "last": "the last token",
    "user_last": "the user's last token",
    "user_mean": "the mean over the user's tokens",
    "mean": "the mean over the prompt",
}


def readings(some: Sequence[Reading]) -> str:
    """Readings in words."""
    return ", ".join(_READINGS[r] for r in some)


def gate_threshold(pack: Pack) -> str:
    """What opens a pack's gate, in words."""
    gate = pack.gate
    if gate.ratio_threshold is not None:
        return f"opens fully from energy ratio {gate.ratio_threshold:.2f} on (tail {gate.edge:g} of held-out IR queries), one-class"
    if gate.kind == "logistic":
        return "opens by linear margins between IR and general queries; the energy ratio only describes"
    if gate.kind == "open":
        return "is always open"
    if gate.kind.startswith("cosine"):
        side, edge = (">", gate.edge) if gate.kind == "cosine_above" else ("<", -gate.edge)
        return f"opens where the similarity to the condition vector is {side} {edge:.3f}"
    return "the opening is the energy ratio itself"


def explain(decision: Decision, pack: Pack) -> Panel:
    """A decision in detail: opening and energy ratio against the threshold, and every expert with what it is about."""
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
    from rich.console import Group

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
        lines.append("carried by " + ", ".join(f"{_READINGS[r]} {part:+.2f}" for r, part in by_reading.items()))
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
        table.add_row(_READINGS[reading], *(f"{part:+.2f}" for part in [*row, sum(row)]))
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


def pack_summary(pack: Pack, size: int) -> Table:
    """A pack as a person judges it."""
    return facts(f"steering pack {pack.manifest.name}", [*summary_rows(pack, size), *trial_rows(pack)])


def facts(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """Labels and values under a title."""
    table = Table(
        title=escape(printable(title)),
        title_justify="left",
        show_header=False,
        box=None,
        padding=(0, 2),
    )
    table.add_column(style="bold")
    for name, value in rows:
        table.add_row(name, escape(printable(value)))
    return table


def summary_rows(pack: Pack, size: int) -> list[tuple[str, str]]:
    """What there is to say of a pack: label and value."""
    m = pack.manifest
    f = m.figures
    rows: list[tuple[str, str]] = []

    def row(name: str, value: str) -> None:
        rows.append((name, value))

    row("size", f"{size / 1024:.0f} KB")
    row(
        "model",
        f"{m.model.name} ({m.model.architecture}, {m.model.n_layer} blocks, {m.model.quantization}), fingerprint {m.model.fingerprint}",
    )
    row("fitted on", ", ".join(f"{d.rows} {name}" for name, d in m.data.items()) or "examples given in Python")
    also = "" if m.steer.reads is None else f", by states after {blocks(m.steer.reads)}"
    row(
        "steers",
        f"after {blocks(m.steer.layers)}, strength {m.steer.strength:g}, {SCOPES[m.steer.scope]}{also}",
    )
    reads = "" if m.gate.readings == ["last"] else f", reading {readings(m.gate.readings)}"
    row(
        "gate", f"{m.gate.kind}, at {blocks(m.gate.layers)}{reads}, rank {len(pack.gate.basis)}; {gate_threshold(pack)}"
    )
    if f.open_ir is not None:
        unseen = " of kinds it had not seen" if f.kinds else ""
        general = "" if f.open_general is None else f", and for {f.open_general:.1%} of general queries{unseen}"
        auroc = "" if f.auroc is None else f"; AUROC {f.auroc:.3f}"
        row("cross-fitted", f"opens for {f.open_ir:.1%} of IR queries{general}{auroc}")
    if f.recall:
        at = ", ".join(f"{r.ir:.1%} of IR queries where {r.general:.0%} of general ones open it" for r in f.recall)
        row("recall", at)
    for kind in sorted(f.kinds, key=lambda k: -k.opened):
        seen = "" if kind.held else f"; NOT HELD: {kind.opened_seen:.1%} open with the kind in the fit"
        row(
            f"  {kind.name}",
            f"{kind.opened:.1%} [{kind.low:.1%}, {kind.high:.1%}] of {kind.rows} open, the kind left out{seen}",
        )
    if f.open_ir_in_wraps is not None and f.open_general_in_wraps is not None:
        row(
            "in unseen wraps",
            f"opens for {f.open_ir_in_wraps:.1%} of IR and {f.open_general_in_wraps:.1%} of general queries",
        )
    row("experts", f"K = {len(m.experts)}, residual rank {len(pack.experts.residual)}")
    if f.validation_error is not None and f.constant_error:
        better = 1 - f.validation_error / f.constant_error
        compared = f"{abs(better):.1%} {'below' if better >= 0 else 'ABOVE'} it"
        row(
            "validation error",
            f"{f.validation_error:.4g}, the constant mean vector's {f.constant_error:.4g} ({compared})",
        )
    if f.held_out is not None:
        effect = {"refusal": "refuses", "mc2": "probability of the preferred answers", None: ""}[f.effect_kind]
        budget = "" if f.held_out.within_budget else " (over the fluency budget)"
        row(
            "held out",
            f"{effect} {f.held_out.effect:.0%} (unsteered {f.unsteered_held_out or 0:.0%}) on {f.held_out.pairs} pairs that had no part in "
            f"the fit; repeated words {f.held_out.repeated:.0%}, perplexity ×{f.held_out.perplexity_ratio:.2f}{budget}",
        )
    for k, about in enumerate(m.experts):
        if about.queries:
            row(f"  expert {k + 1}", f"{about.pairs} pairs, such as: {about.queries[0]}")
    return rows


def trial_rows(pack: Pack) -> list[tuple[str, str]]:
    """What a fit tried: label and value."""
    m, f = pack.manifest, pack.manifest.figures
    rows: list[tuple[str, str]] = []
    effect = {"refusal": "refuses", "mc2": "probability of the preferred answers", None: ""}[f.effect_kind]
    most = max((t.pairs for t in f.trials), default=0)
    for t in f.trials:
        here = (t.pairs, t.layers, t.strength, t.residual) == (
            most,
            m.steer.layers,
            m.steer.strength,
            len(pack.experts.residual) if m.method == "finesteer" else 0,
        )
        budget = "" if t.within_budget else " (over the fluency budget)"
        unsteered = f" (unsteered {f.unsteered_effect or 0:.0%})" if t.pairs == most else ""
        label = f"  {blocks(t.layers)}, λ {t.strength:g}, residual {t.residual}"
        value = (
            f"{t.pairs} pairs: {effect} {t.effect:.0%}{unsteered}, repeated words {t.repeated:.0%}, "
            f"perplexity ×{t.perplexity_ratio:.2f}{budget}{'  ← chosen' if here else ''}"
        )
        rows.append((label, value))
    return rows
