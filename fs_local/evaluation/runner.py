"""Evaluates queries under packs, in batches, each query with its own decision; keeps what it has done in a store."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fs_local.batch import MAX_SEQUENCES, Additions, Batch, check_lengths
from fs_local.capture import Request, capture, query_request
from fs_local.examples import Query
from fs_local.method.folded import F32
from fs_local.method.readings import Reading
from fs_local.pack.file import Pack
from fs_local.runtime.model import Model
from fs_local.store import Store, digest

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


@dataclass(frozen=True)
class Decided:
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


class Runner:
    """Runs one model.

    Args:
        store: where results are kept; None keeps them as long as the runner.
        progress: told of every batch.
    """

    def __init__(self, model: Model, store: Store | None = None, progress: Progress | None = None) -> None:
        self.model = model
        self._store = store or Store()
        self._report = progress or (lambda _what, _done, _total: None)
        self._states: dict[tuple[str, int, Reading], F32] = {}

    def requests(self, queries: Sequence[Query], answers: Sequence[Sequence[str]] = ()) -> list[Request]:
        return [query_request(self.model, q, answers[i] if answers else ()) for i, q in enumerate(queries)]

    def decide(self, pack: Pack | None, requests: Sequence[Request]) -> list[Decided]:
        """What each query gets from a pack; without a pack, nothing."""
        if pack is None:
            return [Decided(0.0, {})] * len(requests)
        gate, steer = pack.manifest.gate, pack.manifest.steer
        wanted = [(layer, reading) for layer in gate.layers for reading in gate.readings]
        states = self._capture(requests, [*wanted, (steer.layers[0], "last")])
        at_gate = np.concatenate(states[:-1], axis=1)
        openings, scores = pack.gate.opening(at_gate), pack.gate.score(at_gate)
        vectors = pack.experts.vector(states[-1])
        parts = vectors.reshape(len(requests), len(steer.layers), -1)
        decided = []
        for opening, score, part in zip(openings, scores, parts, strict=True):
            scale = np.float32(steer.strength * float(opening))
            additions = dict(zip(steer.layers, scale * part, strict=True)) if scale != 0 else {}
            decided.append(Decided(float(opening), additions, float(score)))
        return decided

    def _capture(self, requests: Sequence[Request], wanted: Sequence[tuple[int, Reading]]) -> list[F32]:
        """States (n, d) of each reading at a layer; what was read before for the same prompts is not read again."""
        key = digest([[r.prompt, r.user_text] for r in requests])
        missing = [at for at in wanted if (key, *at) not in self._states]
        if missing:
            prompts = [Request(r.prompt, user=r.user) for r in requests]
            layers, readings = sorted({layer for layer, _ in missing}), sorted({reading for _, reading in missing})
            report = self._report
            found = capture(
                self.model, prompts, layers, lambda done, total: report("decide", done, total), readings=readings
            )
            for layer in layers:
                for reading in readings:
                    self._states[key, layer, reading] = found.at(layer, reading)
        return [self._states[(key, *at)] for at in wanted]

    def answers(
        self,
        requests: Sequence[Request],
        decided: Sequence[Decided],
        max_tokens: int,
        prompt_too: bool = True,
        what: str = "answer",
    ) -> list[Answer]:
        """Greedy answers, with their log-probability under the unsteered model. Equal queries with equal decisions are answered once."""

        def compute(some: list[Request], additions: list[Additions]) -> list[dict[str, Any]]:
            with Batch.for_requests(self.model, some, max_tokens, prompt_too) as batch:
                drawn = batch.generate([r.prompt for r in some], additions, max_tokens)
                # what was drawn unsteered has its log-probability already
                again = [i for i, (tokens, _) in enumerate(drawn) if additions[i] or not tokens]
                spoken = [(drawn[i][0],) if drawn[i][0] else tuple([t] for t in self.model.end_tokens) for i in again]
                scored = batch.score([Request(some[i].prompt, s) for i, s in zip(again, spoken, strict=True)], None)
            values = {i: max(s, key=np.mean) for i, s in zip(again, scored, strict=True)}
            return [
                {
                    "text": self.model.text(tokens),
                    "tokens": tokens,
                    "log_probability": float(np.mean(values.get(i, drawn_with))),
                }
                for i, (tokens, drawn_with) in enumerate(drawn)
            ]

        rows = self._each("greedy answer", requests, decided, [max_tokens], prompt_too, what, compute)
        return [Answer(r["text"], tuple(r["tokens"]), r["log_probability"]) for r in rows]

    def scores(
        self, requests: Sequence[Request], decided: Sequence[Decided], prompt_too: bool = True, what: str = "score"
    ) -> list[list[list[float]]]:
        """Log-probability of each token of each answer of each request (nats)."""

        def compute(some: list[Request], additions: list[Additions]) -> list[list[list[float]]]:
            with Batch.for_requests(self.model, some, prompt_too=prompt_too) as batch:
                found = batch.score(some, additions)
            return [[[float(x) for x in answer] for answer in answers] for answers in found]

        return self._each("score", requests, decided, [], prompt_too, what, compute)

    def drift(
        self, requests: Sequence[Request], decided: Sequence[Decided], prompt_too: bool = True, what: str = "drift"
    ) -> list[tuple[float, float]]:
        """For each request: mean KL(unsteered ‖ steered) of the next-token distributions over its answers' tokens (nats), and the
        share of tokens where both rank the same one first. Exactly (0, 1) where nothing is added."""

        def compute(some: list[Request], additions: list[Additions]) -> list[tuple[float, float]]:
            with Batch.for_requests(self.model, some, prompt_too=prompt_too) as batch:
                plain = {at[:3]: at[3] for at in batch.logits(some, None)}
                found: list[list[tuple[float, float]]] = [[] for _ in some]
                for i, j, at, logits in batch.logits(some, additions):
                    found[i].append(_divergence(plain[i, j, at], logits))
            return [(float(np.mean([k for k, _ in f])), float(np.mean([t for _, t in f]))) for f in found]

        open_rows = [i for i, d in enumerate(decided) if d.additions]
        opened = [requests[i] for i in open_rows], [decided[i] for i in open_rows]
        values = self._each("divergence", *opened, [], prompt_too, what, compute)
        by_row = dict(zip(open_rows, values, strict=True))
        return [tuple(by_row.get(i, (0.0, 1.0))) for i in range(len(requests))]

    def _each(
        self,
        kind: str,
        requests: Sequence[Request],
        decided: Sequence[Decided],
        settings: list[object],
        prompt_too: bool,
        what: str,
        compute: Callable[[list[Request], list[Additions]], list[Any]],
    ) -> list[Any]:
        """Results of rows, from the store where they are there; else computed in groups of similar length, and kept.

        Groups are the same whatever is there already: what stands beside a sequence in a batch moves its last bits.

        Raises:
            DataError: before anything is evaluated, if a row is longer than the model's context or has too many answers.
        """
        check_lengths(self.model, requests)
        keys = [
            digest(
                kind,
                r.prompt,
                r.answers,
                # where nothing is added, it makes no difference where it would be: unsteered rows are evaluated once
                [*settings, prompt_too or not d.additions],
                [[k, v.tobytes().hex()] for k, v in sorted(d.additions.items())],
            )
            for r, d in zip(requests, decided, strict=True)
        ]
        known = {k: r for k in keys if (r := self._store.get(k)) is not None}
        first_rows = {k: i for i, k in reversed(list(enumerate(keys)))}
        order = sorted(first_rows.values(), key=lambda i: (bool(decided[i].additions), len(requests[i].prompt), i))
        groups: list[list[int]] = []
        for _, rows in itertools.groupby(order, key=lambda i: bool(decided[i].additions)):
            alike = list(rows)
            groups += [alike[first : first + MAX_SEQUENCES] for first in range(0, len(alike), MAX_SEQUENCES)]
        missing = [group for group in groups if any(keys[i] not in known for i in group)]
        done = len(order) - sum(map(len, missing))
        for group in missing:
            computed = compute([requests[i] for i in group], [decided[i].additions for i in group])
            for i, result in zip(group, computed, strict=True):
                if keys[i] not in known:
                    known[keys[i]] = result
                    self._store.put(keys[i], result)
            done += len(group)
            self._report(what, done, len(order))
        return [known[k] for k in keys]


def _divergence(plain: F32, steered: F32) -> tuple[float, float]:
    p, q = (x.astype(np.float64) - x.max() for x in (plain, steered))
    p, q = p - np.log(np.exp(p).sum()), q - np.log(np.exp(q).sum())
    return float((np.exp(p) * (p - q)).sum()), float(plain.argmax() == steered.argmax())
