"""A protocol: what is fitted, by which methods, and what it is measured on, in a TOML file. See the README.md beside this file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fs_local.choices import FitGate, FitMethod, Scope
from fs_local.errors import DataError, FitError
from fs_local.evaluation.budgets import BUDGETS
from fs_local.evaluation.contenders import UNSTEERED
from fs_local.evaluation.suites import SUITES
from fs_local.fitting.options import WITH_GATES, FitOptions
from fs_local.pack.manifest import METHODS

Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
Budget = Annotated[float, Field(gt=0, le=10)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Way(_Strict):
    """One contender: a method with what a fit may be told, or a system prompt.

    Attributes:
        rows: IR queries (or pairs) it is fitted on, in place of the task's.
        The rest as `fs_local.fitting.options.FitOptions` has them; `experts` is K.
    """

    method: FitMethod = "finesteer"
    gate: FitGate | None = None
    layers: Annotated[list[int], Field(min_length=1)] | None = None
    strength: float | None = None
    scope: Scope = "all"
    experts: Count | None = None
    residual: Annotated[int, Field(ge=0)] | None = None
    rows: Count | None = None
    system: Text | None = None

    def options(self, name: str, background: bool, seed: int) -> FitOptions:
        """How it is fitted.

        Raises:
            FitError: what no fit can be told.
        """
        return FitOptions(
            name=name,
            method=self.method,
            layers=None if self.layers is None else tuple(self.layers),
            gate=self.gate,
            strength=self.strength,
            scope=self.scope,
            n_experts=FitOptions.n_experts if self.experts is None else (self.experts, self.experts),
            residual_rank=self.residual,
            background=background,
            seed=seed,
        )


class Measured(_Strict):
    """A file to measure on.

    Attributes:
        suite: of `fs_local.evaluation.suites`.
        name: what the tables call it; by default the file's name.
        limit: rows at most, of each kind.
        by: a field of its rows; each value is a kind of its own.
        in_wraps: whether the queries go into wraps that no gate is fitted with, each family of wraps a kind of its own.
    """

    suite: str
    file: Text
    name: Text | None = None
    limit: Count | None = None
    by: Text | None = None
    in_wraps: bool = False

    @field_validator("suite")
    @classmethod
    def _known(cls, suite: str) -> str:
        if suite not in SUITES:
            raise ValueError(f"{suite!r} is no suite; there is {', '.join(SUITES)}")
        return suite


class Task(_Strict):
    """What is fitted, and what it is measured on.

    Attributes:
        pairs, ir, general, openings: files, as `fs-local fit` takes them.
        rows: IR queries (or pairs, where there are no others) to fit on, at most; general_rows: general queries of each file, at most.
        background: whether the general queries that come with the product join.
        methods: names of the protocol's methods; by default all.
    """

    pairs: Text | None = None
    ir: list[Text] = []
    general: list[Text] = []
    openings: Text | None = None
    rows: Count | None = None
    general_rows: Count | None = None
    background: bool = True
    methods: Annotated[list[Text], Field(min_length=1)] | None = None
    measure: Annotated[list[Measured], Field(min_length=1)]


class Protocol(_Strict):
    """All of it. Files are relative to the protocol's folder.

    Attributes:
        models: GGUF files, in the protocol's folder or by what a MODEL argument may be. seeds: each fits everything anew.
        budgets: of drift (nats a token), ascending.
        methods, tasks: by name.
    """

    models: Annotated[list[Text], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 32)]], Field(min_length=1)] = [0]
    budgets: Annotated[list[Budget], Field(min_length=1)] = list(BUDGETS)
    methods: Annotated[dict[Text, Way], Field(min_length=1)]
    tasks: Annotated[dict[Text, Task], Field(min_length=1)]


def read_protocol(path: Path) -> Protocol:
    """Reads a protocol; its paths come back absolute.

    Raises:
        DataError: it can't be read, or something in it is wrong: by line and field.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path} is not TOML: {error}") from error
    try:
        protocol = Protocol.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise _wrong(path, text, first["loc"], _message(first)) from error
    _check(path, text, protocol)
    return _absolute(protocol, path.resolve().parent)


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    if error["type"] == "literal_error" and error["loc"][-1] == "method":
        return f"{error['input']!r} is no method; there is {', '.join(METHODS)}"
    return str(error["msg"]).removeprefix("Value error, ")


