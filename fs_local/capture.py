"""States of queries and answers, read from the model in batches that end early.

A batch is one decode: many sequences side by side. Tokens with which a request begins like the one before it (the chat template's
opening, a text around several queries), and a query with several answers, are evaluated once, as members of all their sequences. So
requests are cheapest in the order of their texts. The graph ends after the last layer that is wanted. Batches know nothing of each other, so
several processes may read them (`fs_local.shards`), to the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fs_local.arrays import F32
from fs_local.errors import DataError, FitError, FsLocalError, ModelError
from fs_local.examples import Query
from fs_local.method.readings import Reading, Span, mean_of
from fs_local.resume import Captures, ResumeFile, RowSpan, batches_done
from fs_local.runtime.context import MICRO_BATCH, Context
from fs_local.runtime.layer_states import Hook, LayerStates
from fs_local.runtime.model import Model
from fs_local.runtime.placement import Placement
from fs_local.runtime.threads import default_threads
from fs_local.shards import in_order, is_local, n_jobs

MAX_SEQUENCES = 64
_MOST_IN_SHARD = 8

Progress = Callable[[int, int], None]
"""Called with (done, total) requests."""


@dataclass(frozen=True)
class Request:
    """Tokens of a prompt, and of the answers to follow it, each in a sequence of its own.

    Attributes:
        user: where the user's own text stands. turn_start: where the current turn begins.
    """

    prompt: list[int]
    answers: tuple[list[int], ...] = ()
    user: Span | None = None
    turn_start: int = 0

    @property
    def user_text(self) -> Span:
        """Where the user's own text stands; the whole prompt where nobody said."""
        return self.user or Span(0, len(self.prompt))


@dataclass(frozen=True)
class Captured:
    """States of requests, in their order.

    Attributes:
        layers: the L layers that were read. readings: the R readings of each query that were taken there.
        queries: float32, (n, R, L, d).
        answers: mean state of each answer's tokens, float32, (n, answers, L, d) as a list over requests.
    """

    layers: tuple[int, ...]
    readings: tuple[Reading, ...]
    queries: F32
    answers: list[F32]

    def at(self, layer: int, reading: Reading = "last") -> F32:
        """Query states at one layer, (n, d)."""
        return self.queries[:, self.readings.index(reading), self.layers.index(layer)]


def query_request(model: Model, query: Query, answers: Sequence[str] = ()) -> Request:
    """Tokenizes a query by the model's chat template, and answers as they would follow it."""
    opening = "" if model.template.source else "\n\n"
    prompt = model.prompt(query.messages)
    tokenized = tuple(model.tokenize(opening + a, special=False) for a in answers)
    return Request(list(prompt.tokens), tokenized, prompt.user, prompt.turn_start)


def capture(
    model: Model,
    requests: Sequence[Request],
    layers: Sequence[int],
    progress: Progress | None = None,
    store: Path | None = None,
    readings: Sequence[Reading] = ("last",),
) -> Captured:
    """Reads states at several layers.

    Args:
        readings: of each query.
        store: a folder for the resume file. States then go to disk as they come and are mapped from there, so that memory stays
            flat, and a capture that was killed goes on when it is called again, to the same bytes. The caller removes the folder
            once it has no more use for it. None keeps states in memory.

    Raises:
        DataError: no requests, or one that is longer than the model's context.
        FitError: a state that is not finite.
        ModelError: a layer out of range.
        ResumeError: a full disk, or a damaged resume file.
    """
    layers, (batches, size, n_seq) = tuple(sorted(set(layers))), _planned(model, requests)
    # a row a reading of a query, then a row an answer; those of request i begin at answer_rows[i]
    each = len(readings)
    answer_rows = each * len(requests) + np.cumsum([0] + [len(r.answers) for r in requests])
    spans = [
        ((each * first, each * last), (int(answer_rows[first]), int(answer_rows[last]))) for first, last in batches
    ]
    with _rows(model, requests, layers, readings, batches, spans, store) as rows:
        if rows.done and progress is not None:
            progress(batches[rows.done - 1][1], len(requests))
        todo = batches[rows.done :]
        found = _read(
            model, [requests[first:last] for first, last in todo], _Settings(layers, tuple(readings), size, n_seq)
        )
        for (_, last), of_batch in zip(todo, found, strict=True):
            rows.put(of_batch)
            if progress is not None:
                progress(last, len(requests))
        states = rows.map().reshape(-1, len(layers), model.width)
    answers = [states[start:stop] for start, stop in itertools.pairwise(answer_rows)]
    queries = states[: each * len(requests)].reshape(len(requests), each, len(layers), model.width)
    return Captured(layers, tuple(readings), queries, answers)


@dataclass(frozen=True)
class _Settings:
    """What is read of a batch, and in what context."""

    layers: tuple[int, ...]
    readings: tuple[Reading, ...]
    size: int
    n_seq: int


