"""Named tensors of a file, whatever holds them: safetensors or npz, read here, and PyTorch's zip, read by `torch_file`.

Nothing in a file is trusted: a header is read and checked before any values are, members of a zip must be stored (so nothing can
inflate), no two tensors share bytes, and no object is unpickled here. Values are read when they are asked for, one tensor or one
part of it at a time: checkpoints are larger than what is wanted of them.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fs_local.arrays import F32
from fs_local.errors import DataError
from fs_local.pack.archive import npy_header

MAX_TENSORS = 1024
_MAX_HEADER = 256 * MAX_TENSORS
_MAX_SIDE = 1 << 24
_MAX_SIDES = 8
_NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""How numpy reads each type of number that is taken; of bfloat16, the bits."""
ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError)

Container = Literal["safetensors", "npz", "torch"]


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file.

    Attributes:
        path, name: where it is, for messages.
        shape: every side is at least 1.
        dtype: type of its numbers, as safetensors names it; other types than float32, float16 and bfloat16 can't be read.
        load: gives its values as float32, of the whole or of one part along the first side.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[int | None], F32]

    def read(self, part: int | None = None) -> F32:
        """Its values, float32: all of them, or part number `part` along the first side.

        Raises:
            DataError: another type of numbers, damaged, or values that are not finite.
        """
        self.check_type()
        values = self.load(part)
        if not np.isfinite(values).all():
            raise DataError(f"{self.path} has values in {self.name[:60]!r} that are not finite (NaN or infinite)")
        return values

    def check_type(self) -> None:
        """Raises DataError for numbers that can't be read."""
        if self.dtype not in _NUMPY:
            raise DataError(
                f"{self.path} has {self.name[:60]!r} in numbers of type {self.dtype[:20]}; save it as float32"
            )


@dataclass(frozen=True)
class TensorFile:
    """A file's tensors, by name. texts: what else it says, by name."""

    path: Path
    tensors: dict[str, Tensor]
    texts: dict[str, str] = field(default_factory=dict)

    def names(self) -> str:
        """The names it has, for messages."""
        listed = sorted(name[:60] for name in self.tensors)
        return ", ".join(listed[:20]) + (f" and {len(listed) - 20} more" if len(listed) > 20 else "")


def container(head: bytes, size: int) -> Container | None:
    """What a file is that starts with these bytes and has this many, if it holds tensors."""
    if head[:4] == b"PK\x03\x04":
        first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        if first.endswith(b".npy"):
            return "npz"
        return "torch" if b"data.pkl" in head else None
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack_from("<Q", head)[0] <= size - 8:
        return "safetensors"
    return None


def converted_types(tensors: list[Tensor]) -> tuple[str, ...]:
    """What to say of tensors that are not float32: a sentence, or nothing."""
    names = {"F16": "float16", "BF16": "bfloat16"}
    found = sorted({names[t.dtype] for t in tensors if t.dtype in names})
    return (f"the type of its numbers: {' and '.join(found)} became float32, their values unchanged",) if found else ()


def to_float32(raw: bytes, dtype: str) -> F32:
    """Values of a type of `_NUMPY`, float32, (n,)."""
    values = np.frombuffer(raw, dtype=_NUMPY[dtype])
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def open_safetensors(path: Path) -> TensorFile:
    """The tensors of a safetensors file.

    Raises:
        DataError: it can't be read, or its header is damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_MAX_HEADER, size - 8):
                raise DataError(f"{path} is damaged: its header claims {length:,} bytes")
            text = file.read(length)
    except (OSError, struct.error) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    header = _json(path, text)
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or len(header) > MAX_TENSORS:
        raise DataError(f"{path} is damaged: its header counts {len(header):,} tensors, or has odd metadata")
    tensors, spans = {}, []
    for name, entry in header.items():
        dtype, shape, (begin, end) = _entry(path, name, entry)
        spans.append((begin, end))
        if dtype in _NUMPY and end - begin != math.prod(shape) * np.dtype(_NUMPY[dtype]).itemsize:
            raise DataError(f"{path} is damaged: {name[:60]!r} has not the bytes of its shape")

        def load(
            part: int | None, start: int = 8 + length + begin, shape: tuple[int, ...] = shape, dtype: str = dtype
        ) -> F32:
            wanted = shape if part is None else shape[1:]
            n = math.prod(wanted) * np.dtype(_NUMPY[dtype]).itemsize
            with path.open("rb") as file:
                file.seek(start + (part or 0) * n)
                raw = file.read(n)
            return to_float32(raw, dtype).reshape(wanted)

        tensors[name] = Tensor(path, name, shape, dtype, load)
    ends = [0, *(end for _, end in sorted(spans))]
    if [begin for begin, _ in sorted(spans)] != ends[:-1] or ends[-1] != size - 8 - length:
        raise DataError(f"{path} is damaged: its tensors share bytes, leave some out, or are cut off")
    return TensorFile(path, tensors, {key: value for key, value in about.items() if isinstance(value, str)})


def _json(path: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise DataError(f"{path} has a name twice in its header")
        return dict(pairs)

    try:
        header = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: its header is not JSON") from error
    if not isinstance(header, dict):
        raise DataError(f"{path} is damaged: its header is no object")
    return header


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Type, shape and offsets of a safetensors header's entry."""

    def numbers(value: Any, most: int) -> bool:
        return (
            isinstance(value, list) and len(value) <= most and all(type(n) is int and 0 <= n < 1 << 48 for n in value)
        )

    if isinstance(entry, dict):
        dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        if (
            isinstance(dtype, str)
            and isinstance(shape, list)
            and isinstance(offsets, list)
            and numbers(shape, _MAX_SIDES)
            and numbers(offsets, 2)
            and len(offsets) == 2
            and offsets[0] <= offsets[1]
        ):
            return dtype, _sane(path, name, tuple(shape)), (offsets[0], offsets[1])
    raise DataError(f"{path} is damaged: {name[:60]!r} has no type, shape and place in its header")


