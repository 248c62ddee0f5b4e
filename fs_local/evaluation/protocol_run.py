"""A protocol, run: every method of every task is fitted and measured, model by model; what was done before by the same code is found again."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from fs_local.background.wraps import wraps
from fs_local.errors import DataError
from fs_local.evaluation.code import code_digest
from fs_local.evaluation.compare import evaluate_packs
from fs_local.evaluation.contenders import Contender, SystemPrompt
from fs_local.evaluation.files import File
from fs_local.evaluation.frontier import EFFECTS
from fs_local.evaluation.protocol import Measured, Protocol, Task, Way
from fs_local.evaluation.suites import read_suite
from fs_local.examples import read_rows
from fs_local.files import replace_file
from fs_local.fitting import Examples, fit
from fs_local.fitting.files import at_random, read_examples
from fs_local.model_files import resolve_model
from fs_local.pack.file import Pack
from fs_local.progress import Progress
from fs_local.runtime.model import Model
from fs_local.store import Store, digest

Say = Callable[[str], None]
_SUITES = f"a measure of drift, and one of {', '.join(EFFECTS)}"


@dataclass
class Journal:
    """What a protocol's run has finished, and by which code: so that one that was stopped can say where it goes on.

    Args:
        path: of its file.
    """

    path: Path
    code: str = field(default_factory=code_digest)
    done: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, protocol: Path) -> tuple[Journal, str | None]:
        """The journal of a protocol's file, and a note on what it has of before."""
        name = f"{protocol.stem}-{digest(str(protocol.resolve()))[:8]}.json"
        journal = cls(Path(platformdirs.user_cache_dir("fs-local")) / "protocols" / name)
        try:
            kept = json.loads(journal.path.read_text(encoding="utf-8"))
            code, done = str(kept["code"]), [str(x) for x in kept["done"]]
        except (OSError, ValueError, KeyError, TypeError):
            return journal, None
        if not done:
            return journal, None
        if code != journal.code:
            return journal, f"the code has changed since this protocol last ran: computed anew are {'; '.join(done)}"
        journal.done = done
        return journal, f"this protocol goes on: found again are {'; '.join(done)}"

    def note(self, what: str) -> None:
        """Writes down that something is finished.

        Raises:
            FsLocalError: the file can't be written.
        """
        if what in self.done:
            return
        self.done.append(what)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.path.parent} can't be made: {error.strerror}") from error
        replace_file(self.path, json.dumps({"code": self.code, "done": self.done}).encode())


def run_protocol(protocol: Protocol, path: Path, progress: Progress, say: Say) -> Iterator[dict[str, Any]]:
    """Everything that the protocol names, as it is finished: for each model, seed and task what `evaluate_packs` measured, with `title`,
    `seconds` and what each contender was fitted on.

    Args:
        path: of the protocol's file. say: told of what a person should know.

    Raises:
        FsLocalError: an example, a file or a model that can't be used.
    """
    files = {
        name: list(_files(task)) for name, task in protocol.tasks.items()
    }  # all are read before anything long begins
    journal, before = Journal.of(path)
    if before is not None:
        say(before)
    for model_name in protocol.models:
        with Model.load(resolve_model(model_name)) as model:
            store = Store.for_model(f"{model.build}-{journal.code}")
            for seed in protocol.seeds:
                for name, task in protocol.tasks.items():
                    of_seed = [f"seed {seed}"] if len(protocol.seeds) > 1 else []
                    title = ", ".join([Path(model_name).name.removesuffix(".gguf"), name, *of_seed])
                    began = time.monotonic()
                    contenders, fitted = [], []
                    for method in task.methods or list(protocol.methods):
                        contender, about = _contender(
                            model, method, protocol.methods[method], task, seed, store, progress
                        )
                        journal.note(f"{title}: {method} fitted")
                        contenders.append(contender)
                        fitted.append(about)
                    measured = evaluate_packs(
                        model,
                        contenders,
                        files[name],
                        compare=True,
                        budgets=protocol.budgets,
                        store=store,
                        progress=progress,
                    )
                    journal.note(f"{title}: measured")
                    if not measured["budgets"]:
                        say(f"{title}: nothing is compared at equal drift, for which a task needs a pack, {_SUITES}")
                    yield measured | {
                        "title": title,
                        "seconds": time.monotonic() - began,
                        "fitted": fitted,
                        "code": journal.code,
                    }


