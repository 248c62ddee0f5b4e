"""FineSteer for quantized GGUF models: conditional, query-specific steering on stock llama-cpp-python.

The names below are imported when they are first used, so that `import fs_local` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fs_local.conversation import Conversation
    from fs_local.errors import ContextFullError, DataError, FitError, FsLocalError, ModelError, PackError
    from fs_local.examples import Pair, Query
    from fs_local.fitting import Examples, FitOptions, fit
    from fs_local.generation import GenerationOptions, Piece
    from fs_local.pack.file import Pack
    from fs_local.runtime.model import Model
    from fs_local.runtime.sampling import SamplingOptions
    from fs_local.steered_model import Completion, ManyCompletion, SteeredModel
    from fs_local.steering import Decision

_HOMES = {
    "PackError": "fs_local.errors",
    "ModelError": "fs_local.errors",
    "FitError": "fs_local.errors",
    "DataError": "fs_local.errors",
    "ContextFullError": "fs_local.errors",
    "Completion": "fs_local.steered_model",
    "Conversation": "fs_local.conversation",
    "Decision": "fs_local.steering",
    "Examples": "fs_local.fitting",
    "FitOptions": "fs_local.fitting",
    "FsLocalError": "fs_local.errors",
    "GenerationOptions": "fs_local.generation",
    "ManyCompletion": "fs_local.steered_model",
    "Model": "fs_local.runtime.model",
    "Pack": "fs_local.pack.file",
    "Pair": "fs_local.examples",
    "Piece": "fs_local.generation",
    "Query": "fs_local.examples",
    "SamplingOptions": "fs_local.runtime.sampling",
    "SteeredModel": "fs_local.steered_model",
    "fit": "fs_local.fitting",
}

__all__ = [
    "Completion",
    "ContextFullError",
    "Conversation",
    "DataError",
    "Decision",
    "Examples",
    "FitError",
    "FitOptions",
    "FsLocalError",
    "GenerationOptions",
    "ManyCompletion",
    "Model",
    "ModelError",
    "Pack",
    "PackError",
    "Pair",
    "Piece",
    "Query",
    "SamplingOptions",
    "SteeredModel",
    "fit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fs_local' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
