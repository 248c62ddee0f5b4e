"""A worker in a process of its own, started by its command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]


class WorkerProcess:
    """`fs-local worker` on a free port."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "cli", "worker", "--port", "0", "--threads", "1", *options]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said.startswith("worker at 127.0.0.1:"), said
        self.address = said.removeprefix("worker at ").split(": ")[0]
        self.port = int(self.address.rpartition(":")[2])

    def kill(self) -> None:
        """As a machine that loses its power."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> int:
        """Ctrl-C; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
