"""Files as other tools write them, made here."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH, BLOCKS = 64, 12


def directions(layers: range | list[int], width: int = WIDTH, seed: int = 0) -> dict[int, np.ndarray]:
    """Unit vectors with a negative zero among their values."""
    rng = np.random.default_rng(seed)
    made = {layer: rng.standard_normal(width).astype(np.float32) for layer in layers}
    for layer, vector in made.items():
        made[layer] = (vector / np.linalg.norm(vector)).astype(np.float32)
        made[layer][0] = -0.0
    return made


def write_control_vector(
    path: Path, vectors: dict[int, np.ndarray], *, architecture: str = "controlvector", hint: str = "qwen2.5"
) -> Path:
    """As EasySteer writes it: `direction.0` first, figures of the extraction as float32."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", hint)
    writer.add_string("controlvector.method", "diffmean")
    writer.add_uint32("controlvector.layer_count", len(vectors))
    writer.add_float32("controlvector.normalize", 1.0)
    writer.add_float32("controlvector.explained_variance.0", 0.9)
    for layer, vector in vectors.items():
        writer.add_tensor(f"direction.{layer}", vector)
    _finish(writer)
    return path


def write_model(path: Path, *, width: int = WIDTH, blocks: int = BLOCKS) -> Path:
    """The head of a model, and as much of it as a fingerprint needs."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"model of {width}")
    writer.add_block_count(blocks)
    writer.add_embedding_length(width)
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(width, dtype=np.float32))
    _finish(writer)
    return path


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_svec(path: Path, vectors: dict[int, np.ndarray]) -> Path:
    """As activation-steering's `SteeringVector.save` writes it, keys as given."""
    shares = dict.fromkeys(vectors, 0.5)
    document = {
        "model_type": "llama",
        "directions": {k: v.tolist() for k, v in vectors.items()},
        "explained_variances": shares,
    }
    path.write_text(json.dumps(document))
    return path


def tensors(path: Path) -> dict[str, bytes]:
    """The tensors of a GGUF by the gguf package's own reader: name -> bytes."""
    return {t.name: np.array(t.data).tobytes() for t in gguf.GGUFReader(path).tensors}


def mose_state(
    *, d: int = 32, k: int = 4, u: int = 3, a: int = 16, m: int = 24, value: bool = False, seed: int = 0
) -> dict[str, np.ndarray]:
    """A state_dict of FineSteer's `MoSE`, weights drawn as PyTorch's linear layers draw them; a, m: attention and hidden widths."""
    rng = np.random.default_rng(seed)
    state = {
        "prototypes": rng.standard_normal((k, d)),
        "residual_basis": np.linalg.qr(rng.standard_normal((d, u)))[0],
    }
    sizes = {"query": (a, d), "key": (a, d), "beta.0": (m, d), "beta.2": (u, m), **({"value": (d, d)} if value else {})}
    for name, (out, inputs) in sizes.items():
        bound = inputs**-0.5
        state[f"{name}.weight"] = rng.uniform(-bound, bound, (out, inputs))
        state[f"{name}.bias"] = rng.uniform(-bound, bound, out)
    return {name: array.astype(np.float32) for name, array in state.items()}


def bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 values cut to bfloat16's 16 bits."""
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


def write_tensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "F32") -> Path:
    """A safetensors file of float32 values, written as numbers of this type."""
    header, body = {}, b""
    for name, values in tensors.items():
        raw = {
            "F32": lambda v: v.astype("<f4"),
            "F16": lambda v: v.astype("<f2"),
            "BF16": lambda v: (v.view("<u4") >> 16).astype("<u2"),
            "F64": lambda v: v.astype("<f8"),
        }[dtype](values).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def write_npz(path: Path, tensors: Mapping[str, Any], *, compressed: bool = False) -> Path:
    """As `numpy.savez` writes it, whose stubs take a mapping of names to `Any` alone: one of the names could be `allow_pickle`."""
    with path.open("wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **tensors)
    return path