@dataclass(frozen=True)
class _Shard:
    """Some batches for another process, which opens the model by its path; build: as it must be there."""

    path: Path
    build: str
    placement: Placement
    extra_kernels: bool
    n_threads: int | None
    settings: _Settings
    batches: Sequence[Sequence[Request]]


def _read(model: Model, batches: Sequence[Sequence[Request]], settings: _Settings) -> Iterator[tuple[F32, F32]]:
    """States of batches, in their order: read here, or by the processes that `fs_local.shards` knows of."""
    n = n_jobs() if len(batches) > 1 and not model.is_remote else 1
    if n == 1:
        with Context(model, n_ctx=settings.size, n_ubatch=settings.size, n_seq=settings.n_seq) as context:
            for batch in batches:
                yield _read_batch(context, _Batch(batch), settings.layers, settings.readings)
        return
    threads = max(1, default_threads() // n) if is_local() else None
    each = min(_MOST_IN_SHARD, max(1, len(batches) // (16 * n)))  # small, so that all end at nearly the same time
    shards = [
        _Shard(
            model.path.resolve(),
            model.build,
            model.placement,
            model.extra_kernels,
            threads,
            settings,
            batches[i : i + each],
        )
        for i in range(0, len(batches), each)
    ]
    for states in in_order(_read_shard, shards):
        yield from states


_open_here = threading.Lock()
"""A cluster's process may have several threads; they take turns with its model."""


def _read_shard(shard: _Shard) -> list[tuple[F32, F32]]:
    """In another process."""
    with _open_here:
        try:
            context = _context(shard.path, shard.placement, shard.extra_kernels, shard.n_threads, shard.settings)
        except FsLocalError as error:
            raise ModelError(f"on {platform.node()}: {error}") from None
        if context.model.build != shard.build:
            raise ModelError(
                f"on {platform.node()}, {shard.path} is another file, or another llama.cpp or processor computes it, so states would differ; "
                "use the same file, llama-cpp-python and kind of machine everywhere"
            )
        return [
            _read_batch(context, _Batch(batch), shard.settings.layers, shard.settings.readings)
            for batch in shard.batches
        ]


@functools.lru_cache(maxsize=1)
def _model(path: Path, placement: Placement, extra_kernels: bool) -> Model:
    return Model.load(path, placement=placement, extra_kernels=extra_kernels)


@functools.lru_cache(maxsize=1)
def _context(
    path: Path, placement: Placement, extra_kernels: bool, n_threads: int | None, settings: _Settings
) -> Context:
    """What a process keeps open between its shards."""
    model = _model(path, placement, extra_kernels)
    return Context(model, n_ctx=settings.size, n_ubatch=settings.size, n_seq=settings.n_seq, n_threads=n_threads)


def _read_batch(
    context: Context, batch: _Batch, layers: tuple[int, ...], readings: Sequence[Reading]
) -> tuple[F32, F32]:
    """States of a batch's queries and of its answers, (queries × R, L, d) and (answers, L, d)."""
    model = context.model
    queries, answers = (
        np.full((n, len(layers), model.width), np.nan, dtype=np.float32)
        for n in (len(batch.query_rows) * len(readings), len(batch.answer_rows))
    )
    # the last block evaluates only rows that have outputs
    output = layers[-1] == model.n_layer - 1
    with context.hooked(layers, batch.reader(layers, readings, queries, answers)):
        context.decode_batch(batch.tokens, batch.positions, batch.sequences, [output] * len(batch.tokens))
    if not context.stopped_early:
        raise ModelError(
            f"the graph of {model.path.name} ({model.architecture}) has no tensor l_out-{layers[-1]} in this llama.cpp; it can't be steered"
        )
    context.clear()
    for name, array in (("query", queries), ("answer", answers)):
        if not np.isfinite(array).all():
            raise FitError(
                f"a captured {name} state is not finite (NaN or infinite); the model file may be damaged, or its quantization broken"
            )
    return queries, answers


class _InMemory:
    """What `ResumeFile` is on disk."""

    done = 0

    def __init__(self, spans: Sequence[Sequence[RowSpan]], shape: tuple[int, int]) -> None:
        self._rows = np.empty((spans[-1][-1][1], *shape), dtype=np.float32)
        self._spans = iter(spans)

    def put(self, rows: Sequence[F32]) -> None:
        for (first, stop), part in zip(next(self._spans), rows, strict=True):
            self._rows[first:stop] = part

    def map(self) -> F32:
        return self._rows


def _rows(
    model: Model,
    requests: Sequence[Request],
    layers: tuple[int, ...],
    readings: Sequence[Reading],
    batches: Sequence[RowSpan],
    spans: Sequence[Sequence[RowSpan]],
    store: Path | None,
) -> AbstractContextManager[ResumeFile | _InMemory]:
    if store is None:
        return nullcontext(_InMemory(spans, (len(layers), model.width)))
    return ResumeFile(store, _what(model, requests, layers, readings, batches), spans)


def tokens_left(
    model: Model, requests: Sequence[Request], layers: Sequence[int], store: Path | None, readings: Sequence[Reading]
) -> int:
    """How many tokens a `capture` of the same arguments would still have to read."""
    batches = _planned(model, requests)[0]
    what = _what(model, requests, tuple(sorted(set(layers))), readings, batches)
    done = batches_done(store, what) if store is not None else 0
    return sum(len(_Batch(requests[first:last]).tokens) for first, last in batches[done:])


def _planned(model: Model, requests: Sequence[Request]) -> tuple[list[RowSpan], int, int]:
    """Where batches begin and end, and the tokens and sequences that the largest may have."""
    if not requests:
        raise DataError("there is nothing to capture: the data set is empty")
    for i, r in enumerate(requests):
        if (n := len(r.prompt) + max((len(a) for a in r.answers), default=0)) > model.n_ctx_train:
            raise DataError(
                f"example {i + 1} has {n} tokens, more than the model's context of {model.n_ctx_train}; shorten it"
            )
    size = max(MICRO_BATCH, *(_own_tokens(r, 0) for r in requests))
    n_seq = max(MAX_SEQUENCES, *(len(r.answers) for r in requests))
    return list(_batches(requests, size, n_seq)), size, n_seq


def _what(
    model: Model,
    requests: Sequence[Request],
    layers: tuple[int, ...],
    readings: Sequence[Reading],
    batches: Sequence[RowSpan],
) -> Captures:
    digest = hashlib.sha256()
    for r in requests:
        for tokens in (r.prompt, r.user_text, *r.answers, ()):  # the empty one ends a request
            digest.update(np.array([len(tokens), *tokens], dtype="<i4").tobytes())
    digest.update(np.array(batches, dtype="<i4").tobytes() + " ".join(readings).encode())
    return Captures(model.build, layers, len(requests), digest.hexdigest(), len(batches), len(layers) * model.width)


class _Batch:
    """The tokens of some requests, with the rows where their states will stand."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.sequences: list[tuple[int, ...]] = []
        self.query_rows: list[dict[Reading, list[int]]] = []
        self.answer_rows: list[RowSpan] = []
        seq = 0
        before, at = requests[0].prompt, list[int]()
        for r in requests:
            own = tuple(range(seq, seq + max(1, len(r.answers))))
            seq += len(own)
            at = at[: shared_prefix(before, r.prompt)] if at else at
            for i in at:
                self.sequences[i] += own
            before = r.prompt
            at = [*at, *self._append(r.prompt[len(at) :], len(at), own)]
            start, stop = r.user_text
            self.query_rows.append(
                {"last": at[-1:], "user_last": at[stop - 1 : stop], "user_mean": at[start:stop], "mean": at}
            )
            for s, answer in zip(own, r.answers, strict=False):
                rows = self._append(answer, len(r.prompt), (s,))
                self.answer_rows.append((rows.start, rows.stop))

    def reader(self, layers: tuple[int, ...], readings: Sequence[Reading], queries: F32, answers: F32) -> Hook:
        """A hook that fills `queries` (queries × R, L, d) and `answers` (answers, L, d), and ends the graph after the last layer."""

        def read(states: LayerStates) -> bool:
            rows, at = states.read(), layers.index(states.layer)
            wanted = (of[reading] for of in self.query_rows for reading in readings)
            for i, some in enumerate(wanted):
                queries[i, at] = mean_of(rows[some])
            for i, (start, stop) in enumerate(self.answer_rows):
                answers[i, at] = rows[start:stop].mean(axis=0)
            return states.layer != layers[-1]

        return read

    def _append(self, tokens: list[int], position: int, sequences: tuple[int, ...]) -> range:
        """Adds tokens of some sequences; returns their rows."""
        rows = range(len(self.tokens), len(self.tokens) + len(tokens))
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))
        self.sequences += [sequences] * len(tokens)
        return rows


def shared_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with, leaving `other` at least its last."""
    most = min(len(one), len(other) - 1)
    return next((i for i in range(most) if one[i] != other[i]), most)


def _own_tokens(r: Request, shared: int) -> int:
    return len(r.prompt) - shared + sum(len(a) for a in r.answers)


def _batches(requests: Sequence[Request], size: int, n_seq: int) -> Iterator[tuple[int, int]]:
    """Where batches begin and end: each has at most so many tokens and sequences."""
    first, tokens, sequences = 0, 0, 0
    for i, r in enumerate(requests):
        shared = shared_prefix(requests[i - 1].prompt, r.prompt) if i > first else 0
        n, s = _own_tokens(r, shared), max(1, len(r.answers))
        if i > first and (tokens + n > size or sequences + s > n_seq):
            yield first, i
            first, tokens, sequences, n = i, 0, 0, _own_tokens(r, 0)
        tokens, sequences = tokens + n, sequences + s
    yield first, len(requests)
