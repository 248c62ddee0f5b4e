"""Results that survive a stop, found again by what they were computed from: one sqlite3 file a model, which several processes may use."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from fs_local.database import Database
from fs_local.resume import forget_captures

SCHEMA = 2
"""Of what is kept. To be raised whenever the same inputs give another result: how rows are batched, steered, scored or compared.
tests/evaluation/test_arithmetic.py fails where that was forgotten. What computes them, weights, llama.cpp and kernels, is in `Model.build`."""
_KEPT_SECONDS = 7 * 24 * 3600
_TABLE = """
create table if not exists result (key text primary key, result text not null, used real not null);
create index if not exists result_used on result (used);
"""


class Store:
    """Results of one model. Without a path, they are in memory alone.

    Raises:
        DataError: the file can't be used.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._database = Database(path, _TABLE, "the cache folder") if path is not None else None
        self._in_memory: dict[str, Any] = {}

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
        store = cls(folder / f"{build}.sqlite3")
        since = time.time() - _KEPT_SECONDS
        assert store._database is not None
        with store._database.transaction() as db:
            db.execute("delete from result where used < ?", (since,))
        for captures in folder.glob("*.captures"):
            forget_captures(captures, since)
        for old in [path for kind in ("*.*", "*.packs/*") for path in folder.glob(kind) if path.is_file()]:
            if old.stat().st_mtime < since:
                old.unlink(missing_ok=True)
        return store

    def find(self, keys: Iterable[str]) -> dict[str, Any]:
        """What was put there under some of these keys."""
        if self._database is None:
            return {key: self._in_memory[key] for key in keys if key in self._in_memory}
        found: dict[str, Any] = {}
        with self._database.transaction() as db:
            for key in keys:
                for (text,) in db.execute("select result from result where key = ?", (key,)):
                    found[key] = json.loads(text)
            db.executemany("update result set used = ? where key = ?", ((time.time(), key) for key in found))
        return found

    def put(self, results: Mapping[str, Any]) -> None:
        """Keeps results (JSON), all or none.

        Raises:
            DataError: they can't be written, for want of room or rights; what was kept before stays.
        """
        if self._database is None:
            self._in_memory |= results
            return
        now = time.time()
        rows = [(key, json.dumps(result, ensure_ascii=False), now) for key, result in results.items()]
        with self._database.transaction() as db:
            db.executemany("insert or replace into result values (?, ?, ?)", rows)


def digest(*parts: Any) -> str:
    """Key of a result: a hash of all that it depends on (JSON values), and of `SCHEMA`."""
    return hashlib.sha256(json.dumps([SCHEMA, *parts], sort_keys=True).encode()).hexdigest()[:32]
