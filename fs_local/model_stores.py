"""Where other programs keep the GGUF files that they downloaded: read, never written.

Each function gives names and files, a split model's first file alone; names are what the program itself calls a model, in so far as
that is known from its folders.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

Found = Iterator[tuple[str, Path]]
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_LATER_SPLIT = re.compile(r"-(?!00001-)\d{5}-of-\d{5}$")
_MODEL_LAYER = "application/vnd.ollama.image.model"
_MAX_MANIFEST_BYTES = 1 << 20
_DEEPEST = 6


def ollama_models() -> Found:
    """`llama3.2:1b`, from Ollama's manifests; each names the blob that is its model."""
    homes = [os.environ.get("OLLAMA_MODELS"), Path.home() / ".ollama" / "models", "/usr/share/ollama/.ollama/models"]
    home = next((Path(h) for h in homes if h and (Path(h) / "manifests").is_dir()), None)
    if home is None:
        return
    manifests = home / "manifests"
    for file in sorted(_files(manifests)):
        parts = file.relative_to(manifests).parts
        blob = _model_blob(file, home / "blobs")
        if len(parts) >= 3 and blob is not None:
            *where, model, tag = parts
            if where[:1] == ["registry.ollama.ai"]:
                where = where[1:]
            if where[:1] == ["library"]:
                where = where[1:]
            yield f"{'/'.join([*where, model])}:{tag}", blob


def lmstudio_models() -> Found:
    """`publisher/repository/file`, from LM Studio's folder."""
    home = Path.home() / ".lmstudio"
    pointer = Path.home() / ".lmstudio-home-pointer"
    with contextlib.suppress(OSError, ValueError):
        home = Path(pointer.read_text(encoding="utf-8").strip()) if pointer.is_file() else home
    for folder in (home / "models", Path.home() / ".cache" / "lm-studio" / "models"):
        yield from _named_by_path(folder)


def hugging_face_models() -> Found:
    """`organisation/repository/file`, from the Hugging Face cache: of each repository the snapshot that `main` is at, or the newest."""
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = os.environ.get("HF_HOME") or _cache_home() / "huggingface"
    for repository in _folders(Path(hub) if hub else Path(home) / "hub"):
        if not repository.name.startswith("models--"):
            continue
        snapshots = sorted(_folders(repository / "snapshots"), key=lambda p: p.stat().st_mtime)
        try:
            main = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            main = ""
        snapshot = next((s for s in snapshots if s.name == main), snapshots[-1] if snapshots else None)
        if snapshot is not None:
            name = repository.name.removeprefix("models--").replace("--", "/")
            for file, path in _named_by_path(snapshot):
                yield f"{name}/{file}", path


def gpt4all_models() -> Found:
    """`file`, from GPT4All's folder, or that of its Python package."""
    if sys.platform == "darwin":
        home = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA", Path.home()))
    else:
        home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    for folder in (home / "nomic.ai" / "GPT4All", Path.home() / ".cache" / "gpt4all"):
        yield from _named_by_path(folder)


def llama_cpp_models() -> Found:
    """`organisation_repository_file`, from the cache of llama.cpp's own programs."""
    if folder := os.environ.get("LLAMA_CACHE"):
        home = Path(folder)
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches" / "llama.cpp"
    elif sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA", Path.home())) / "llama.cpp"
    else:
        home = _cache_home() / "llama.cpp"
    yield from _named_by_path(home)


STORES: dict[str, Callable[[], Found]] = {
    "ollama": ollama_models,
    "lmstudio": lmstudio_models,
    "hf": hugging_face_models,
    "gpt4all": gpt4all_models,
    "llama.cpp": llama_cpp_models,
}
"""What stands before the colon of a name -> where it is looked for."""


def _model_blob(manifest: Path, blobs: Path) -> Path | None:
    try:
        with manifest.open("rb") as file:
            layers = json.loads(file.read(_MAX_MANIFEST_BYTES))["layers"]
        digest = next(layer["digest"] for layer in layers if layer["mediaType"] == _MODEL_LAYER)
        found = _DIGEST.fullmatch(digest)
    except (OSError, ValueError, LookupError, TypeError, StopIteration, RecursionError):
        return None
    blob = blobs / f"sha256-{found[1]}" if found else None
    return blob if blob is not None and blob.is_file() else None


def _named_by_path(folder: Path) -> Found:
    for path in sorted(_files(folder)):
        name = path.relative_to(folder).as_posix()
        if name.lower().endswith(".gguf") and "mmproj" not in path.name.lower() and not _LATER_SPLIT.search(path.stem):
            yield name[: -len(".gguf")], path


def _files(folder: Path, depth: int = 0) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_dir(follow_symlinks=False) and depth < _DEEPEST:
                yield from _files(Path(entry.path), depth + 1)
            elif entry.is_file():
                yield Path(entry.path)
        except OSError:
            continue


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir())
    except OSError:
        return []


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
