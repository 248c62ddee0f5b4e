"""Chat in a terminal: streaming, many turns, a decision shown at each, corrections that are kept, and commands that begin with a slash."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
from rich.markup import escape
from rich.table import Table

from fs_local.conversation import Conversation
from fs_local.engine import Piece
from fs_local.errors import FsLocalError
from fs_local.files import replace_file
from fs_local.generation import GenerationOptions
from fs_local.lessons import Kind, LessonRow, Lessons, can_fit, checked_name, contradictions, missing
from fs_local.runtime.template import Message
from fs_local.steered_model import SteeredModel
from fs_local.terminal import out
from fs_local.user_data import user_database
from fs_local.why import decision_json, decision_line, explain

CORRECTIONS = "corrections"
"""The lesson where corrections go, here as in the page, until another is chosen."""
_COMMANDS = {
    "/why": "the last decision in detail: margin, what carried it, and experts with the training queries nearest to each",
    "/compare": "the last answer again, as the unsteered model gives it",
    "/better": "correct the last answer: /better It should have said this.",
    "/steer": "the last query should have been steered",
    "/leave": "the last query should not have been steered",
    "/lesson": "show the lesson where corrections go, and what it still wants for a fit; or choose another: /lesson tone",
    "/strength": "show λ, or set it: /strength 0.8, or for one of several packs: /strength refusal 0.8",
    "/off": "answer unsteered from now on",
    "/on": "answer steered again",
    "/system": "set the system message and begin anew: /system You are brief.",
    "/reset": "forget the conversation",
    "/save": "write the conversation to a file: /save talk.json",
    "/help": "this list",
    "/bye": "leave (Ctrl-D does too)",
}


class Chat:
    """A conversation at the terminal. `run` reads lines until they end."""

    def __init__(self, model: SteeredModel, options: GenerationOptions, system: str | None = None) -> None:
        self._model, self._options = model, options
        self._conversation: Conversation = model.chat(system)
        self._lessons, self._lesson = Lessons(user_database()), CORRECTIONS

    def run(self) -> None:
        """Reads from the terminal with line editing and history, or plainly from a pipe."""
        packs = ", ".join(p.manifest.name for p in self._model.packs) or "no pack"
        out.print(
            f"[bold]{escape(self._model.model.name)}[/] with {escape(packs)}. /help lists commands, Ctrl-C stops an answer, Ctrl-D leaves."
        )
        if (sampling := self._options.sampling) is not None and sampling.temperature:
            out.print(f"[dim]temperature {sampling.temperature:g}, seed {sampling.seed}[/]")
        read = _line_reader()
        while True:
            try:
                line = read().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                continue
            if line in ("/bye", "/exit", "/quit"):
                return
            if line:
                try:
                    self.handle(line)
                except FsLocalError as error:
                    out.print(f"[red]{escape(str(error))}[/]")

    def handle(self, line: str) -> None:
        """One line: a command or a message."""
        if not line.startswith("/"):
            dropped = self._conversation.dropped
            self._answer(self._conversation.send(line, self._options))
            if (gone := self._conversation.dropped - dropped) > 0:
                out.print(
                    f"[yellow]the context is full: the oldest {gone} turn{'s were' if gone > 1 else ' was'} dropped[/]"
                )
            for decision in self._conversation.decisions:
                out.print(decision_line(decision))
            return
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if command == "/help":
            table = Table(box=None, show_header=False, padding=(0, 2))
            for name, text in _COMMANDS.items():
                table.add_row(f"[bold]{name}[/]", escape(text))
            out.print(table)
        elif command == "/why":
            self._why()
        elif command == "/compare":
            out.print("[dim]unsteered:[/]")
            self._answer(self._conversation.compare())
        elif command == "/better":
            self._better(rest)
        elif command == "/steer":
            self._mark("ir")
        elif command == "/leave":
            self._mark("general")
        elif command == "/lesson":
            self._show_lesson(rest)
        elif command == "/strength":
            self._strength(rest)
        elif command in ("/off", "/on"):
            self._conversation.steered = command == "/on"
            out.print(f"steering is {'on' if self._conversation.steered else 'off'}")
        elif command == "/system":
            self._conversation.system = rest or None
            self._conversation.reset()
            out.print(
                "the conversation begins anew"
                + (" with this system message" if rest else " without a system message of yours")
            )
        elif command == "/reset":
            self._conversation.reset()
            out.print("the conversation begins anew")
        elif command == "/save":
            self._save(rest)
        else:
            raise FsLocalError(f"there is no command {command}; /help lists them")

    def _answer(self, pieces: Iterator[Piece]) -> None:
        """Prints an answer as it comes; Ctrl-C stops it, and what came is kept."""
        try:
            for piece in pieces:
                out.print(piece.text, end="", markup=False, highlight=False, soft_wrap=True)
                out.file.flush()
                if piece.finish_reason == "context":
                    out.print("\n[yellow]the context is full[/]", end="")
        except KeyboardInterrupt:
            out.print(" [yellow]stopped[/]", end="")
        finally:
            pieces.close()  # type: ignore[attr-defined]
        out.print()

    def _why(self) -> None:
        if not self._conversation.decisions:
            raise FsLocalError("no decision yet: ask something first, with a pack and steering on")
        for decision in self._conversation.decisions:
            pack = next(p for p in self._model.packs if p.manifest.name == decision.pack)
            out.print(explain(decision, pack))

    def _better(self, rest: str) -> None:
        """The last answer and a better one become a pair."""
        if not rest:
            raise FsLocalError("say what it should have said: /better It should have said this.")
        *before, answer = self._asked()
        self._keep({"kind": "pair", "messages": before, "preferred": rest, "undesired": answer["content"]})

    def _mark(self, kind: Kind) -> None:
        """The last query becomes one to steer (`ir`), or not to steer (`general`)."""
        self._keep({"kind": kind, "messages": self._asked()[:-1]})

    def _asked(self) -> list[Message]:
        """The conversation, which ends with an answer."""
        messages = self._conversation.messages
        if not messages or messages[-1]["role"] != "assistant":
            raise FsLocalError("nothing was answered yet: ask something first")
        return messages

    def _keep(self, raw: dict[str, Any]) -> None:
        row = LessonRow.of(raw, "this correction")
        if self._lesson not in [summary.name for summary in self._lessons.all()]:
            self._lessons.create(self._lesson)
        self._lessons.add(self._lesson, [row])
        self._show_lesson("")

    def _show_lesson(self, name: str) -> None:
        """How far the lesson is, after choosing another one where a name is given."""
        if name:
            self._lesson = checked_name(name)
        there = self._lesson in [summary.name for summary in self._lessons.all()]
        rows = self._lessons.rows(self._lesson) if there else []
        out.print(f"{self._lesson}: {len(rows)} row{'' if len(rows) == 1 else 's'}", markup=False, highlight=False)
        for sentence in [*contradictions(rows), *missing(rows)]:
            out.print(sentence, style="yellow", markup=False, highlight=False)
        if can_fit(rows):
            lesson, model = shlex.quote(self._lesson), shlex.quote(str(self._model.model.path))
            line = f"To make a pack of it: fs-local fit {model} --lesson {lesson} -o {lesson}.fspack"
            out.print(line, markup=False, highlight=False, soft_wrap=True)  # to be copied

    def _strength(self, rest: str) -> None:
        name, _, number = rest.rpartition(" ")
        if rest:
            try:
                self._model.set_strength(float(number), name or None)
            except ValueError:
                raise FsLocalError(f"{number!r} is no number; say for example: /strength 0.8") from None
        if not self._model.packs:
            raise FsLocalError("there is no pack here; give one with --pack when the chat is started")
        for pack in self._model.packs:
            out.print(f"{escape(pack.manifest.name)}: strength {pack.manifest.steer.strength:g}")

    def _save(self, rest: str) -> None:
        if not rest:
            raise FsLocalError("say where to: /save talk.json")
        path = Path(rest)
        record = {
            "model": self._model.model.name,
            "packs": [p.manifest.name for p in self._model.packs],
            "messages": self._conversation.messages,
            "last_decisions": [decision_json(d) for d in self._conversation.decisions],
        }
        replace_file(path, json.dumps(record, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace"))
        out.print(f"saved to {escape(str(path))}")


def _line_reader() -> Callable[[], str]:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return lambda: input()
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    history: History = InMemoryHistory()
    folder = Path(platformdirs.user_state_dir("fs-local"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        history = FileHistory(str(folder / "chat_history"))
    except OSError:
        pass  # a read-only home: history for this session alone
    session: PromptSession[str] = PromptSession(
        history=history, completer=WordCompleter(list(_COMMANDS), sentence=True)
    )
    return lambda: session.prompt(">>> ")
