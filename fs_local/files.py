"""Files as wholes: read up to a size, replaced at once, and their digest."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path

from fs_local.errors import PackError


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file beside `path`, then renames it: a failed write leaves the old file as it was.

    Raises:
        PackError: the folder is missing, can't be written, or has no space.
    """
    try:
        # with the permissions of any new file
        beside = path.parent / f".fs-local-{secrets.token_hex(8)}"
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    except OSError as error:
        raise PackError(f"{path} can't be written: {error.strerror or error}; nothing was changed") from error


def replace_folder(path: Path, files: dict[str, bytes]) -> None:
    """Writes files into a folder beside `path`, then renames it: a failed write leaves what was there as it was.

    Raises:
        PackError: it can't be written, or `path` is a folder with other files in it.
    """
    beside = path.parent / f".fs-local-{secrets.token_hex(8)}"
    try:
        if path.is_dir() and not path.is_symlink():
            foreign = sorted({entry.name for entry in path.iterdir()} - files.keys() - {"__pycache__"})
            if foreign:
                raise PackError(f"{path} has {foreign[0]!r} in it, which would be lost; choose another folder")
        elif os.path.lexists(path):
            path.unlink()
        try:
            beside.mkdir()
            for name, data in files.items():
                (beside / name).write_bytes(data)
            if path.is_dir():
                shutil.rmtree(path)
            os.rename(beside, path)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    except OSError as error:
        raise PackError(f"{path} can't be written: {error.strerror or error}; nothing was changed") from error


def read_at_most(path: Path, most: int) -> bytes | None:
    """A file's bytes; None if there are more than `most`.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        data = file.read(min(path.stat().st_size, most) + 1)  # read's buffer has the size it is told
    return data if len(data) <= most else None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as a manifest holds it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
