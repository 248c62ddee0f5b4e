"""Files that commands read and write, looked at before anything long begins."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def standard_input() -> str:
    from fs_local.errors import DataError

    try:
        return sys.stdin.read().rstrip("\n")
    except UnicodeDecodeError as error:
        raise DataError("standard input is not UTF-8 text; convert it, for example with iconv") from error


def check_outputs(*outputs: Path | None, inputs: Sequence[Path | None] = ()) -> None:
    """Before anything long begins: every file that will be written has a folder, is none itself, and is not one that is read."""
    from fs_local.errors import PackError

    taken = [path for path in inputs if path is not None]
    for path in outputs:
        if path is None:
            continue
        if not path.parent.is_dir():
            raise PackError(f"{path} can't be written: there is no folder {path.parent}")
        if path.is_dir():
            raise PackError(f"{path} is a folder; name the file to be written in it")
        if any(path.resolve() == other.resolve() for other in taken):
            raise PackError(f"{path} would be overwritten, and is given for something else too; name another file")
        taken.append(path)
