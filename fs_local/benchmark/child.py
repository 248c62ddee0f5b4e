"""What is measured in a process of its own, so that its peak of memory is its own: a job goes in as JSON, what it took comes out."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from fs_local.arrays import F32
from fs_local.capture import capture, query_request
from fs_local.errors import FsLocalError
from fs_local.examples import Query
from fs_local.method.experts import MixtureOfSteeringExperts
from fs_local.method.gates import QuantileGate
from fs_local.method.logistic import LogisticGate
from fs_local.method.rows import Index, Rows, release
from fs_local.runtime.model import Model

_CHILD = "import sys; from fs_local.benchmark.child import main; main(sys.argv[1])"
_KINDS, _DIRECTIONS, _WRITTEN = 6, 40, 256


@dataclass(frozen=True)
class Cost:
    """Seconds of the job alone, and the process's peak of resident memory, in MB (10⁶ bytes)."""

    seconds: float
    megabytes: float


@dataclass(frozen=True)
class FitJob:
    """Fits gates and experts from synthetic states that are mapped from a file, of which half are of IR queries, one pair each.

    Attributes:
        layers: that a logistic and a quantile gate take side by side.
    """

    queries: int
    width: int
    layers: int = 3

    def run(self) -> Cost:
        return _run("fit", self)

    def measure(self) -> float:
        n_ir = self.queries // 2
        with tempfile.TemporaryDirectory(prefix="fs-local-") as folder:
            path = Path(folder) / "states"
            _write_states(path, self.queries, max(3, self.layers), self.width)
            states = np.asarray(np.memmap(path, np.float32, "r").reshape(self.queries, -1, self.width))
            began = time.perf_counter()
            at_gate = Rows.of(*(states[:, layer] for layer in range(self.layers)))
            LogisticGate().fit(at_gate[:n_ir], at_gate[n_ir:])
            QuantileGate().fit(at_gate[:n_ir])
            MixtureOfSteeringExperts((4, 10)).fit(states[:n_ir, 0], _differences(states[:n_ir]))
            seconds = time.perf_counter() - began
            del states, at_gate  # a mapped file can't be deleted everywhere
        return seconds


@dataclass(frozen=True)
class CaptureJob:
    """Captures the states of short queries at three layers, into a file."""

    model: str
    queries: int

    def run(self) -> Cost:
        return _run("capture", self)

    def measure(self) -> float:
        with Model.load(Path(self.model)) as model, tempfile.TemporaryDirectory(prefix="fs-local-") as folder:
            requests = [query_request(model, Query.of(f"What is {i} plus {3 * i}?")) for i in range(self.queries)]
            layers = sorted({max(1, model.n_layer * i // 6) for i in (1, 2, 3)})
            began = time.perf_counter()
            capture(model, requests, layers, store=Path(folder))
            return time.perf_counter() - began


def run_python(arguments: list[str]) -> str:
    """Standard output of a Python of our own.

    Raises:
        FsLocalError: it failed.
    """
    child = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if child.returncode != 0:
        raise FsLocalError(f"a child process of the benchmark failed: {child.stderr.strip()[-300:]}")
    return child.stdout


def _run(kind: str, job: FitJob | CaptureJob) -> Cost:
    return Cost(**json.loads(run_python(["-c", _CHILD, json.dumps({kind: asdict(job)})])))


def _differences(states: F32) -> Rows:
    """From the second layer to the third: computed as they are read, as a fit does from its answers."""

    def read(numbers: Index) -> F32:
        found: F32 = states[numbers, 2] - states[numbers, 1]
        release(states)
        return found

    return Rows(read, np.arange(len(states)), states.shape[2])


def _write_states(path: Path, n: int, layers: int, width: int) -> None:
    """Seeded: some kinds of queries in a few directions, with noise around; the first half lie apart from the second."""
    rng = np.random.default_rng(0)
    kinds, directions = (rng.standard_normal((k, layers * width), dtype=np.float32) for k in (_KINDS, _DIRECTIONS))
    with path.open("wb") as file:
        for first in range(0, n, _WRITTEN):
            rows = np.arange(first, min(first + _WRITTEN, n))
            along = 0.2 * rng.standard_normal((len(rows), _DIRECTIONS), dtype=np.float32)
            along[:, 0] += rows < n // 2
            noise = 0.3 * rng.standard_normal((len(rows), layers * width), dtype=np.float32)
            file.write((kinds[rows * 7919 % _KINDS] / 2 + along @ directions + noise).tobytes())


def _peak_megabytes() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` begins with the parent's on Linux
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main(text: str) -> None:
    """The child's side: runs a job, and prints what it took."""
    ((kind, job),) = json.loads(text).items()
    seconds = (FitJob(**job) if kind == "fit" else CaptureJob(**job)).measure()
    print(json.dumps(asdict(Cost(seconds, _peak_megabytes()))))
