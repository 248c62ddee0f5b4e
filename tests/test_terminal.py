"""What a person sees while something takes long."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.table import Table

from fs_local import terminal


def test_progress_shows_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, width=120, force_terminal=True)
    monkeypatch.setattr(terminal, "err", console)
    clock = iter(range(100_000))
    monkeypatch.setattr(console, "get_time", lambda: next(clock) / 10)
    with terminal.stages() as report:
        for done in range(0, 60, 10):
            report("capture pairs", done, 100)
    shown = console.export_text()
    assert "50/100" in shown
    assert "/s" in shown


def test_a_table_in_a_file_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(*(f"column {i}" for i in range(8)))
    cells = [f"{i}: {'figure' * 8}" for i in range(8)]
    table.add_row(*cells)
    terminal.print_table(table)
    found = capsys.readouterr().out
    assert all(cell in found for cell in cells)