def _check(path: Path, text: str, protocol: Protocol) -> None:
    """What no schema sees."""
    for field in ("models", "seeds", "budgets"):
        values = getattr(protocol, field)
        if twice := [v for i, v in enumerate(values) if v in values[:i]]:
            raise _wrong(path, text, (field,), f"{twice[0]!r} is there twice")
    if protocol.budgets != sorted(protocol.budgets):
        raise _wrong(path, text, ("budgets",), "budgets must ascend")
    for name, way in protocol.methods.items():
        if name == UNSTEERED:
            raise _wrong(path, text, ("methods", name), "the tables have the unsteered model under this name already")
        if way.system is not None and way.model_fields_set != {"system"}:
            other = min(way.model_fields_set - {"system"})
            raise _wrong(
                path, text, ("methods", name, other), "a system prompt is fitted on nothing, and takes nothing else"
            )
        try:
            way.options(name, True, protocol.seeds[0])
        except FitError as error:
            raise _wrong(path, text, ("methods", name), str(error)) from error
    for name, task in protocol.tasks.items():
        if task.pairs is None and not task.ir:
            raise _wrong(path, text, ("tasks", name), "a task needs pairs or ir to fit on")
        for i, method in enumerate(task.methods or protocol.methods):
            if method not in protocol.methods:
                have = ", ".join(protocol.methods)
                raise _wrong(path, text, ("tasks", name, "methods"), f"{method!r} is none of the methods {have}")
            if method in (task.methods or [])[:i]:
                raise _wrong(path, text, ("tasks", name, "methods"), f"{method!r} is there twice")
            way = protocol.methods[method]
            if not (task.general or task.background or way.system or way.method in WITH_GATES):
                raise _wrong(path, text, ("tasks", name, "background"), f"{method!r} needs general queries too")
        shown = [(m.suite, m.name or Path(m.file).name) for m in task.measure]
        for i, one in enumerate(shown):
            if one in shown[:i]:
                raise _wrong(
                    path,
                    text,
                    ("tasks", name, "measure", i),
                    f"two are {one[0]} on {one[1]}; give one a name of its own",
                )
        files = [("pairs", task.pairs), ("openings", task.openings)]
        files += [(field, file) for field in ("ir", "general") for file in getattr(task, field)]
        located: list[tuple[tuple[str | int, ...], str]] = [
            ((field,), file) for field, file in files if file is not None
        ]
        located += [(("measure", i, "file"), m.file) for i, m in enumerate(task.measure)]
        for where, file in located:
            if not (path.resolve().parent / file).is_file():
                raise _wrong(path, text, ("tasks", name, *where), f"there is no file {file}")


def _absolute(protocol: Protocol, folder: Path) -> Protocol:
    def at(file: str | None) -> str | None:
        return None if file is None else str(folder / file)

    tasks = {
        name: task.model_copy(
            update={
                "pairs": at(task.pairs),
                "openings": at(task.openings),
                "ir": [at(file) for file in task.ir],
                "general": [at(file) for file in task.general],
                "measure": [m.model_copy(update={"file": at(m.file)}) for m in task.measure],
            }
        )
        for name, task in protocol.tasks.items()
    }
    models = [str(folder / name) if (folder / name).is_file() else name for name in protocol.models]
    return protocol.model_copy(update={"tasks": tasks, "models": models})


def _wrong(path: Path, text: str, loc: Sequence[str | int], message: str) -> DataError:
    field = ".".join(str(part + 1) if isinstance(part, int) else part for part in loc)
    return DataError(f"{path}, line {line_of(text, loc)}, {field}: {message}")


def line_of(text: str, loc: Sequence[str | int]) -> int:
    """The line of a TOML file where a field stands, from 1: that of its key, else of its table, as far as there are any.

    Args:
        loc: keys, and places in arrays from 0.
    """
    best, best_line = 0, 1
    table: list[str | int] = []
    counts: dict[tuple[str | int, ...], int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if header := re.match(r"""\s*(\[\[?)\s*((?:"[^"]*"|'[^']*'|[^\[\]"'])+?)\s*\]\]?\s*(?:#.*)?$""", line):
            table = list(_keys(header[2]))
            if header[1] == "[[":
                place = counts.get(tuple(table), -1) + 1
                counts[tuple(table)] = place
                table.append(place)
            here = table
        elif key := re.match(r"""\s*((?:"[^"]*"|'[^']*'|[\w-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[\w-]+))*)\s*=""", line):
            here = [*table, *_keys(key[1])]
        else:
            continue
        if len(here) > best and list(loc[: len(here)]) == here:
            best, best_line = len(here), number
    return best_line


def _keys(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(r"""\"[^\"]*\"|'[^']*'|[\w-]+""", dotted)]
