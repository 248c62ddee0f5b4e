"""What an answer is asked with, how the engine is asked for it, and what it is when it is whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fs_local.engine import (
    Decision,
    Engine,
    FinishReason,
    Piece,
    Prompt,
    Request,
    Sampling,
    Steer,
    Stream,
    TokenLogprob,
)
from fs_local.errors import FsLocalError

DEFAULT_MAX_TOKENS = 512


@dataclass(frozen=True)
class GenerationOptions:
    """How to answer.

    Attributes:
        max_tokens: most tokens of an answer.
        stop: texts that end the answer; they are not part of it.
        sampling: how tokens are drawn; None for what is usual: streams and conversations draw as the model's file recommends
            (`Sampling.for_model`), whole answers are greedy.
        logprobs: with each token, its log-probability and so many alternatives; None for neither.
    """

    max_tokens: int = DEFAULT_MAX_TOKENS
    stop: tuple[str, ...] = ()
    sampling: Sampling | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise FsLocalError("max-tokens must be 1 or more")
        if not all(self.stop):
            raise FsLocalError("a stop string must not be empty")


@dataclass(frozen=True)
class Completion:
    """A whole answer; the fields are those of `Piece`."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    decisions: list[Decision]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    prompt_seconds: float
    generated_tokens: int
    seconds: float
    seed: int

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Completion:
        """All pieces of one answer together."""
        found = list(pieces)
        last = found[-1]
        assert last.finish_reason is not None
        return cls(
            "".join(p.text for p in found),
            tuple(t for p in found for t in p.tokens),
            tuple(x for p in found for x in p.logprobs),
            last.decisions,
            last.finish_reason,
            last.prompt_tokens,
            last.cached_tokens,
            last.prompt_seconds,
            last.generated_tokens,
            last.seconds,
            last.seed,
        )


def submit(
    engine: Engine, prompt: Prompt, options: GenerationOptions | None, steered: bool | Steer, usual: Sampling
) -> Stream:
    """Asks the engine for an answer; `usual` is how tokens are drawn where the options do not say. Raises as `Engine.submit`."""
    options = options or GenerationOptions()
    return engine.submit(
        Request(
            prompt,
            sampling=options.sampling or usual,
            max_tokens=options.max_tokens,
            stop=options.stop,
            steer=steer_of(steered),
            logprobs=options.logprobs,
        )
    )


def steer_of(steered: bool | Steer) -> Steer:
    """True is all packs, False the model as it is."""
    return steered if isinstance(steered, Steer) else Steer(enabled=steered)
