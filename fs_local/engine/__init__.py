"""Stand-in for the engine's words, until the engine itself is merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fs_local.errors import FsLocalError
from fs_local.runtime.prompt import Prompt

TokenMask = Callable[[Sequence[int]], "bytes | None"]


class EngineFull(FsLocalError):
    """More requests wait than the engine takes."""


@dataclass(frozen=True)
class Sampling:
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def greedy(cls) -> Sampling:
        return replace(cls(), temperature=0.0, repeat_penalty=1.0)

    @classmethod
    def for_model(cls, model: Any) -> Sampling:
        return cls()


@dataclass(frozen=True)
class Steer:
    enabled: bool = True
    strengths: Mapping[str, float] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()
    exact: bool = False


@dataclass(frozen=True)
class Request:
    prompt: Prompt
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    steer: Steer = field(default_factory=Steer)
    logprobs: int | None = None
    answers: tuple[tuple[int, ...], ...] = ()
    mask: TokenMask | None = None
    priority: int = 0
