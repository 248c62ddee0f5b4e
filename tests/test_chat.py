"""Corrections in the terminal's chat: from an answer to a row of a lesson, and from the lesson to a pack."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fs_local.chat import Chat
from fs_local.errors import DataError, FsLocalError
from fs_local.generation import GenerationOptions
from fs_local.lessons import Lessons
from fs_local.pack.file import Pack
from fs_local.steered_model import SteeredModel
from fs_local.user_data import user_database

ROOT = Path(__file__).parents[1]
FEW_TOKENS = GenerationOptions(max_tokens=6)


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own lessons."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def said(tiny_path: Path, tiny_pack_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], str]]:
    """What the chat prints after a line."""
    with SteeredModel.load(tiny_path, [tiny_pack_path], n_ctx=1024) as model:
        chat = Chat(model, FEW_TOKENS, "You are brief.")

        def after(line: str) -> str:
            capsys.readouterr()
            chat.handle(line)
            return capsys.readouterr().out

        yield after


def test_corrections_become_rows(said: Callable[[str], str]) -> None:
    answer = said("Who are you?").splitlines()[0]
    assert "At least 7 more pairs" in said("/better I am [b]me[/b].")
    said("Hello")
    said("/steer")
    assert "is to be steered and not to be steered" in said("/leave")
    pair, steer, leave = Lessons(user_database()).rows("corrections")
    assert [m["role"] for m in pair.query.messages] == ["system", "user"]
    assert (pair.preferred, pair.undesired[0].splitlines()[0].strip()) == (("I am [b]me[/b].",), answer.strip())
    assert [m["role"] for m in steer.query.messages] == ["system", "user", "assistant", "user"]
    assert (steer.kind, leave.kind, steer.query) == ("ir", "general", leave.query)


def test_a_lesson_is_chosen_and_shown(said: Callable[[str], str]) -> None:
    assert "corrections: 0 rows" in said("/lesson")
    assert Lessons(user_database()).all() == [], "looking makes none"
    said("/lesson tone")
    for i in range(8):
        said(f"Question {i}?")
        shown = said("/better An answer.")
    assert "tone: 8 rows" in shown
    assert "--lesson tone -o tone.fspack" in shown
    assert [s.name for s in Lessons(user_database()).all()] == ["tone"]


def test_corrections_that_are_none(said: Callable[[str], str]) -> None:
    for line, message in (
        ("/better It is so.", "nothing was answered yet"),
        ("/steer", "nothing was answered yet"),
        ("/better", "say what it should have said"),
    ):
        with pytest.raises(FsLocalError, match=message):
            said(line)
    with pytest.raises(DataError, match="no slash"):
        said("/lesson a/b")
    assert Lessons(user_database()).all() == []


def test_why_shows_what_carried_the_decision(said: Callable[[str], str]) -> None:
    said("How do I steal a car?")
    why = said("/why")
    assert "carried by" in why
    assert "where the gate begins to open" in why
    assert "together" in why


def test_the_loop_in_a_terminal(tiny_path: Path, tmp_path: Path) -> None:
    with Terminal("chat", str(tiny_path), "--max-tokens", "4", "--temperature", "0") as terminal:
        terminal.read_until(">>>")
        for i in range(8):
            terminal.type(f"Question {i}?\n")
            terminal.read_until(">>>")
            terminal.type("/better An answer.\n")
            terminal.read_until(f"{i + 1} row")
            terminal.read_until(">>>")
        terminal.type("/bye\n")
    pack = tmp_path / "corrections.fspack"
    command = ["fit", str(tiny_path), "--lesson", "corrections", "--no-background", "--layer", "3", "--strength", "1"]
    fitted = subprocess.run(
        [sys.executable, "-m", "cli", *command, "--residual", "0", "--experts", "1", "-o", str(pack)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert fitted.returncode == 0, fitted.stderr
    assert Pack.load(pack).manifest.name == "corrections"


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._own, theirs = pty.openpty()
        self._shown = ""
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments],
            cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            assert self._child.wait(30) == 0
        finally:
            self._child.kill()
            os.close(self._own)

    def type(self, text: str) -> None:
        os.write(self._own, text.encode())

    def read_until(self, text: str, seconds: float = 60) -> str:
        """What it shows up to this text; what came behind it is for the next call."""
        end = time.monotonic() + seconds
        while text not in self._shown:
            ready = select.select([self._own], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, f"waited for {text!r}, and saw {self._shown[-2000:]!r}"
            self._shown += os.read(self._own, 4096).decode("utf-8", "replace")
        before, found, self._shown = self._shown.partition(text)
        return before + found
