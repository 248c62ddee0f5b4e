"""GGUF control vectors: `general.architecture = controlvector`, one float32 tensor `direction.{n}` a block.

Which block n means, settled from each tool's code. All three *add* `direction.{n}` to the residual stream after block n, counted
from 0 (`l_out-{n}`), so the number is kept as it is:

- llama.cpp: `common_control_vector_load_one` (common/common.cpp) puts `direction.{n}` at offset (n−1)·d, and
  `llama_adapter_cvec::apply` (src/llama-adapter.cpp) takes block il's vector from (il−1)·d. "there's never a tensor for layer 0":
  the loader rejects a file that has `direction.0`.
- repeng: `ControlModule.forward` (repeng/control.py) adds `directions[n]` to the output of `model.layers[n]`; `export_gguf`
  (repeng/extract.py) writes the same n. Its training leaves block 0 out, so its files start at 1.
- EasySteer: `process_output_hook` (vllm/steer_vectors/layers.py) is a forward hook of decoder layer n, and `export_gguf`
  (easysteer/steer/utils.py) writes "compatible with repeng", from `direction.0` on. Here block 0 is steered by the callback.

Where a vector was *measured* is another matter: llama.cpp's own generator (tools/cvector-generator/mean.hpp, pca.hpp) names the
difference it measured after block il `direction.{il+1}`, one block later, for its loader's sake. Files don't say which tool made
them; we do what all three do with a file, and add it after block n.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np

from converters.layers import MAX_LAYERS
from converters.vectors import MAX_FILE_BYTES, Vectors, checked_vectors, layer_of, shortened
from fs_local.arrays import F32
from fs_local.errors import DataError, ModelError
from fs_local.runtime.gguf_header import GgufHeader, read_header

ARCHITECTURE = "controlvector"
_F32 = 0
_MAX_KEYS = 4096


def matches(head: bytes) -> bool:
    """Whether a file that starts like this is a GGUF."""
    return head[:4] == b"GGUF"


def read(path: Path) -> Vectors:
    """Reads a control vector.

    Raises:
        DataError: another kind of GGUF, damaged, or with tensors that are no directions of one model.
    """
    header = _header(path)
    directions: dict[int, F32] = {}
    with path.open("rb") as file:
        for tensor in header.tensors:
            layer = layer_of(path, tensor.name)
            if tensor.type != _F32 or len(tensor.shape) != 1:
                raise DataError(
                    f"{path} has a tensor {tensor.name!r} that is no float32 vector; llama.cpp takes no other"
                )
            if layer in directions:
                raise DataError(f"{path} has the tensor {tensor.name!r} twice")
            file.seek(tensor.offset)
            directions[layer] = np.frombuffer(file.read(4 * tensor.shape[0]), dtype="<f4").astype(np.float32)
    hint, method = (str(header.metadata.get(f"{ARCHITECTURE}.{key}", "")) for key in ("model_hint", "method"))
    kept = {"general.architecture", *(f"{ARCHITECTURE}.{key}" for key in ("model_hint", "method", "layer_count"))}
    more = len(header.metadata.keys() - kept)
    lost = (f"{more} metadata keys of the file, such as how it was extracted",) if more else ()
    return checked_vectors(path, directions, model_hint=hint, method=method, lost=lost)


def _header(path: Path) -> GgufHeader:
    """The header of a control vector, its counts and sizes checked first: a reader's memory follows them."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    if size > MAX_FILE_BYTES or len(head) < 24:
        raise DataError(f"{path} is no control vector: it has {size:,} bytes, and the limit is {MAX_FILE_BYTES:,}")
    n_tensors, n_keys = struct.unpack_from("<QQ", head, 8)
    if n_tensors > MAX_LAYERS or n_keys > _MAX_KEYS:
        raise DataError(f"{path} is no control vector: its header counts {n_tensors:,} tensors and {n_keys:,} keys")
    try:
        header = read_header(path)
    except ModelError as error:
        raise DataError(shortened(error)) from error
    if header.architecture != ARCHITECTURE:
        raise DataError(
            f"{path} is a GGUF of architecture {header.architecture[:40]!r}, no control vector; of a model, see: fs-local doctor MODEL"
        )
    if any(not tensor.shape or min(tensor.shape) < 1 for tensor in header.tensors):
        raise DataError(f"{path} has a tensor without values")
    if sum(4 * tensor.shape[0] for tensor in header.tensors) > size:
        raise DataError(f"{path} is damaged: its tensors share bytes")
    return header


def write(vectors: Vectors) -> tuple[bytes, tuple[str, ...]]:
    """The file's bytes, and what other readers can't do with them.

    repeng and EasySteer refuse a file without `model_hint`; `layer_count` is what both and llama.cpp write.
    """
    from gguf import GGUFWriter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vector.gguf"
        writer = GGUFWriter(path, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", vectors.model_hint or "unknown")
        if vectors.method:
            writer.add_string(f"{ARCHITECTURE}.method", vectors.method)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors.directions))
        for layer, direction in vectors.directions.items():
            writer.add_tensor(f"direction.{layer}", direction)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        data = path.read_bytes()
    if 0 not in vectors.directions:
        return data, ()
    return data, (
        "llama.cpp as a reader: its loader rejects the file for its direction.0; repeng, EasySteer and fs-local read it",
    )
