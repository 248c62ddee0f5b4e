"""Mutated files: every reader gives vectors or one sentence, quickly, in memory of the file's order."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converters.conversion import convert
from converters.formats import FORMATS, Content, recognize
from converters.pack_of_parts import PackParts
from converters.vectors import Vectors
from fs_local.errors import FsLocalError
from tests.converters.files import directions, mose_state, write_control_vector, write_model, write_npz, write_tensors
from tests.converters.test_alphasteer import matrices

WRITTEN = [f.name for f in FORMATS if f.write and f.name not in ("onnx", "torch")]
TENSORS = {
    "finesteer": mose_state(value=True),
    "alphasteer": {"matrices": matrices({2: 1}, n_layers=4, width=24)},
    "steering-vectors": {f"layer_activations.{n}": v for n, v in directions(range(1, 9), width=256).items()},
}
NAMES = [*WRITTEN, *(f"{name}.{container}" for name in TENSORS for container in ("safetensors", "npz"))]
LAYERS = {"finesteer": frozenset([7]), "alphasteer": frozenset([2])}
_SLACK = 400_000  # what a reader allocates for any file: compiled patterns, messages, imports
EXTREMES = [0, 1, 8, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A good file of each format."""
    folder = tmp_path_factory.mktemp("originals")
    vector = write_control_vector(folder / "v.gguf", directions(range(1, 9), width=256))
    model = write_model(folder / "model.gguf", width=256)
    for name, tensors in TENSORS.items():
        write_tensors(folder / f"v.{name}.safetensors", tensors)
        write_npz(folder / f"v.{name}.npz", tensors)
    for name in WRITTEN:
        if name != "gguf":
            convert(vector, folder / f"v.{name}", to=name, model=str(model))
    return {name: (folder / f"v.{name}").read_bytes() for name in NAMES}


@st.composite
def mutations(draw: st.DrawFn) -> list[tuple[str, float, int]]:
    """What to do to a file, where (a share of it, mostly near an end, where headers are), and with which number."""
    where = st.one_of(st.floats(0, 0.02), st.floats(0, 1), st.floats(0.97, 1))
    kinds = st.sampled_from(["byte", "u32", "u64", "cut", "drop", "repeat", "digit"])
    return draw(st.lists(st.tuples(kinds, where, st.integers(0, 2**32 - 1)), min_size=1, max_size=4))


def mutate(data: bytes, steps: list[tuple[str, float, int]]) -> bytes:
    broken = bytearray(data)
    for kind, where, number in steps:
        at = min(int(where * len(broken)), max(len(broken) - 1, 0))
        if kind == "byte":
            broken[at : at + 1] = bytes([number & 0xFF])
        elif kind in ("u32", "u64"):
            size = 4 if kind == "u32" else 8
            extreme = EXTREMES[number % len(EXTREMES)] & ((1 << 8 * size) - 1)
            broken[at : at + size] = extreme.to_bytes(size, "little")
        elif kind == "cut":
            del broken[at:]
        elif kind == "drop":
            del broken[at : at + 1 + number % 64]
        elif kind == "repeat":
            broken[at:at] = broken[at : at + 1 + number % 64]
        else:
            broken[at : at + 1] = b'9e,[{]}"-N'[number % 10 :][:1]
    return bytes(broken)


def check(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    found: Content | str
    tracemalloc.start()
    began = time.process_time()
    try:
        known, source = recognize(path)
        found = known.read(source, LAYERS.get(known.name))
    except FsLocalError as error:
        found = str(error)
    seconds = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 10 * len(data) + _SLACK
    if isinstance(found, str):
        assert "\n" not in found
        assert len(found) < 1000
    elif isinstance(found, Vectors):
        assert all(np.isfinite(v).all() and v.dtype == np.float32 for v in found.directions.values())
    elif isinstance(found, PackParts):
        arrays = [getattr(found.experts, field.name) for field in fields(found.experts)]
        assert all(np.isfinite(v).all() and v.dtype == np.float32 for v in arrays)


def fuzz(name: str, originals: dict[str, bytes], path: Path, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(mutations())
    def run(steps: list[tuple[str, float, int]]) -> None:
        check(path, mutate(originals[name], steps))

    check(path, originals[name])  # imports, once
    known, source = recognize(path)
    assert name.startswith(known.name)
    known.read(source, LAYERS.get(known.name))
    run()


@pytest.mark.parametrize("name", NAMES)
def test_mutated_files(name: str, originals: dict[str, bytes], tmp_path: Path) -> None:
    fuzz(name, originals, tmp_path / "mutated", 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_thousands_of_mutated_files(name: str, originals: dict[str, bytes], tmp_path: Path) -> None:
    fuzz(name, originals, tmp_path / "mutated", 2000)


@pytest.mark.parametrize("filling", [b"[],", b"{},", b'"ab",', b"1e1,", b"300,", b"0,", b"-1,"])
def test_json_of_many_small_things_stays_small(filling: bytes, tmp_path: Path) -> None:
    """The bytes that cost Python most memory each."""
    check(tmp_path / "v.svec", b'{"directions": {"1": [' + filling * 200_000 + b"1]}}")
