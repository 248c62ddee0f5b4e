"""`fs-local serve` as a process of its own, for as long as it is measured."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from fs_local.benchmark.http_client import HttpClient
from fs_local.errors import FsLocalError

_START_SECONDS = 120.0


class ServerProcess:
    """The command, as users start it. Raises FsLocalError: it does not start."""

    def __init__(self, model: Path, packs: Sequence[Path], *, n_ctx: int, n_seq: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = [x for pack in packs for x in ("--pack", str(pack))]
        command = [sys.executable, "-c", "import cli; cli.main()", "serve", str(model), *options]
        command += ["--port", str(port), "--ctx", str(n_ctx), "--parallel", str(n_seq)]
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    @property
    def megabytes(self) -> float:
        """Its memory, as `written_megabytes` counts it."""
        return written_megabytes(psutil.Process(self._process.pid))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait(self) -> None:
        ends = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < ends:
            try:
                client = HttpClient(self.url, "any")
                client.get("/health")
            except FsLocalError:
                time.sleep(0.05)
            else:
                return
            finally:
                client.close()
        raise FsLocalError("fs-local serve did not start; start it by hand to see why")


def written_megabytes(process: psutil.Process) -> float:
    """Resident memory that a process has written to, in MB (10⁶ bytes); a library's own pages seem to come and go with other processes
    that read the same file. On systems that don't tell it: what no other process shares. Takes next to no memory itself."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")
    if not rollup.exists():
        return float(process.memory_full_info().uss) / 1e6
    (dirty,) = (line for line in rollup.read_text().splitlines() if line.startswith("Private_Dirty:"))
    return int(dirty.split()[1]) * 1024 / 1e6
