"""What is asked of the engine, and what it gives: plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fs_local.arrays import F32
from fs_local.engine.decision import Decision
from fs_local.errors import FsLocalError
from fs_local.runtime.prompt import Prompt
from fs_local.runtime.sampling import Sampling

FinishReason = Literal["stop", "stop_string", "length", "context", "cancelled"]
TokenMask = Callable[[Sequence[int]], "bytes | None"]
"""Constrained decoding: called with the answer's tokens so far, gives which tokens may come next, or None for all. Bit `t % 8` of byte
`t // 8`, counted from the lowest, is token t's; tokens behind the mask's end may not come."""


@dataclass(frozen=True)
class Steer:
    """What a request says of steering; it changes nothing for others.

    Attributes:
        enabled: False for the model as it is.
        strengths: λ by the pack's name, in place of the pack's own.
        disabled: packs that stay out.
        exact: answered alone, from an empty cache: tokens too have the bits that they have whatever is asked before and beside.
        given: decisions in place of the packs' own; nothing is decided then.
    """

    enabled: bool = True
    strengths: Mapping[str, float] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()
    exact: bool = False
    given: tuple[Decision, ...] | None = None


@dataclass(frozen=True)
class Request:
    """One answer to be generated, or some given answers to be scored.

    Attributes:
        prompt: what to answer.
        sampling: how tokens are drawn.
        max_tokens: most tokens of the answer; None for as many as the context holds. 0 for the decisions alone.
        stop: texts that end the answer; they are not part of it.
        steer: what steers it.
        logprobs: with each token, its log-probability under the model before sampling, and so many alternatives; None for neither.
        answers: given answers, whose tokens are scored; nothing is drawn then.
        keep_logits: whether scores come with the whole logits that predict each token.
        mask: constrains what is drawn.
        priority: the higher is served first, and evicted last.

    Raises:
        FsLocalError: a number out of its range, an empty prompt or an empty stop string.
    """

    prompt: Prompt
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    steer: Steer = field(default_factory=Steer)
    logprobs: int | None = None
    answers: tuple[tuple[int, ...], ...] = ()
    keep_logits: bool = False
    mask: TokenMask | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        n, user = len(self.prompt.tokens), self.prompt.user
        for ok, what in (
            (n, "the query is empty; give it at least one token"),
            (0 <= user.start < user.stop <= n, "the user's text is not within the prompt"),
            (0 <= self.prompt.turn_start < max(n, 1), "the current turn does not begin within the prompt"),
            (self.max_tokens is None or self.max_tokens >= 0, "max-tokens must be 0 or more"),
            (all(self.stop), "a stop string must not be empty"),
            (self.logprobs is None or self.logprobs >= 0, "the number of alternatives must be 0 or more"),
        ):
            if not ok:
                raise FsLocalError(what)


@dataclass(frozen=True)
class TokenLogprob:
    """A token that was drawn: its bytes, its log-probability (nats), and the likeliest ones, (token, bytes, log-probability) each."""

    token: int
    text: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """A part of an answer as it comes.

    Attributes:
        text: whole characters only; empty on the last piece alone.
        tokens: that brought it.
        logprobs: of these tokens, where they were asked for.
        decisions: of the query, one a pack.
        prompt_tokens: of the prompt. cached_tokens: of these, not evaluated for this answer.
        prompt_seconds: from the submission to the first token, waiting included.
        generated_tokens, seconds: so far, without the prompt.
        seed: that tokens are drawn with.
        finish_reason: set on the last piece alone: `stop` (an end-of-generation token, or all that was asked is done), `stop_string`,
            `length` (max_tokens), `context` (it is full), or `cancelled`.
        scores: of each given answer, the log-probability (nats) of each token, float32, (tokens,).
        logits: of each given answer, where they are kept, float32, (tokens, n_vocab).
    """

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    decisions: list[Decision] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_seconds: float = 0.0
    generated_tokens: int = 0
    seconds: float = 0.0
    seed: int = 0
    finish_reason: FinishReason | None = None
    scores: tuple[F32, ...] = ()
    logits: tuple[F32, ...] = ()
