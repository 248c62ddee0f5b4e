"""The container: an uncompressed zip of fixed members that ends with the SHA-256 of all before it. Any tool that opens zip opens it.

The same members give the same bytes. The reader trusts nothing: the digest is checked before the zip is parsed, members must be
stored (so nothing can inflate), and arrays are checked by their own headers before numpy sees them.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from fs_local.arrays import F32
from fs_local.errors import PackError
from fs_local.files import read_at_most

MAX_PACK_BYTES = 128 << 20
"""Room for a network whose β has as many hidden units as a state of width 4,096 has numbers; packs that are fitted here have 1 MB."""
_MAX_ENTRIES = 32
_MAX_SIDE = 1 << 24
_DATE = (1980, 1, 1, 0, 0, 0)
_SEAL = b"sha256:"
_SEAL_BYTES = len(_SEAL) + 64


def sealed_archive(members: dict[str, bytes]) -> bytes:
    """A sealed archive of these members, the same bytes for the same members."""
    return seal(_zip(members))


def read_members(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Reads a sealed archive that has exactly these members.

    Raises:
        PackError: no such file, too large, damaged in any byte, or not such an archive.
    """
    try:
        data = read_at_most(path, MAX_PACK_BYTES)
    except OSError as error:
        raise PackError(f"{path} can't be read: {error.strerror or error}") from error
    if data is None:
        raise PackError(f"{path} is no steering pack: a pack has at most {MAX_PACK_BYTES:,} bytes")
    if data[:4] == b"GGUF":
        raise PackError(
            f"{path} is a GGUF file and no steering pack; if it is a control vector, make one of it with: fs-local gate"
        )
    if data[:4] != b"PK\x03\x04":
        raise PackError(f"{path} is no steering pack; make one with: fs-local fit")
    if seal(data[:-_SEAL_BYTES]) != data:
        raise PackError(f"{path} is damaged: its bytes do not match their digest; copy or fit it again")
    try:
        return _unzip(data, names)
    except PackError as error:
        raise PackError(f"{path} is damaged: {error}") from error


def seal(unsealed: bytes) -> bytes:
    """Bytes of a zip whose comment will be the digest, with that comment."""
    return unsealed + _SEAL + hashlib.sha256(unsealed).hexdigest().encode()


def _zip(members: dict[str, bytes]) -> bytes:
    """A stored zip that announces a comment of the seal's length, without the comment."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(_entry(name), data)
        archive.comment = b"\0" * _SEAL_BYTES
    return buffer.getvalue()[:-_SEAL_BYTES]


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.create_system = 3  # the same bytes on every platform
    entry.external_attr = 0o644 << 16
    return entry


def _unzip(data: bytes, names: tuple[str, ...] | None) -> dict[str, bytes]:
    """Members of a stored zip; `names` are those it must have, None for any.

    Raises:
        PackError: no zip, or one with members that are compressed, twice there, unknown, or together larger than the zip.
    """
    members: dict[str, bytes] = {}
    room = len(data)  # members that share their bytes would make more memory than the file has
    if data.count(b"PK\x01\x02") > _MAX_ENTRIES:  # the signature of an entry in the zip's directory
        raise PackError("its archive has too many members")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                if names is not None and entry.filename not in names:
                    raise PackError(f"it has an unknown member {entry.filename!r}")
                if entry.filename in members:
                    raise PackError(f"it has the member {entry.filename!r} twice")
                if (
                    entry.compress_type != zipfile.ZIP_STORED
                    or entry.file_size != entry.compress_size
                    or entry.file_size > room
                ):
                    raise PackError(f"its member {entry.filename!r} is not stored plainly")
                room -= entry.file_size
                members[entry.filename] = archive.read(entry)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise PackError(f"its archive can't be read ({error})") from error
    if names is not None and len(members) != len(names):
        raise PackError(f"it lacks {', '.join(sorted(set(names) - set(members)))}")
    return members


def write_npz(arrays: dict[str, F32]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """An npz of float32 arrays, and where the values of each stand in it: name -> (offset, length) in bytes."""
    buffer = io.BytesIO()
    spans: dict[str, tuple[int, int]] = {}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name], dtype="<f4")
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            entry = _entry(f"{name}.npy")
            archive.writestr(entry, member.getvalue())
            spans[name] = (buffer.tell() - array.nbytes, array.nbytes)
    return buffer.getvalue(), spans


def read_npz(data: bytes) -> dict[str, F32]:
    """The arrays of an npz: float32, C order, finite, at most two dimensions.

    Raises:
        PackError: anything else.
    """
    arrays: dict[str, F32] = {}
    for filename, member in _unzip(data, None).items():
        name = filename.removesuffix(".npy")
        if name == filename or not name.isidentifier():
            raise PackError(f"its arrays have a strange name {filename!r}")
        stream = io.BytesIO(member)
        try:
            shape, dtype = npy_header(stream)
        except ValueError as error:
            raise PackError(f"its array {name!r} can't be read: {error}") from error
        values = member[stream.tell() :]
        sane = len(shape) <= 2 and all(0 <= n <= _MAX_SIDE for n in shape)
        if dtype != np.dtype("<f4") or not sane or math.prod(shape) * 4 != len(values):
            raise PackError(f"its array {name!r} is not a float32 matrix of its stated shape")
        array = np.frombuffer(values, dtype="<f4").reshape(shape).astype(np.float32)
        if not np.isfinite(array).all():
            raise PackError(f"its array {name!r} has values that are not finite")
        arrays[name] = array
    return arrays


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array that `numpy.save` wrote, row by row; the stream stands at its values then.

    Raises:
        ValueError: anything else.
    """
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"npy version {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=1000)
    except Exception as error:  # numpy evaluates the header as a literal, which fails in many ways
        raise ValueError(f"it has a bad header: {error}") from error
    if fortran:
        raise ValueError("it is in Fortran's order")
    return shape, dtype
