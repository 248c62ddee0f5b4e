"""Models that other programs downloaded: found where they keep them, usable by name, never written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fs_local.errors import ModelError
from fs_local.model_files import list_models, resolve_model, served_name
from tests.tiny_model import write_tiny_model

BLOB = "ab" * 32


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_model(path)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it."""
    for name in (
        "OLLAMA_MODELS",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "LLAMA_CACHE",
        "XDG_CACHE_HOME",
        "XDG_DATA_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def put(gguf: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(gguf, path))


def ollama(folder: Path, name: str, manifest: object) -> None:
    path = folder / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest), encoding="utf-8")


def layers(digest: object) -> dict[str, object]:
    other = {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "00" * 32}
    return {"layers": [other, {"mediaType": "application/vnd.ollama.image.model", "digest": digest}]}


def found() -> dict[str, Path]:
    return {m.name: m.path for m in list_models() if ":" in m.name}


@pytest.mark.parametrize("by_variable", [False, True])
def test_ollamas_manifests_are_resolved_to_blobs(
    home: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    folder = home / "elsewhere" if by_variable else home / ".ollama" / "models"
    if by_variable:
        monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    blob = put(gguf, folder / "blobs" / f"sha256-{BLOB}")
    ollama(folder, "registry.ollama.ai/library/llama3.2/1b", layers(f"sha256:{BLOB}"))
    ollama(folder, "registry.ollama.ai/library/llama3.2/latest", layers(f"sha256:{BLOB}"))
    ollama(folder, "registry.ollama.ai/someone/theirs/q4", layers(f"sha256:{BLOB}"))
    ollama(folder, "hf.co/org/model-GGUF/Q4_K_M", layers(f"sha256:{BLOB}"))
    assert set(found()) == {
        "ollama:llama3.2:1b",
        "ollama:llama3.2:latest",
        "ollama:someone/theirs:q4",
        "ollama:hf.co/org/model-GGUF:Q4_K_M",
    }
    for name in ("ollama:llama3.2:1b", "ollama:llama3.2"):
        assert resolve_model(name) == blob
    assert served_name("ollama:llama3.2:1b") == "llama3.2:1b"


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "null", '{"layers": 5}', '{"layers": [5]}', layers("sha256:../../../../etc/passwd"), layers("sha256:" + "cd" * 32), layers(5)],
)  # fmt: skip
def test_a_manifest_that_is_none_is_passed_over(home: Path, gguf: Path, manifest: object) -> None:
    folder = home / ".ollama" / "models"
    put(gguf, folder / "blobs" / f"sha256-{BLOB}")
    ollama(folder, "registry.ollama.ai/library/bad/latest", manifest)
    ollama(folder, "registry.ollama.ai/library/good/latest", layers(f"sha256-{BLOB}"))
    assert set(found()) == {"ollama:good:latest"}


def test_the_other_programs_folders(home: Path, gguf: Path) -> None:
    put(gguf, home / ".lmstudio" / "models" / "pub" / "Repo-GGUF" / "m.Q4.gguf")
    put(gguf, home / ".lmstudio" / "models" / "pub" / "Repo-GGUF" / "mmproj-m.gguf")
    put(gguf, home / ".local" / "share" / "nomic.ai" / "GPT4All" / "gpt.gguf")
    put(gguf, home / ".cache" / "llama.cpp" / "org_repo_file.gguf")
    assert set(found()) == {"lmstudio:pub/Repo-GGUF/m.Q4", "gpt4all:gpt", "llama.cpp:org_repo_file"}
    assert resolve_model("lmstudio:pub/Repo-GGUF").name == "m.Q4.gguf", "the only one of its repository"


@pytest.mark.parametrize("variable", [None, "HF_HOME", "HF_HUB_CACHE"])
def test_the_hugging_face_cache(home: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    hub = {None: home / ".cache" / "huggingface" / "hub", "HF_HOME": home / "x" / "hub", "HF_HUB_CACHE": home / "y"}[
        variable
    ]
    if variable:
        monkeypatch.setenv(variable, str(hub.parent if variable == "HF_HOME" else hub))
    repository = hub / "models--org--name-GGUF"
    blob = put(gguf, repository / "blobs" / "abc")
    for revision in ("new", "old"):
        link = repository / "snapshots" / revision / f"{revision}.gguf"
        link.parent.mkdir(parents=True)
        link.symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("new", encoding="utf-8")
    put(gguf, hub / "datasets--org--d" / "snapshots" / "a" / "d.gguf")
    assert set(found()) == {"hf:org/name-GGUF/new"}
    assert resolve_model("hf:org/name-GGUF").name == "new.gguf", "the link keeps the name"


def test_split_files_are_one_model_and_missing_ones_are_said(home: Path, gguf: Path) -> None:
    folder = home / ".cache" / "llama.cpp"
    for i in (1, 2):
        put(gguf, folder / f"big-0000{i}-of-00002.gguf")
    put(gguf, folder / "half-00001-of-00003.gguf")
    big, half = (m for m in list_models() if ":" in m.name)
    assert (big.name, big.size, big.problem) == ("llama.cpp:big-00001-of-00002", 2 * gguf.stat().st_size, "")
    assert half.problem == "2 of its 3 files are missing; download it again"


def test_what_is_shown_of_a_model(home: Path, gguf: Path) -> None:
    path = put(gguf, home / ".cache" / "llama.cpp" / "a.gguf")
    (path.parent / "b.gguf").write_bytes(path.read_bytes()[:200])
    good, damaged = (m for m in list_models() if ":" in m.name)
    assert (good.architecture, good.size, good.problem) == ("llama", path.stat().st_size, "")
    assert "truncated" in damaged.problem
    assert str(home) not in damaged.problem


@pytest.mark.parametrize("name", ["ollama:none", "hf:", "lmstudio:../../etc", "gpt4all:/etc/passwd", "llama.cpp:\x00"])
def test_a_name_that_nothing_has_is_one_sentence(home: Path, name: str) -> None:
    with pytest.raises(ModelError, match="no model"):
        resolve_model(name)


def test_several_models_of_a_repository_are_named(home: Path, gguf: Path) -> None:
    for quantization in ("Q4", "Q8"):
        put(gguf, home / ".lmstudio" / "models" / "p" / "r" / f"m.{quantization}.gguf")
    with pytest.raises(ModelError, match=r"p/r/m.Q4, p/r/m.Q8"):
        resolve_model("lmstudio:p/r")


def test_nothing_is_written(home: Path, gguf: Path) -> None:
    put(gguf, home / ".cache" / "llama.cpp" / "a.gguf")
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*")}
    list_models()
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*")} == before


def test_names_that_clients_see() -> None:
    assert served_name("smollm2") == "smollm2"
    assert served_name("/some/where/Model.Q4.gguf") == "Model.Q4"
    assert served_name("hf:org/name/file") == "org/name/file"