def _sane(path: Path, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not all(1 <= n <= _MAX_SIDE for n in shape):
        raise DataError(f"{path} has a tensor {name[:60]!r} without values, or is damaged: its shape is {shape}")
    return shape


def open_npz(path: Path) -> TensorFile:
    """The arrays of an npz, as `numpy.savez` writes it.

    Raises:
        DataError: it can't be read, is damaged or compressed, or has other members than arrays.
    """
    check_directory(path)
    try:
        tensors = {}
        with zipfile.ZipFile(path) as archive:
            for entry in stored_entries(path, archive):
                name = entry.filename.removesuffix(".npy")
                if name == entry.filename:
                    raise ValueError(f"{entry.filename[:60]!r} is no array")
                with archive.open(entry) as member:
                    tensors[name] = _array(path, name, entry, member)
    except ZIP_ERRORS as error:
        raise DataError(f"{path} can't be used: {str(error)[:300]}; write it with numpy.savez, as float32") from error
    return TensorFile(path, tensors)


def stored_entries(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members of a zip, all stored plainly, none twice, together no larger than the zip.

    Raises:
        ValueError: another kind of zip.
    """
    entries = archive.infolist()
    room = path.stat().st_size
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("it has a member twice")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or not entry.file_size == entry.compress_size <= room:
            raise ValueError(f"its member {entry.filename[:60]!r} is not stored plainly")
        room -= entry.file_size
    return entries


def check_directory(path: Path) -> None:
    """Counts a zip's members before anything is made of each of them.

    Raises:
        DataError: too many, or the file can't be read.
    """
    at = -1
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for _ in range(MAX_TENSORS + 1):
                at = data.find(b"PK\x01\x02", at + 1)  # the signature of a member in the directory
                if at < 0:
                    return
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    raise DataError(f"{path} has too many members for a file of tensors: the limit is {MAX_TENSORS:,}")


def _array(path: Path, name: str, entry: zipfile.ZipInfo, member: Any) -> Tensor:
    """One array of an npz; its header is read, its values are not."""
    try:
        shape, kind = npy_header(member)
    except ValueError as error:
        raise ValueError(f"its array {name[:60]!r} can't be read: {error}") from error
    start = member.tell()
    dtype = {"<f4": "F32", "<f2": "F16"}.get(kind.str, str(kind))
    _sane(path, name, shape)
    if math.prod(shape) * kind.itemsize != entry.file_size - start:
        raise ValueError(f"its array {name[:60]!r} is not of its stated shape")

    def load(part: int | None) -> F32:
        wanted = shape if part is None else shape[1:]
        n = math.prod(wanted) * kind.itemsize
        try:
            with zipfile.ZipFile(path) as archive, archive.open(entry.filename) as member:
                member.seek(start + (part or 0) * n)
                raw = member.read(n)
                member.read(1)  # at the end, zipfile compares checksums
            return to_float32(raw, dtype).reshape(wanted)
        except ZIP_ERRORS as error:
            raise DataError(f"{path} is damaged: {error}") from error

    return Tensor(path, name, shape, dtype, load)
