"""States of queries and answers, read from the model in batches that end early.

A batch is one decode: many sequences side by side. Tokens that several of them share (the chat template's opening, a query with
several answers) are evaluated once, as members of all of them. The graph ends after the last layer that is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fs_local.errors import DataError, FitError, ModelError
from fs_local.examples import Query
from fs_local.runtime.context import F32, MICRO_BATCH, Context, Hook, LayerStates
from fs_local.runtime.model import Model

MAX_SEQUENCES = 64

Progress = Callable[[int, int], None]
"""Called with (done, total) requests."""


@dataclass(frozen=True)
class Request:
    """Tokens of a prompt, and of the answers to follow it, each in a sequence of its own."""

    prompt: list[int]
    answers: tuple[list[int], ...] = ()


@dataclass(frozen=True)
class Captured:
    """States of requests, in their order.

    Attributes:
        layers: the L layers that were read.
        queries: state of each prompt's last token, float32, (n, L, d).
        answers: mean state of each answer's tokens, float32, (n, answers, L, d) as a list over requests.
    """

    layers: tuple[int, ...]
    queries: F32
    answers: list[F32]

    def at(self, layer: int) -> F32:
        """Query states at one layer, (n, d)."""
        return self.queries[:, self.layers.index(layer)]


def query_request(model: Model, query: Query, answers: Sequence[str] = ()) -> Request:
    """Tokenizes a query by the model's chat template, and answers as they would follow it."""
    opening = "" if model.template.source else "\n\n"
    return Request(
        model.prompt_tokens(list(query.messages)), tuple(model.tokenize(opening + a, special=False) for a in answers)
    )


def capture(
    model: Model, requests: Sequence[Request], layers: Sequence[int], progress: Progress | None = None
) -> Captured:
    """Reads states at several layers.

    Raises:
        DataError: no requests, or one that is longer than the model's context.
        FitError: a state that is not finite.
        ModelError: a layer out of range.
    """
    if not requests:
        raise DataError("there is nothing to capture: the data set is empty")
    layers = tuple(sorted(set(layers)))
    shared = _shared_prefix([r.prompt for r in requests])
    longest = shared + max(_own_tokens(r, shared) for r in requests)
    for i, r in enumerate(requests):
        if (n := len(r.prompt) + max((len(a) for a in r.answers), default=0)) > model.n_ctx_train:
            raise DataError(
                f"example {i + 1} has {n} tokens, more than the model's context of {model.n_ctx_train}; shorten it"
            )
    size = max(MICRO_BATCH, longest)
    queries = np.full((len(requests), len(layers), model.width), np.nan, dtype=np.float32)
    answers = [np.full((len(r.answers), len(layers), model.width), np.nan, dtype=np.float32) for r in requests]
    n_seq = max(MAX_SEQUENCES, max(len(r.answers) for r in requests))
    with Context(model, n_ctx=size, n_ubatch=size, n_seq=n_seq) as context:
        for first, last in _batches(requests, shared, size, n_seq):
            batch = _Batch(requests[first:last], shared)
            read = batch.reader(layers, queries[first:last], answers[first:last])
            # the last block evaluates only rows that have outputs
            output = layers[-1] == model.n_layer - 1
            with context.hooked(layers, read):
                context.decode_batch(batch.tokens, batch.positions, batch.sequences, [output] * len(batch.tokens))
            if not context.stopped_early:
                raise ModelError(
                    f"the graph of {model.path.name} ({model.architecture}) has no tensor l_out-{layers[-1]} in this llama.cpp; it can't be steered"
                )
            context.clear()
            if progress is not None:
                progress(last, len(requests))
    for name, array in [("query", queries)] + [("answer", a) for a in answers]:
        if not np.isfinite(array).all():
            raise FitError(
                f"a captured {name} state is not finite (NaN or infinite); the model file may be damaged, or its quantization broken"
            )
    return Captured(layers, queries, answers)


class _Batch:
    """The tokens of some requests, with the rows where their states will stand."""

    def __init__(self, requests: Sequence[Request], shared: int) -> None:
        n_seq = sum(max(1, len(r.answers)) for r in requests)
        everyone = tuple(range(n_seq))
        self.tokens: list[int] = list(requests[0].prompt[:shared])
        self.positions: list[int] = list(range(shared))
        self.sequences: list[tuple[int, ...]] = [everyone] * shared
        self.query_rows: list[int] = []
        self.answer_rows: list[list[tuple[int, int]]] = []
        seq = 0
        for r in requests:
            own = tuple(range(seq, seq + max(1, len(r.answers))))
            seq += len(own)
            self._append(r.prompt[shared:], shared, own)
            self.query_rows.append(len(self.tokens) - 1)
            spans = []
            for s, answer in zip(own, r.answers, strict=False):
                start = len(self.tokens)
                self._append(answer, len(r.prompt), (s,))
                spans.append((start, len(self.tokens)))
            self.answer_rows.append(spans)

    def reader(self, layers: tuple[int, ...], queries: F32, answers: list[F32]) -> Hook:
        """A hook that fills `queries` (requests, L, d) and `answers` (L, d each), and ends the graph after the last layer."""

        def read(states: LayerStates) -> bool:
            rows, at = states.read(), layers.index(states.layer)
            for i, (end, spans) in enumerate(zip(self.query_rows, self.answer_rows, strict=True)):
                queries[i, at] = rows[end]
                for j, (start, stop) in enumerate(spans):
                    answers[i][j, at] = rows[start:stop].mean(axis=0)
            return states.layer != layers[-1]

        return read

    def _append(self, tokens: list[int], position: int, sequences: tuple[int, ...]) -> None:
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))
        self.sequences += [sequences] * len(tokens)


def _shared_prefix(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least its last."""
    low, high = min(prompts), max(prompts)
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return min(n, min(len(p) for p in prompts) - 1)


def _own_tokens(r: Request, shared: int) -> int:
    return len(r.prompt) - shared + sum(len(a) for a in r.answers)


def _batches(requests: Sequence[Request], shared: int, size: int, n_seq: int) -> Iterator[tuple[int, int]]:
    first, tokens, sequences = 0, shared, 0
    for i, r in enumerate(requests):
        n, s = _own_tokens(r, shared), max(1, len(r.answers))
        if i > first and (tokens + n > size or sequences + s > n_seq):
            yield first, i
            first, tokens, sequences = i, shared, 0
        tokens, sequences = tokens + n, sequences + s
    yield first, len(requests)
