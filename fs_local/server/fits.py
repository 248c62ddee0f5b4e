"""One fit at a time, in a process of its own at low priority: a fit that fails, or is ended, leaves the server and its packs as they were."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from fs_local.errors import FsLocalError
from fs_local.files import replace_file
from fs_local.lessons import LessonRow, write_examples
from fs_local.server.backend import Backend, ServedPack
from fs_local.user_data import data_folder

How = Literal["quick", "usual", "thorough"]
COMMAND = (sys.executable, "-m", "cli", "fit")
if sys.platform == "win32":
    _NICE = psutil.BELOW_NORMAL_PRIORITY_CLASS
else:
    _NICE = 10
_PATIENCE = 5.0
"""Seconds for a child to end when it is told to."""


@dataclass
class Fit:
    """A fit under way, or the last one.

    Attributes:
        state: `running`, `done`, `failed` or `cancelled`.
        how: `quick`, from the lesson's rows alone; `usual`, beside the background; `thorough`, with a search for blocks and residual.
        stages: of each stage that was begun, how many of its steps are done, and of how many.
        problem: why it failed, a sentence. notes: what the fit says of the examples.
    """

    lesson: str
    rows: int
    how: How
    state: str = "running"
    started: float = field(default_factory=time.time)
    ended: float | None = None
    stages: dict[str, tuple[int, int]] = field(default_factory=dict)
    problem: str = ""
    notes: list[str] = field(default_factory=list)


class Fits:
    """Fits packs for a backend's model, and puts each into service when it is there.

    Attributes:
        now: the fit under way, or the last one; None before the first.
        folder: where packs are kept, each with the one that it took the place of.
    """

    def __init__(self, backend: Backend, folder: Path | None = None, command: Sequence[str] = COMMAND) -> None:
        self.now: Fit | None = None
        self.folder = data_folder() / "packs" if folder is None else folder
        self._backend, self._command = backend, command
        self._child: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        return self.now is not None and self.now.state == "running"

    def start(self, lesson: str, rows: Sequence[LessonRow], how: How) -> Fit:
        """Begins a fit of a lesson, whose name becomes the pack's.

        Raises:
            FsLocalError: another one is under way, or the name is none for a pack here.
        """
        if self.is_running:
            raise FsLocalError("a fit is under way already; wait for it, or cancel it")
        self._backend.check_name(lesson)
        self.now = Fit(lesson, len(rows), how)
        self._task = asyncio.create_task(self._run(self.now, rows))
        return self.now

    async def cancel(self) -> None:
        """Ends the fit under way; its captures are kept, so that the next one goes on from them."""
        if self._task is None or not self.is_running or self.now is None:
            return
        self.now.state = "cancelled"
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def place(self, name: str, kind: str = "") -> Path:
        """The file of a pack (`kind` empty), of its `former` one, or of its `report`."""
        slug = (
            re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:40].strip("-") + "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
        )
        return self.folder / (f"{slug}.html" if kind == "report" else f"{slug}{kind and '.' + kind}.fspack")

    async def restore(self, name: str) -> None:
        """Exchanges a pack and its former one. Raises FsLocalError: there is none."""
        former, place = self.place(name, "former"), self.place(name)
        found = ServedPack.load(former)
        if name in self._backend.packs:
            replace_file(former, self._backend.packs[name].pack.to_bytes())
        else:
            former.unlink()
        replace_file(place, found.pack.to_bytes())
        await self._backend.put_pack(ServedPack.load(place))

    async def _run(self, fit: Fit, rows: Sequence[LessonRow]) -> None:
        work = Path(tempfile.mkdtemp(prefix="fs-local-fit-"))
        try:
            await self._fit(fit, rows, work)
            if fit.state == "running":
                fit.state = "done"
        except (FsLocalError, OSError) as error:
            fit.state, fit.problem = "failed", str(error)
        except BaseException:
            if fit.state == "running":  # the server ends, or something of ours is wrong
                fit.state, fit.problem = "failed", "the fit was ended"
            raise
        finally:
            fit.ended = time.time()
            await self._end_child()
            shutil.rmtree(work, ignore_errors=True)

    async def _fit(self, fit: Fit, rows: Sequence[LessonRow], work: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        output, report = work / "pack.fspack", work / "report.html"
        arguments = [
            str(self._backend.path),
            "--name",
            fit.lesson,
            "-o",
            str(output),
            "--report",
            str(report),
            "--json",
        ]
        for option, path in write_examples(rows, work).items():
            arguments += [f"--{option}", str(path)]
        engine = self._backend.loaded_engine
        if fit.how == "quick":
            arguments += ["--no-background"]
        if fit.how != "thorough" and engine is not None:
            arguments += ["--layer", str(max(1, engine.model.n_layer // 3)), "--residual", "0"]
        self._child = child = await asyncio.create_subprocess_exec(
            *self._command,
            *arguments,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "COLUMNS": "9999"},
            limit=1 << 20,
        )
        with contextlib.suppress(psutil.Error):
            psutil.Process(child.pid).nice(_NICE)
        said = ""
        assert child.stderr is not None
        async for line in child.stderr:
            said = _heard(line.decode("utf-8", "replace").strip(), fit) or said
        if await child.wait() != 0:
            raise FsLocalError(
                f"the fit failed, and the packs are as before: {said.removeprefix('fs-local: ') or 'it was ended'}"
            )
        await self._install(fit.lesson, output, report)

    async def _install(self, name: str, output: Path, report: Path) -> None:
        served = ServedPack.load(output)
        place = self.place(name)
        if name in self._backend.packs:
            replace_file(self.place(name, "former"), self._backend.packs[name].pack.to_bytes())
        replace_file(place, served.pack.to_bytes())
        if report.exists():
            replace_file(self.place(name, "report"), report.read_bytes())
        await self._backend.put_pack(ServedPack.load(place))

    async def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None or child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
            try:
                await asyncio.wait_for(child.wait(), _PATIENCE)
            except TimeoutError:
                child.kill()
                await child.wait()


def _heard(line: str, fit: Fit) -> str:
    """Takes in a line of the child's: progress, a note, or what went wrong, which is returned."""
    if line.startswith("{"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            fit.stages[str(told["stage"])] = (int(told["done"]), int(told["total"]))
        return ""
    if line.startswith("note: "):
        fit.notes.append(line[6:])
        return ""
    return line
