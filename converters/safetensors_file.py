"""safetensors: tensors `direction.{n}`, F32 (d,), of the block n after which each is added; model and method in the metadata."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.vectors import Vectors, checked_vectors, directions_of
from fs_local.arrays import F32
from fs_local.tensor_file import open_safetensors


def read(path: Path) -> Vectors:
    """Reads directions.

    Raises:
        DataError: damaged, of another type than F32, or with tensors that are no directions of one model.
    """
    file = open_safetensors(path)
    hint, method = (file.texts.get(key, "") for key in ("model_hint", "method"))
    return checked_vectors(path, directions_of(file), model_hint=hint, method=method)


def write(vectors: Vectors) -> tuple[bytes, tuple[str, ...]]:
    """The file's bytes, and what it can't hold."""
    tensors = {f"direction.{layer}": direction for layer, direction in vectors.directions.items()}
    return safetensors_bytes(tensors, {"model_hint": vectors.model_hint, "method": vectors.method}), ()


def safetensors_bytes(tensors: Mapping[str, F32], texts: Mapping[str, str]) -> bytes:
    """A file of float32 tensors and texts. Written here: the package orders metadata anew each time."""
    header: dict[str, Any] = {"__metadata__": dict(texts)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join(
        [struct.pack("<Q", len(text)), text, *(tensor.astype("<f4").tobytes() for tensor in tensors.values())]
    )
