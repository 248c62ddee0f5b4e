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
        """Resident memory, in MB (10⁶ bytes), of what is no file's."""
        return float(psutil.Process(self._process.pid).memory_full_info().uss) / 1e6

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
