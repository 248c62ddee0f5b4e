"""Benchmarks as tables, in a terminal as in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import MARKDOWN
from rich.markup import escape
from rich.table import Table

from fs_local.benchmark.figures import Measurement, Report
from fs_local.benchmark.peers import Peer
from fs_local.benchmark.scaling import Scaling


def bench_table(report: Report) -> Table:
    """A benchmark: medians of both sides, the median of the pairs' ratios with its quartiles, and the goal."""
    return _goals(
        report,
        f"Medians, in brackets quartiles. Stock: llama.cpp without our callback, in turns with ours. {report.seconds:.0f} s.",
    )


def scaling_tables(found: Scaling) -> Iterator[Table]:
    """How capture and fit grow with the data: what each size took, and how that is judged."""
    table = Table(title="Each size in a process of its own", title_justify="left", box=MARKDOWN)
    for name in ("job", "rows", "seconds", "peak resident MB"):
        table.add_column(name, justify="left" if name == "job" else "right")
    for series in found.series:
        for p in series.points:
            table.add_row(series.what, f"{p.rows:,}", _digits(p.seconds), _digits(p.megabytes))
    yield table
    yield _goals(found, f"{found.seconds:.0f} s.")


def _goals(report: Report | Scaling, caption: str) -> Table:
    table = Table(
        title=f"{escape(report.model)}\n{escape(report.machine)}\n{escape(report.versions)}\n{escape(report.settings)}",
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=MARKDOWN,
    )
    for name in ("what", "here", "compared with", "ratio", "pairs", "goal", "met"):
        table.add_column(name, justify="right" if name in ("here", "ratio", "pairs") else "left")
    for r in report.rows:
        _add_row(table, r)
    return table


def _add_row(table: Table, r: Measurement) -> None:
    against = "" if r.base is None else f"{_digits(r.base)} {r.unit} ({r.against})"
    low, high = r.spread or (0.0, 0.0)
    spread = "" if r.spread is None else f" ({low:.3f}–{high:.3f})"
    table.add_row(
        r.what,
        f"{_digits(r.value)} {r.unit}" + (f" ({low:.3g}–{high:.3g})" if r.ratio is None and r.spread else ""),
        against,
        "" if r.ratio is None else f"{r.ratio:.3f}{spread}",
        str(r.pairs),
        r.goal,
        {True: "yes", False: "no", None: "–"}[r.met],
    )


def peers_table(peers: Sequence[Peer]) -> Table:
    """What other tools take for the same work; ratios are to the first's figures."""
    table = Table("tool", "load", "a vector a block", "tokens", "memory", "versions", box=MARKDOWN)
    first = peers[0]

    def cell(value: float | None, base: float | None, unit: str, here: bool) -> str:
        if value is None:
            return "–"
        return f"{_digits(value)}{unit}" + ("" if here or not base else f" ({_digits(value / base)}×)")

    for p in peers:
        table.add_row(
            p.name,
            cell(p.load_seconds, first.load_seconds, " s", p is first),
            cell(p.extract_seconds, first.extract_seconds, " s", p is first),
            cell(p.tokens_per_second, first.tokens_per_second, "/s", p is first),
            cell(p.megabytes, first.megabytes, " MB", p is first),
            p.versions,
        )
    return table


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
