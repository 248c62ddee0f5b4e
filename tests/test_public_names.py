"""Every public name is documented with an example, and every example is run."""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from pathlib import Path

import pytest

import fs_local
from fs_local.demo import DATA


def examples() -> str:
    """The indented lines of the package's documentation."""
    return textwrap.dedent("\n".join(re.findall(r"^(?:    .*)?$", fs_local.__doc__ or "", re.M)))


def test_examples_run(
    tiny_path: Path,
    tiny_pack_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").symlink_to(tiny_path)
    shutil.copy(DATA / "unseen_ir.jsonl", tmp_path / "harmful.jsonl")
    pack = fs_local.Pack.load(tiny_pack_path)
    fs_local.Pack.of(pack.manifest.model_copy(update={"name": "refusal"}), pack.gate, pack.experts).save(
        tmp_path / "refusal.fspack"
    )
    exec(compile(examples(), "fs_local", "exec"), {})
    assert "no steering pack" in capsys.readouterr().out


def test_every_public_name_is_in_an_example() -> None:
    shown = {node.id for node in ast.walk(ast.parse(examples())) if isinstance(node, ast.Name)}
    assert set(fs_local.__all__) <= shown
    assert all(getattr(fs_local, name).__doc__ for name in fs_local.__all__)
    assert sorted(fs_local._HOMES) == sorted(fs_local.__all__)


def test_types_come_along() -> None:
    assert (Path(fs_local.__file__).parent / "py.typed").exists()
