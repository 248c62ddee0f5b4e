"""Evaluates queries under packs, each query with its own decision; keeps what it has done in a store."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fs_local.arrays import F32
from fs_local.capture import Request, query_request
from fs_local.choices import Scope
from fs_local.engine import Decision, Engine, Piece, Prompt, Sampling, Steer
from fs_local.engine import Request as EngineRequest
from fs_local.errors import DataError
from fs_local.examples import Query
from fs_local.pack.file import Pack
from fs_local.progress import Progress, untold
from fs_local.runtime.context import DEFAULT_CTX
from fs_local.runtime.model import Model
from fs_local.store import Store, digest

Additions = Mapping[int, F32]
"""What a sequence is steered by: layer -> float32 (d,); empty for nothing."""
AT_ONCE = 16
_GROUP = 64
_WITH_LOGITS = 4
"""Requests whose whole logits are in memory together."""


@dataclass(frozen=True)
class KeptDecision:
    """A query's opening, what it is steered by (layer -> float32 (d,), empty where the gate is closed), and the gate's score."""

    opening: float
    additions: Additions
    score: float = 0.0


@dataclass(frozen=True)
class Answer:
    """A greedy answer: its text, its tokens, and its mean log-probability per token under the unsteered model (nats).

    An answer without a token is as probable as ending at once.
    """

    text: str
    tokens: tuple[int, ...]
    log_probability: float


@dataclass(frozen=True)
class AskedOtherwise(Request):
    """A request as a contender asks it, for `Runner.drift`: `plain` is the same without the contender, with the same answers."""

    plain: Request | None = None


class Runner:
    """Runs one model, by an engine of its own, which opens with the first thing that is asked and closes with the runner.

    Args:
        store: where results are kept; None keeps them as long as the runner.
        progress: told of every batch.
    """

    def __init__(self, model: Model, store: Store | None = None, progress: Progress | None = None) -> None:
        self.model = model
        self._store = store or Store()
        self._report = progress or untold
        self._engine: Engine | None = None
        self._decisions: dict[tuple[str, str], Decision] = {}

    def requests(self, queries: Sequence[Query], answers: Sequence[Sequence[str]] = ()) -> list[Request]:
        return [query_request(self.model, q, answers[i] if answers else ()) for i, q in enumerate(queries)]

    def decide(self, pack: Pack | None, requests: Sequence[Request]) -> list[KeptDecision]:
        """What each query gets from a pack; without a pack, nothing.

        Raises:
            DataError: a query that is longer than the model's context.
        """
        if pack is None:
            return [KeptDecision(0.0, {})] * len(requests)
        strength = pack.manifest.steer.strength
        # decided once, whatever the strength
        of_pack = digest(pack.with_strength(1.0).manifest.model_dump(mode="json"))
        keys = [(of_pack, digest(r.prompt, list(r.user_text))) for r in requests]
        missing = {key: r for key, r in zip(keys, requests, strict=True) if key not in self._decisions}
        if missing:
            engine = self._engine_for(list(missing.values()))
            engine.set_packs([pack])
            asked = [EngineRequest(_prompt(r), max_tokens=0) for r in missing.values()]
            for first in range(0, len(asked), _GROUP):
                group = list(missing)[first : first + _GROUP]
                engine.forget()  # the same bits whatever was evaluated before, or found in the store
                for key, piece in zip(group, _last_pieces(engine, asked[first : first + _GROUP]), strict=True):
                    (self._decisions[key],) = piece.decisions
                self._report("decide", first + len(group), len(missing))
        decided = []
        for key in keys:
            d = replace(self._decisions[key], strength=strength)
            additions = dict(zip(d.layers, d.addition, strict=True)) if d.is_open else {}
            decided.append(KeptDecision(d.opening, additions, d.score))
        return decided

    def answers(
        self,
        requests: Sequence[Request],
        decided: Sequence[KeptDecision],
        max_tokens: int,
        scope: Scope = "all",
        what: str = "answer",
    ) -> list[Answer]:
        """Greedy answers, with their log-probability under the unsteered model. Equal queries with equal decisions are answered once."""

        def compute(engine: Engine, some: list[Request], additions: list[Additions]) -> list[dict[str, Any]]:
            asked = [
                EngineRequest(
                    _prompt(r),
                    Sampling.greedy(),
                    max_tokens,
                    steer=_given(a, scope),
                    logprobs=None if a else 0,  # what is drawn unsteered has its log-probability already
                )
                for r, a in zip(some, additions, strict=True)
            ]
            drawn = [
                (tuple(t for p in pieces for t in p.tokens), [x.logprob for p in pieces for x in p.logprobs])
                for pieces in _pieces(engine, asked)
            ]
            again: dict[tuple[int, ...], list[int]] = {}  # rows of each prompt, which is read once for all of them
            for i, (tokens, _) in enumerate(drawn):
                if additions[i] or not tokens:
                    again.setdefault(tuple(some[i].prompt), []).append(i)
            ends = [(t,) for t in self.model.end_tokens]
            said = {i: [tokens] if tokens else ends for i, (tokens, _) in enumerate(drawn)}
            spoken = [
                EngineRequest(_prompt(some[rows[0]]), answers=tuple(a for i in rows for a in said[i]))
                for rows in again.values()
            ]
            values: dict[int, F32] = {}
            for rows, piece in zip(again.values(), _last_pieces(engine, spoken), strict=True):
                scores = iter(piece.scores)
                values |= {i: max(itertools.islice(scores, len(said[i])), key=np.mean) for i in rows}
            return [
                {
                    "text": self.model.text(tokens),
                    "tokens": tokens,
                    "log_probability": float(np.mean(values.get(i, drawn_with))),
                }
                for i, (tokens, drawn_with) in enumerate(drawn)
            ]

        rows = self._each("greedy answer", requests, decided, [max_tokens], scope, what, compute, max_tokens)
        return [Answer(r["text"], tuple(r["tokens"]), r["log_probability"]) for r in rows]

    def scores(
        self, requests: Sequence[Request], decided: Sequence[KeptDecision], scope: Scope = "all", what: str = "score"
    ) -> list[list[list[float]]]:
        """Log-probability of each token of each answer of each request (nats)."""

        def compute(engine: Engine, some: list[Request], additions: list[Additions]) -> list[list[list[float]]]:
            asked = [_scored(r, a, scope) for r, a in zip(some, additions, strict=True)]
            return [[[float(x) for x in answer] for answer in piece.scores] for piece in _last_pieces(engine, asked)]

        return self._each("score", requests, decided, [], scope, what, compute)

    def drift(
        self, requests: Sequence[Request], decided: Sequence[KeptDecision], scope: Scope = "all", what: str = "drift"
    ) -> list[tuple[float, float]]:
        """For each request: mean KL(unsteered ‖ steered) of the next-token distributions over its answers' tokens (nats), and the
        share of tokens where both rank the same one first. Exactly (0, 1) where nothing is added.

        Args:
            requests: unsteered is what `AskedOtherwise.plain` says, where there is one.
        """

        def compute(engine: Engine, some: list[Request], additions: list[Additions]) -> list[tuple[float, float]]:
            found = []
            for first in range(0, len(some), _WITH_LOGITS):
                part = slice(first, first + _WITH_LOGITS)
                rows = list(zip(some[part], additions[part], strict=True))
                unsteered = _last_pieces(engine, [_scored(_plain(r), {}, scope, keep_logits=True) for r, _ in rows])
                opened = _last_pieces(engine, [_scored(r, a, scope, keep_logits=True) for r, a in rows])
                for plain, steered in zip(unsteered, opened, strict=True):
                    at_tokens = [
                        _divergence(p, q)
                        for x, y in zip(plain.logits, steered.logits, strict=True)
                        for p, q in zip(x, y, strict=True)
                    ]
                    found.append((float(np.mean([k for k, _ in at_tokens])), float(np.mean([t for _, t in at_tokens]))))
            return found

        open_rows = [
            i
            for i, (r, d) in enumerate(zip(requests, decided, strict=True))
            if d.additions or _plain(r).prompt != r.prompt
        ]
        opened = [requests[i] for i in open_rows], [decided[i] for i in open_rows]
        values = self._each("divergence", *opened, [], scope, what, compute)
        by_row = dict(zip(open_rows, values, strict=True))
        return [tuple(by_row.get(i, (0.0, 1.0))) for i in range(len(requests))]

    def _engine_for(self, requests: Sequence[Request], max_tokens: int = 0) -> Engine:
        """An engine that has room for each of these.

        Raises:
            DataError: a request that is longer than the model's context, by its row, from 1.
        """
        sizes = [len(r.prompt) + sum(len(a) for a in r.answers) for r in requests]
        for row, r in enumerate(requests, start=1):
            longest = len(r.prompt) + max((len(a) for a in r.answers), default=0)
            if longest >= self.model.n_ctx_train:
                raise DataError(
                    f"row {row} has {longest} tokens, more than the model's context of {self.model.n_ctx_train} has room for; shorten it"
                )
        wanted = max(DEFAULT_CTX, -(-(max(sizes) + max_tokens + 1) // 256) * 256)
        if self._engine is None or self._engine.n_ctx < wanted:
            if self._engine is not None:
                self._engine.close()
            self._engine = Engine(self.model, n_ctx=wanted, n_seq=AT_ONCE)
        return self._engine

    def _each(
        self,
        kind: str,
        requests: Sequence[Request],
        decided: Sequence[KeptDecision],
        settings: list[object],
        scope: Scope,
        what: str,
        compute: Callable[[Engine, list[Request], list[Additions]], list[Any]],
        max_tokens: int = 0,
    ) -> list[Any]:
        """Results of rows, from the store where they are there; else computed in groups of similar length, and kept.

        Groups are the same whatever is there already: what stands beside a sequence in a batch moves its last bits.

        Raises:
            DataError: before anything is evaluated, if a row is longer than the model's context.
        """
        if not requests:
            return []
        engine = self._engine_for(requests, max_tokens)
        keys = [
            digest(
                kind,
                [r.prompt, *([] if _plain(r) is r else [_plain(r).prompt])],
                r.answers,
                # where nothing is added, it makes no difference where it would be: unsteered rows are evaluated once
                [*settings, scope if d.additions else "all", *([r.turn_start] if scope == "turn" else [])],
                [[k, v.tobytes().hex()] for k, v in sorted(d.additions.items())],
            )
            for r, d in zip(requests, decided, strict=True)
        ]
        known = self._store.find(keys)
        first_rows = {k: i for i, k in reversed(list(enumerate(keys)))}
        order = sorted(first_rows.values(), key=lambda i: (bool(decided[i].additions), len(requests[i].prompt), i))
        groups: list[list[int]] = []
        for _, rows in itertools.groupby(order, key=lambda i: bool(decided[i].additions)):
            alike = list(rows)
            groups += [alike[first : first + _GROUP] for first in range(0, len(alike), _GROUP)]
        missing = [group for group in groups if any(keys[i] not in known for i in group)]
        done = len(order) - sum(map(len, missing))
        for group in missing:
            engine.forget()
            computed = compute(engine, [requests[i] for i in group], [decided[i].additions for i in group])
            new = {keys[i]: result for i, result in zip(group, computed, strict=True) if keys[i] not in known}
            self._store.put(new)
            known |= new
            done += len(group)
            self._report(what, done, len(order))
        return [known[k] for k in keys]


def _plain(r: Request) -> Request:
    return r.plain if isinstance(r, AskedOtherwise) and r.plain is not None else r


def _prompt(r: Request) -> Prompt:
    return Prompt(tuple(r.prompt), r.user_text, r.turn_start)


def _given(additions: Additions, scope: Scope) -> Steer:
    return Steer(given=(Decision.of_vectors(additions, scope),)) if additions else Steer(enabled=False)


def _scored(r: Request, additions: Additions, scope: Scope, keep_logits: bool = False) -> EngineRequest:
    return EngineRequest(
        _prompt(r),
        steer=_given(additions, scope),
        answers=tuple(tuple(a) for a in r.answers),
        keep_logits=keep_logits,
    )


def _pieces(engine: Engine, asked: Sequence[EngineRequest]) -> list[list[Piece]]:
    """All pieces of the answer to each request."""
    streams = engine.submit_all(asked)
    try:
        return [list(stream) for stream in streams]
    finally:
        for stream in streams:
            stream.close()


def _last_pieces(engine: Engine, asked: Sequence[EngineRequest]) -> list[Piece]:
    return [pieces[-1] for pieces in _pieces(engine, asked)]


def _divergence(plain: F32, steered: F32) -> tuple[float, float]:
    p, q = (x.astype(np.float64) - x.max() for x in (plain, steered))
    p, q = p - np.log(np.exp(p).sum()), q - np.log(np.exp(q).sum())
    return float((np.exp(p) * (p - q)).sum()), float(plain.argmax() == steered.argmax())
