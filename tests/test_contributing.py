"""One file and one line each: what fs_local/README.md says of adding a suite, a format, a method, a command and a store, done here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from converters import formats
from converters.conversion import convert
from converters.formats import Content, Format
from converters.pack_of_parts import PackParts
from converters.vectors import Vectors
from fs_local import Examples, FitOptions, Pair, Query, evaluate_packs, fit, read_files
from fs_local.arrays import F32
from fs_local.demo import DATA
from fs_local.evaluation import suites
from fs_local.evaluation.runner import Runner
from fs_local.fitting.methods import DIRECTIONS
from fs_local.method.rivals import MeanDifference
from fs_local.method.rows import Rows
from fs_local.model_files import list_models
from fs_local.model_stores import STORES
from fs_local.pack.file import Pack
from fs_local.runtime.model import Model
from tests.converters.files import directions, write_control_vector


def test_a_suite(tiny: Model, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    def length(runner: Runner, rows: Sequence[object], pack: Pack | None) -> suites.Result:
        return suites.Result("length", {"characters": [float(len(row.query.text)) for row in rows]})  # type: ignore[attr-defined]

    monkeypatch.setitem(suites.SUITES, "length", length)
    found = evaluate_packs(tiny, [tiny_pack], read_files("length", [DATA / "unseen_ir.jsonl"], limit=3))
    figure = found["results"][0]["figures"]["characters"]
    assert figure["low"] <= figure["mean"] <= figure["high"]


def test_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(content: Content, _pack: Callable[[Vectors | PackParts], Pack]) -> tuple[bytes, tuple[str, ...]]:
        assert isinstance(content, Vectors)
        return json.dumps({layer: v.tolist() for layer, v in content.directions.items()}).encode(), ()

    ours = Format("plain", ".plain", "a list", "not read", "everything", lambda _: False, lambda *_: pytest.fail("read"), write)  # fmt: skip
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, ours))
    vectors = directions(range(1, 4))
    done = convert(write_control_vector(tmp_path / "v.gguf", vectors), tmp_path / "v.plain")
    assert (done.source, done.target) == ("gguf", "plain")
    found = json.loads((tmp_path / "v.plain").read_text())
    np.testing.assert_array_equal(np.array(found["2"], dtype=np.float32), vectors[2])


def test_a_method(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(MeanDifference):
        def fit(self, differences: Rows | F32) -> MeanDifference:
            found = super().fit(differences)
            found.experts_ = replace(found.experts_, prototypes=2 * found.experts_.prototypes)
            return found

    pairs = [Pair(Query.of(f"{n} apples"), ("yes",), ("no",)) for n in range(12)]
    options = FitOptions(layers=(2,), strength=1.0, gate="open", background=False)
    once = fit(tiny, Examples(pairs), replace(options, method="caa")).pack
    monkeypatch.setitem(DIRECTIONS, "caa", lambda _: Doubled())
    twice = fit(tiny, Examples(pairs), replace(options, method="caa")).pack
    np.testing.assert_array_equal(twice.experts.prototypes, 2 * once.experts.prototypes)


def test_a_command() -> None:
    def hello(name: str) -> None:
        """Greet."""
        print(f"hello {name}")

    app = typer.Typer()
    app.command()(hello)  # as cli.py does with each of fs_local/commands
    assert CliRunner().invoke(app, ["you"]).output == "hello you\n"


def test_a_store(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(tiny_path, tmp_path / "small.gguf")
    monkeypatch.setitem(STORES, "mine", lambda: [("small", tmp_path / "small.gguf")])
    assert "mine:small" in [model.name for model in list_models()]
