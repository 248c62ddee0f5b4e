"""The folder for PyTorch: what is in it. What it computes is tested in test_torch_run.py, which needs torch."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from converters import torch_folder
from converters.conversion import convert
from fs_local.errors import FsLocalError
from fs_local.pack.file import Pack
from fs_local.pack.graph import graph_arrays
from tests.packs import random_pack

FILES = {"arrays.safetensors", "manifest.json", "finesteer_torch.py", "finesteer_vllm.py"}


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    random_pack().save(tmp_path / "p.fspack")
    return tmp_path / "p.fspack"


def test_the_folder_has_the_packs_arrays_and_its_manifest(pack: Path, tmp_path: Path) -> None:
    done = convert(pack, tmp_path / "folder", to="torch")
    folder, whole = tmp_path / "folder", Pack.load(pack)
    assert {f.name for f in folder.iterdir()} == FILES
    assert done.n_bytes == sum(f.stat().st_size for f in folder.iterdir())
    found, wanted = load_file(folder / "arrays.safetensors"), graph_arrays(whole.gate, whole.experts)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.array_equal(found[name], array)
    manifest = json.loads((folder / "manifest.json").read_text())
    sha256 = hashlib.sha256((folder / "arrays.safetensors").read_bytes()).hexdigest()
    assert manifest == {**whole.manifest.model_dump(), "digests": {"arrays.safetensors": sha256}}


def test_the_same_pack_gives_the_same_bytes(pack: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert(pack, tmp_path / name, to="torch")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", torch_folder.MODULES)
def test_the_modules_stand_alone(name: str) -> None:
    tree = ast.parse((Path(torch_folder.__file__).parent / name).read_text())
    imported = {
        alias.name.split(".")[0] if isinstance(node, ast.Import) else (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    standard = {"__future__", "collections", "contextlib", "dataclasses", "hashlib", "json", "pathlib", "typing"}
    assert imported - standard <= {"torch", "safetensors", "finesteer_torch", "vllm_lens"}


def test_a_folder_with_other_files_is_never_replaced(pack: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    convert(pack, folder, to="torch")
    with pytest.raises(FsLocalError, match="exists"):
        convert(pack, folder, to="torch")
    convert(pack, folder, to="torch", force=True)
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(FsLocalError, match=r"thesis\.txt"):
        convert(pack, folder, to="torch", force=True)
    assert {f.name for f in folder.iterdir()} == {*FILES, "thesis.txt"}
    assert not list(tmp_path.glob(".fs-local-*"))


def test_where_nothing_can_be_written_nothing_changes(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(FsLocalError, match="can't be written"):
        convert(pack, tmp_path / "nowhere" / "folder", to="torch")
    assert not (tmp_path / "nowhere").exists()


def test_it_is_written_only_where_it_is_asked_for(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(FsLocalError, match="give --to"):
        convert(pack, tmp_path / "folder")
