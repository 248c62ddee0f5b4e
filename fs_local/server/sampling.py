"""How tokens are drawn, by each API's own defaults."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from fs_local.engine import Sampling
from fs_local.server.errors import ApiError
from fs_local.server.schemas_ollama import Options
from fs_local.server.schemas_openai import Biased, Sampled
from fs_local.server.shape import EngineLike

T = TypeVar("T", int, float)
_SEEDS = (1 << 32) - 1  # llama.cpp takes the last one for a random seed


def openai_sampling(engine: EngineLike, body: Sampled, index: int = 0) -> Sampling:
    """Of the answer with this index: the seed is another for each, and random where none is given."""
    top_p = _or(body.top_p, 1.0)
    return Sampling(
        temperature=_or(body.temperature, 1.0),
        top_k=1 if top_p == 0 else _or(body.top_k, 0),  # no share of the tokens: the likeliest
        top_p=top_p or 1.0,
        min_p=_or(body.min_p, 0.0),
        repeat_penalty=_or(body.repeat_penalty, 1.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        seed=None if body.seed is None else (body.seed + index) % _SEEDS,
        logit_bias=_biases(engine, body),
    )


def ollama_sampling(engine: EngineLike, options: Options) -> Sampling:
    """The model's own recommendation, but for what is given."""
    base = Sampling.for_model(engine.model)
    given = {
        name: value
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repeat_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
        if (value := getattr(options, name)) is not None
    }
    if given.get("top_p") == 0:
        given.update(top_p=1.0, top_k=1)
    seed = None if options.seed is None or options.seed < 0 else options.seed % _SEEDS
    return dataclasses.replace(base, seed=seed, **given)


def stops(stop: str | list[str] | None) -> tuple[str, ...]:
    """Texts that end an answer."""
    return () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _biases(engine: EngineLike, body: Sampled) -> dict[int, float]:
    given = (body.logit_bias or {}) if isinstance(body, Biased) else {}
    biases = {int(token): bias for token, bias in given.items()}
    if any(token >= engine.model.n_vocab for token in biases):
        raise ApiError(
            400, f"tokens are from 0 to {engine.model.n_vocab - 1}", param="logit_bias", code="invalid_value"
        )
    return biases
