"""What fs-local takes of a machine: resident memory, sizes of packs, and the time to start."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fs_local.benchmark.child import run_python
from fs_local.benchmark.figures import Measurement, quartiles
from fs_local.benchmark.packs import N_EXPERTS, WIDE, held, steered_layer, wide
from fs_local.benchmark.turns import Budget, alternate
from fs_local.pack.file import Pack


def memory(path: Path, base: Pack) -> Iterator[Measurement]:
    with tempfile.TemporaryDirectory(prefix="fs-local-") as folder:
        file = Path(folder) / "bench.fspack"
        held(base, True, steered_layer(base)).save(file)
        plain, steered = (_resident_megabytes(path, packs) for packs in ([], [file]))
        size = file.stat().st_size / 1e6
    yield Measurement(
        "resident memory, steered",
        "the same without a pack",
        "MB",
        steered,
        f"≤ 10 MB + the pack's {size:.1f} MB more",
        steered - plain <= 10 + size,
        plain,
        steered / plain,
    )


def _resident_megabytes(model: Path, packs: list[Path]) -> float:
    """Of a new process that has answered a query."""
    code = (
        "import sys, psutil; from pathlib import Path; from fs_local import GenerationOptions, SteeredModel\n"
        "with SteeredModel.load(Path(sys.argv[1]), sys.argv[2:]) as m:\n"
        "    m.generate('Name a river.', GenerationOptions(max_tokens=8)); print(psutil.Process().memory_info().rss)"
    )
    return float(run_python(["-c", code, str(model), *map(str, packs)])) / 1e6


def sizes(base: Pack) -> Iterator[Measurement]:
    for what, pack, limit in (
        (f"pack, d = {base.manifest.model.width}", base, 400e3 if base.manifest.model.width <= 576 else 2e6),
        (f"pack, d = {WIDE}, K = {N_EXPERTS}", wide(base), 2e6),
    ):
        with tempfile.TemporaryDirectory(prefix="fs-local-") as folder:
            file = Path(folder) / "bench.fspack"
            pack.save(file)
            size = file.stat().st_size
        yield Measurement(what, "", "KB", size / 1e3, f"≤ {limit / 1e3:.0f}", size <= limit)


def start() -> Iterator[Measurement]:
    timed = "import time; began = time.perf_counter(); import fs_local; print(time.perf_counter() - began)"
    imports = [float(run_python(["-c", timed])) for _ in range(5)]
    (helps,) = alternate([lambda: run_python(["-c", "import cli; cli.main()", "--help"])], Budget(3.0), 5)
    for what, seconds, limit in (("import fs_local", imports, 0.15), ("start of fs-local --help", helps, 0.5)):
        median = statistics.median(seconds)
        yield Measurement(
            what, "", "s", median, f"≤ {limit:g}", median <= limit, spread=quartiles(seconds), pairs=len(seconds)
        )