def _contender(
    model: Model, name: str, way: Way, task: Task, seed: int, store: Store, progress: Progress
) -> tuple[Contender, dict[str, Any]]:
    """A method fitted on a task, or as it was fitted before; and what there is to say of that."""
    if way.system is not None:
        return SystemPrompt(name, way.system), {"name": name, "system": way.system}
    examples = some_examples(task, way.rows or task.rows, seed)
    options = way.options(name, task.background, seed)
    key = digest(way.model_dump(), task.model_dump(exclude={"measure", "methods"}), name, seed, _digests(examples))
    kept = store.packs and store.packs / f"{key}.fspack"
    if kept is None:
        pack = fit(model, examples, options, progress, store).pack
    else:
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            fit(model, examples, options, progress, store).pack.save(kept)
        pack = Pack.load(kept)  # arrays in another order in memory give other last bits: always as they are read
    m = pack.manifest
    about = {
        "name": name,
        "method": m.method,
        "form": None if m.figures.held_out is None else m.figures.held_out.form,
        "ir": len(examples.ir_queries),
        "pairs": len(examples.pairs),
        "general": examples.n_general,
        "layers": m.steer.layers,
        "strength": m.steer.strength,
        "scope": m.steer.scope,
        "gate": m.gate.kind,
        "trials": len(m.figures.trials),
        "open_ir": m.figures.open_ir,
        "open_general": m.figures.open_general,
        "validation_error": m.figures.validation_error,
        "constant_error": m.figures.constant_error,
    }
    return pack, about


def some_examples(task: Task, rows: int | None, seed: int) -> Examples:
    """A task's examples: of IR queries (or pairs, where there are no others), and of each file of general ones, at most so many, at
    random."""
    pairs = None if task.pairs is None else Path(task.pairs)
    openings = None if task.openings is None else Path(task.openings)
    ir = [Path(file) for file in task.ir]
    whole = read_examples(pairs, ir, [Path(file) for file in task.general], openings, seed, rows)
    general = {kind: at_random(queries, task.general_rows, seed) for kind, queries in whole.general.items()}
    kept = whole.pairs if whole.ir else at_random(whole.pairs, rows, seed)
    return dataclasses.replace(whole, pairs=kept, general=general)


def _digests(examples: Examples) -> dict[str, str]:
    return {name: file.sha256 for name, file in (examples.files or {}).items()}


def _files(task: Task) -> Iterator[File]:
    """What a task is measured on: a file a kind, where its rows are of several."""
    for m in task.measure:
        path = Path(m.file)
        rows, name = read_suite(m.suite, path), m.name or path.name
        if m.by is not None:
            kinds = [str(row.get(m.by, "")) for row, _ in read_rows(path)]
            if "" in kinds:
                raise DataError(
                    f"{path}, line {kinds.index('') + 1}: no `{m.by}`, by which the protocol wants it to be told apart"
                )
            for kind in dict.fromkeys(kinds):
                some = [row for row, of in zip(rows, kinds, strict=True) if of == kind][: m.limit]
                yield File(m.suite, path, f"{name}, {kind}", some)
        elif m.in_wraps:
            yield from _in_wraps(m, path, name)
        else:
            yield File(m.suite, path, name, rows[: m.limit])


def _in_wraps(m: Measured, path: Path, name: str) -> Iterator[File]:
    rows = read_suite(m.suite, path, m.limit)
    by_family: dict[str, list[Any]] = {}
    for wrap in wraps("held_out"):
        by_family.setdefault(wrap.family, []).append(wrap)
    for family, some in by_family.items():
        wrapped = [dataclasses.replace(row, query=some[i % len(some)].around(row.query)) for i, row in enumerate(rows)]
        yield File(m.suite, path, f"{name}, {family}", wrapped)
