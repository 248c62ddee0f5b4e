"""Other tools do the same work: that their figures are there. What they say is for a quiet machine.

The slow test prints the table: FS_LOCAL_REPENG=/path/to/its/python pytest -m slow -n 0 -s tests/benchmark/test_peers.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fs_local.benchmark import peers as module
from fs_local.benchmark.peers import Peer, bench_peers
from fs_local.benchmark.tables import peers_table
from fs_local.errors import FsLocalError
from fs_local.terminal import out


@pytest.mark.slow
def test_all_do_the_same_work() -> None:
    python = os.environ.get("FS_LOCAL_REPENG")
    assert python, (
        "set FS_LOCAL_REPENG to the Python of an environment with: pip install repeng accelerate psutil "
        "(repeng wants numpy 1, and so can't share ours)"
    )
    peers = bench_peers("smollm2", Path(python))
    out.print(peers_table(peers))
    assert [p.name for p in peers] == ["fs-local", "llama-cpp-python", "repeng"]
    assert [p.extract_seconds is None for p in peers] == [False, True, False]
    for p in peers:
        assert p.tokens_per_second > 0
        assert p.megabytes > 50
        assert p.versions


def test_fs_local_and_llama_cpp_python_are_measured(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """repeng's place is taken by a Python without it, which says so."""
    for name, value in {"N_PAIRS": 4, "TOKENS": 4, "TURNS": 1}.items():
        monkeypatch.setattr(module, name, value)
    measured: list[str] = []
    with pytest.raises(FsLocalError, match="repeng can't do the work: ModuleNotFoundError"):
        bench_peers(str(tiny_path), Path(sys.executable), lambda _what, done, total: measured.append(f"{done}/{total}"))
    assert measured == ["0/3", "1/3", "2/3"]
    with pytest.raises(FsLocalError, match="give the Python that has repeng"):
        module._child("repeng", ["/no/such/python"], "")


def test_the_table_compares_with_fs_local() -> None:
    peers = [Peer("fs-local", 0.5, 10.0, 20.0, 300.0, "a"), Peer("other", 5.0, None, 5.0, 900.0, "b")]
    table = peers_table(peers)
    assert list(table.columns[2].cells) == ["10 s", "–"]
    assert list(table.columns[3].cells) == ["20/s", "5/s (0.25×)"]
    assert list(table.columns[4].cells) == ["300 MB", "900 MB (3×)"]
