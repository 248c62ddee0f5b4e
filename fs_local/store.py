"""Results that survive a stop: one JSON line each, appended as soon as it is there, found again by what it was computed from."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import platformdirs

from fs_local.errors import DataError

SCHEMA = 1
"""Of what is kept. To be raised whenever the same inputs give another result: how rows are batched, steered, scored or compared.
tests/evaluation/test_arithmetic.py fails where that was forgotten. What computes them, weights, llama.cpp and kernels, is in `Model.build`."""
_KEPT_SECONDS = 7 * 24 * 3600


class Store:
    """A file of results. A line that a stop left half-written is ignored, and computed again. Without a path, it is in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._results: dict[str, Any] = {}
        self._torn = False
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise DataError(f"{path} can't be read: {error.strerror}") from error
        for line in data.split(b"\n"):
            try:
                row = json.loads(line)
                self._results[row["key"]] = row["result"]
            except (ValueError, TypeError, KeyError):
                continue
        self._torn = bool(data) and not data.endswith(b"\n")

    @property
    def captures(self) -> Path | None:
        """The folder for what captures of this model keep."""
        return self._path and self._path.with_suffix(".captures")

    @property
    def packs(self) -> Path | None:
        """The folder for packs that a protocol fitted."""
        return self._path and self._path.with_suffix(".packs")

    @classmethod
    def for_model(cls, build: str) -> Store:
        """The store of one model (`Model.build`) in the user's cache folder, from which is removed what nobody used for a week."""
        folder = Path(platformdirs.user_cache_dir("fs-local")) / "results"
        path = folder / f"{build}.jsonl"
        store = cls(path)
        path.touch()
        for old in [path for kind in ("*.jsonl", "*.captures/*", "*.packs/*") for path in folder.glob(kind)]:
            if time.time() - old.stat().st_mtime > _KEPT_SECONDS:
                old.unlink(missing_ok=True)
        return store

    def get(self, key: str) -> Any:
        """What was put there; None if nothing was."""
        return self._results.get(key)

    def put(self, key: str, result: Any) -> None:
        """Keeps a result (JSON).

        Raises:
            DataError: it can't be written, for want of room or rights; what was kept before stays.
        """
        self._results[key] = result
        if self._path is None:
            return
        line = json.dumps({"key": key, "result": result}, ensure_ascii=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(("\n" if self._torn else "") + line + "\n")
        except OSError as error:
            raise DataError(f"{self._path} can't be written: {error.strerror}") from error
        self._torn = False


def digest(*parts: Any) -> str:
    """Key of a result: a hash of all that it depends on (JSON values), and of `SCHEMA`."""
    return hashlib.sha256(json.dumps([SCHEMA, *parts], sort_keys=True).encode()).hexdigest()[:32]
