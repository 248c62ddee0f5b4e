"""FineSteer for quantized GGUF models: conditional, query-specific steering on stock llama-cpp-python.

The names below are imported when they are first used, so that `import fs_local` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fs_local.version import __version__ as __version__

if TYPE_CHECKING:
    from fs_local.conversation import Conversation
    from fs_local.engine import (
        Decision,
        Engine,
        EngineClosed,
        EngineFull,
        Piece,
        Prompt,
        Request,
        Sampling,
        Steer,
        Stream,
    )
    from fs_local.errors import ContextFullError, DataError, FitError, FsLocalError, ModelError, PackError
    from fs_local.examples import Pair, Query
    from fs_local.fitting import Examples, FitOptions, fit
    from fs_local.generation import Completion, GenerationOptions
    from fs_local.pack.file import Pack
    from fs_local.runtime.model import Model
    from fs_local.runtime.placement import Placement
    from fs_local.steered_model import SteeredModel

_HOMES = {
    "PackError": "fs_local.errors",
    "ModelError": "fs_local.errors",
    "FitError": "fs_local.errors",
    "DataError": "fs_local.errors",
    "ContextFullError": "fs_local.errors",
    "Completion": "fs_local.generation",
    "Conversation": "fs_local.conversation",
    "Decision": "fs_local.engine",
    "Engine": "fs_local.engine",
    "EngineClosed": "fs_local.errors",
    "EngineFull": "fs_local.errors",
    "Examples": "fs_local.fitting",
    "FitOptions": "fs_local.fitting",
    "FsLocalError": "fs_local.errors",
    "GenerationOptions": "fs_local.generation",
    "Model": "fs_local.runtime.model",
    "Pack": "fs_local.pack.file",
    "Pair": "fs_local.examples",
    "Piece": "fs_local.engine",
    "Prompt": "fs_local.engine",
    "Query": "fs_local.examples",
    "Request": "fs_local.engine",
    "Sampling": "fs_local.engine",
    "Steer": "fs_local.engine",
    "Placement": "fs_local.runtime.placement",
    "SteeredModel": "fs_local.steered_model",
    "Stream": "fs_local.engine",
    "fit": "fs_local.fitting",
}

__all__ = [
    "Completion",
    "ContextFullError",
    "Conversation",
    "DataError",
    "Decision",
    "Engine",
    "EngineClosed",
    "EngineFull",
    "Examples",
    "FitError",
    "FitOptions",
    "FsLocalError",
    "GenerationOptions",
    "Model",
    "ModelError",
    "Pack",
    "PackError",
    "Pair",
    "Piece",
    "Placement",
    "Prompt",
    "Query",
    "Request",
    "Sampling",
    "Steer",
    "SteeredModel",
    "Stream",
    "fit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fs_local' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
