"""How things look in a terminal: the console, progress bars, tables of facts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
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

from fs_local.engine import Piece
from fs_local.printable import printable

out = Console()
err = Console(stderr=True)
_WIDEST = 1000
"""Columns of a table that goes into a file."""


def print_table(table: Table) -> None:
    """Prints a table; into a file or a pipe, as wide as it is, since a figure that is cut off is lost there."""
    (out if out.is_terminal else Console(width=_WIDEST)).print(table)


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


def timings_json(piece: Piece) -> dict[str, Any]:
    return {
        "prompt_tokens": piece.prompt_tokens,
        "prompt_seconds": round(piece.prompt_seconds, 4),
        "generated_tokens": piece.generated_tokens,
        "seconds": round(piece.seconds, 4),
        "tokens_per_second": round(piece.generated_tokens / piece.seconds, 2) if piece.seconds else None,
    }


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
