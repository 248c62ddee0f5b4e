"""`fs-local convert` as a person meets it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from converters.formats import FORMATS
from fs_local.pack.file import Pack
from tests.converters.files import directions, write_control_vector, write_model, write_svec

Run = Callable[..., "tuple[int, str, str]"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; gives (exit code, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fs-local", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


@pytest.fixture
def vector(tmp_path: Path) -> Path:
    return write_control_vector(tmp_path / "vector.gguf", directions([0, 3]))


def test_it_says_what_was_written_and_what_was_lost(run: Run, vector: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf")
    code, out, err = run(vector, tmp_path / "v.fspack", "--model", model)
    assert code == 0
    assert "fspack" in out
    assert "from gguf" in out
    assert "lost: 2 metadata keys" in err


def test_inspect_takes_vectors_too(vector: Path) -> None:
    done = CliRunner().invoke(cli.app, ["inspect", str(vector)])
    assert done.exit_code == 0
    for said in ("control vector of llama.cpp", "after blocks 0, 3", "method diffmean", "2 metadata keys"):
        assert said in " ".join(done.output.split())
    done = CliRunner().invoke(cli.app, ["inspect", str(vector), "--json"])
    about = json.loads(done.output)
    assert (about["format"], about["width"], about["layers"], about["gate"]) == ("gguf", 64, [0, 3], "open")


def test_a_condition_makes_a_cast_pack(run: Run, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf")
    behaviour = write_svec(tmp_path / "refusal.svec", directions(range(1, 9)))
    condition = write_svec(tmp_path / "harmful.svec", directions(range(1, 9), seed=1))
    options = ("--condition", condition, "--condition-layer", 2, "--threshold", 0.04, "--comparator")
    code, _, err = run(behaviour, tmp_path / "p.fspack", "--layers", "3-4", "--model", model, *options, "larger")
    assert code == 0
    assert "lost: directions for layers 1-2, 5-8 of the file" in " ".join(err.split())
    m = Pack.load(tmp_path / "p.fspack").manifest
    assert (m.method, m.gate.kind, m.gate.edge, m.gate.layers) == ("cast", "cosine_below", -0.04, [1])
    assert run(behaviour, tmp_path / "q.fspack", "--model", model, *options, "above")[0] == 2


def test_json_is_for_programs(run: Run, vector: Path, tmp_path: Path) -> None:
    code, out, err = run(vector, tmp_path / "v", "--to", "npz", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["from"], found["to"], found["bytes"]) == ("gguf", "npz", (tmp_path / "v").stat().st_size)
    assert len(found["lost"]) == 2


def test_the_list_has_every_format(run: Run) -> None:
    assert [row["name"] for row in json.loads(run("--list", "--json")[1])["formats"]] == [f.name for f in FORMATS]
    code, out, _ = run("--list")
    assert code == 0
    assert all(f.name in out for f in FORMATS)


def test_the_readme_has_the_same_table() -> None:
    readme = (Path(cli.__file__).parent / "converters" / "README.md").read_text(encoding="utf-8")
    for f in FORMATS:
        assert f"| {f.name} | {f.title} | {f.coming_in} | {f.going_out} |" in readme


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing", "v.npz"], 1, "can't be read"),
        (["vector.gguf", "v.fspack"], 1, "give its file with --model"),
        (["vector.gguf", "v.npz", "--model", "vector.gguf"], 1, "not a language model's file"),
        (["vector.gguf", "no/such/v.npz"], 1, "nothing was changed"),
        (["vector.gguf", "vector.gguf", "--to", "npz"], 1, "--force"),
        (["vector.gguf"], 2, "give SRC and DST"),
        (["vector.gguf", "v.npz", "--layers", "3-1"], 1, "--layers takes numbers and ranges"),
        (["vector.gguf", "v.npz", "--layers", "4"], 1, "its layers are 0, 3"),
        (["vector.gguf", "v.npz", "--threshold", "0.1"], 2, "together"),
        (["vector.gguf", "v.onnx", "--dtype", "int8"], 2, "'int8'"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], code: int, message: str, run: Run, vector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(vector.parent)
    found, _, err = run(*arguments)
    assert found == code
    assert message in err
    assert "Traceback" not in err
    assert [p.name for p in vector.parent.iterdir()] == ["vector.gguf"]
