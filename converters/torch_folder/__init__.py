"""A pack for PyTorch: a folder of its arrays (safetensors), its manifest (JSON), a module of plain torch that runs them, and one for vLLM.

The modules go along as they stand here: they import torch, and nothing of fs-local.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from converters.safetensors_file import safetensors_bytes
from fs_local.pack.file import Pack
from fs_local.pack.graph import graph_arrays

MODULES = ("finesteer_torch.py", "finesteer_vllm.py")
_ARRAYS, _MANIFEST = "arrays.safetensors", "manifest.json"


def write(pack: Pack) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The folder's files, the same bytes for the same pack, and what they can't hold."""
    arrays = safetensors_bytes(graph_arrays(pack.gate, pack.experts), {"name": pack.manifest.name})
    about = {**pack.manifest.model_dump(), "digests": {_ARRAYS: hashlib.sha256(arrays).hexdigest()}}
    manifest = json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False).encode()
    modules = {name: (Path(__file__).parent / name).read_bytes() for name in MODULES}
    return {_ARRAYS: arrays, _MANIFEST: manifest, **modules}, (
        "bit-exactness: PyTorch computes other last digits than llama.cpp, on the weights that it has; a decision near the edge may differ",
    )
