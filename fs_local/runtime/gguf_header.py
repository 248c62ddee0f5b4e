"""Reads what stands in front of a GGUF file's weights, trusting none of it.

The `gguf` package's own reader makes a numpy view of every vocabulary entry: 2.5 to 15 s on the models we test with. A
model is opened far more often than that is worth, so this walks the same bytes in well under a second, keeps no vocabulary,
and checks that the file is as long as its tensors need.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from fs_local.errors import ModelError
from fs_local.printable import printable

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_SAMPLE = 64
_F32 = 0
_MAX_COUNT = 1 << 24
_MAX_NAME = 200

Scalar = int | float | bool | str


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape (ggml order), ggml type, and absolute offset in the file (bytes)."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """Scalar and string metadata of one GGUF file, and its tensors."""

    path: Path
    metadata: dict[str, Scalar]
    tensors: list[TensorInfo]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", "unknown"))

    def number(self, key: str) -> int:
        """An integer of this architecture, for example `number("block_count")`; 0 where it is absent."""
        value = self.metadata.get(f"{self.architecture}.{key}", 0)
        return value if isinstance(value, int) else 0


class _Cursor:
    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.position = data, path, 0

    def take(self, n: int) -> int:
        start = self.position
        if n < 0 or start + n > len(self.data):
            raise ModelError(f"{self.path} is truncated: its header ends beyond the file; download it again")
        self.position = start + n
        return start

    def scalar(self, code: str) -> int | float | bool:
        layout = "<" + code
        value: int | float | bool = struct.unpack_from(layout, self.data, self.take(struct.calcsize(layout)))[0]
        return value

    def count(self) -> int:
        n = int(self.scalar("Q"))
        if n > _MAX_COUNT:
            raise ModelError(f"{self.path} is damaged: its header counts {n} entries; download it again")
        return n

    def string(self) -> str:
        n = self.count()
        start = self.take(n)
        return self.data[start : start + n].decode("utf-8", "replace")

    def skip_array(self) -> None:
        kind, n = int(self.scalar("I")), self.count()
        if kind == _STRING:
            unpack, data, position, end = struct.Struct("<Q").unpack_from, self.data, self.position, len(self.data)
            for _ in range(n):
                if position + 8 > end:
                    break
                position += 8 + unpack(data, position)[0]
            self.take(position - self.position)
        elif kind in _SCALARS:
            self.take(n * struct.calcsize("<" + _SCALARS[kind]))
        else:
            raise ModelError(
                f"{self.path} is damaged: its header has an array of unknown type {kind}; download it again"
            )


def read_header(path: Path) -> GgufHeader:
    """Reads a GGUF's header.

    Raises:
        ModelError: no such file, not a GGUF, truncated, damaged, or of a GGUF version that llama.cpp no longer reads.
    """
    if not path.is_file():
        raise ModelError(f"no model file at {path}; give the path of a .gguf file, or an alias (see: fs-local doctor)")
    try:
        with path.open("rb"):
            size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from error
    if size < 24:
        raise ModelError(f"{path} is no GGUF file: it has only {size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise ModelError(
                f"{path} is no GGUF file (it starts with {bytes(data[:4])!r}); convert it with llama.cpp's convert_hf_to_gguf.py"
            )
        cursor = _Cursor(data, path)
        cursor.take(4)
        version = int(cursor.scalar("I"))
        if version not in (2, 3):
            raise ModelError(f"{path} is GGUF version {version}; llama.cpp here reads versions 2 and 3")
        n_tensors, n_keys = cursor.count(), cursor.count()
        metadata: dict[str, Scalar] = {}
        for _ in range(n_keys):
            key, kind = cursor.string(), int(cursor.scalar("I"))
            if kind == _ARRAY:
                cursor.skip_array()
            elif kind == _STRING:
                metadata[key] = cursor.string()
            elif kind in _SCALARS:
                metadata[key] = cursor.scalar(_SCALARS[kind])
            else:
                raise ModelError(f"{path} is damaged: key {key!r} has unknown type {kind}; download it again")
        relative = []
        for _ in range(n_tensors):
            name, n_dims = cursor.string(), int(cursor.scalar("I"))
            if n_dims > 4:
                raise ModelError(f"{path} is damaged: tensor {name!r} has {n_dims} dimensions; download it again")
            shape = tuple(int(cursor.scalar("Q")) for _ in range(n_dims))
            relative.append((name, shape, int(cursor.scalar("I")), int(cursor.scalar("Q"))))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ModelError(f"{path} is damaged: its alignment is {alignment!r}; download it again")
        start = -(-cursor.position // alignment) * alignment
    tensors = [TensorInfo(name, shape, kind, start + offset) for name, shape, kind, offset in relative]
    _check_length(path, size, tensors)
    return GgufHeader(path, metadata, tensors)


def _check_length(path: Path, size: int, tensors: list[TensorInfo]) -> None:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    for tensor in tensors:
        try:
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.type)]
        except (ValueError, KeyError):
            block, block_bytes = 1, 0  # a type newer than the gguf package: llama.cpp will judge it
        end = tensor.offset + math.prod(tensor.shape) // block * block_bytes
        if end > size:
            raise ModelError(
                f"{path} is truncated: tensor {tensor.name!r} ends at byte {end:,} of {size:,}; download it again"
            )


def fingerprint(header: GgufHeader) -> str:
    """What stays the same over all quantizations of one model, as 16 hex digits.

    llama.cpp keeps normalization weights in f32 at every quantization, and training moves them: they tell most models from their
    relatives, where architecture and shape can't; not one whose norms were left alone (LoRA, abliteration). Hashed together with architecture, number of blocks and width.
    """
    digest = hashlib.sha256()
    digest.update(f"{header.architecture} {header.number('block_count')} {header.number('embedding_length')}".encode())
    norms = [t for t in header.tensors if t.type == _F32 and len(t.shape) == 1 and "norm" in t.name]
    with header.path.open("rb") as file:
        for tensor in sorted(norms, key=lambda t: t.name):
            file.seek(tensor.offset, os.SEEK_SET)
            digest.update(tensor.name.encode() + file.read(tensor.shape[0] * 4))
    return digest.hexdigest()[:16]


def weights_digest(header: GgufHeader) -> str:
    """Of these very weights, as 16 hex digits: fine-tunings and quantizations of one model differ in it, where their norms may not.

    Hashed are the file's size, and of every tensor its name, its type and three samples of its bytes.
    """
    digest = hashlib.sha256(str(header.path.stat().st_size).encode())
    with header.path.open("rb") as file:
        ends = [*sorted(t.offset for t in header.tensors)[1:], header.path.stat().st_size]
        for tensor, end in zip(sorted(header.tensors, key=lambda t: t.offset), ends, strict=True):
            digest.update(f"{tensor.name} {tensor.type} ".encode())
            for share in (0.0, 0.5, 1.0):
                file.seek(tensor.offset + int(share * max(0, end - tensor.offset - _SAMPLE)))
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:16]


def quantization(header: GgufHeader) -> str:
    """Name of the file's quantization, for example `Q4_K_M`."""
    from gguf.constants import LlamaFileType

    kind = header.metadata.get("general.file_type")
    try:
        return (
            LlamaFileType(kind).name.removeprefix("MOSTLY_").removeprefix("ALL_")
            if isinstance(kind, int)
            else "unknown"
        )
    except ValueError:
        return "unknown"


def model_name(header: GgufHeader, path: Path) -> str:
    """What a model calls itself, or else its file; without what a terminal would obey, and not longer than a name is."""
    said = str(header.metadata.get("general.name", path.stem))
    return printable(said, _MAX_NAME) or printable(path.stem, _MAX_NAME)
