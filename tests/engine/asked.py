"""Prompts of random tokens, requests for their answers, and what is read of these."""

from __future__ import annotations

import random

from fs_local.engine import Piece, Prompt, Request, Sampling, Span, Stream


def prompt_of(n: int, seed: int = 0, user: int = 8) -> Prompt:
    rng = random.Random(f"{n} {seed}")
    return Prompt(tuple(rng.randrange(4, 250) for _ in range(n)), Span(max(0, n - user), n), max(0, n - user - 1))


def asked(prompt: Prompt, n: int | None = 6, **more: object) -> Request:
    return Request(prompt, **{"sampling": Sampling.greedy(), "max_tokens": n, **more})  # type: ignore[arg-type]


def text(stream: Stream) -> str:
    return "".join(p.text for p in stream)


def last(stream: Stream) -> Piece:
    return list(stream)[-1]
