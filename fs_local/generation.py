"""Tokens one at a time, and the text they make."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fs_local.errors import ContextFullError, FsLocalError
from fs_local.method.readings import Span
from fs_local.runtime.context import Context
from fs_local.runtime.sampling import Sampler, SamplingOptions
from fs_local.steering import Decision, Steering

FinishReason = Literal["stop", "stop_string", "length", "context"]
DEFAULT_MAX_TOKENS = 512


@dataclass(frozen=True)
class GenerationOptions:
    """How to answer.

    Attributes:
        max_tokens: most tokens of an answer.
        stop: texts that end the answer; they are not part of it.
        sampling: how tokens are drawn.
    """

    max_tokens: int = DEFAULT_MAX_TOKENS
    stop: tuple[str, ...] = ()
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise FsLocalError("max-tokens must be 1 or more")
        if not all(self.stop):
            raise FsLocalError("a stop text must not be empty")


@dataclass(frozen=True)
class Piece:
    """A part of an answer as it comes.

    Attributes:
        text: whole characters only; may be empty.
        token: the token that brought it; None for what was held back to the end.
        decisions: of the query, one a pack.
        prompt_tokens: evaluated for this answer. prompt_seconds: that took, decisions included.
        generated_tokens, seconds: so far, without the prompt.
        finish_reason: set on the last piece alone: `stop` (an end-of-generation token), `stop_string`, `length` (max_tokens),
            or `context` (it is full).
    """

    text: str
    token: int | None
    decisions: list[Decision]
    prompt_tokens: int
    prompt_seconds: float
    generated_tokens: int
    seconds: float
    finish_reason: FinishReason | None = None


def stream_answer(
    context: Context,
    steering: Steering,
    tokens: Sequence[int],
    *,
    user: Span | None = None,
    start: int,
    seq: int,
    options: GenerationOptions,
) -> Iterator[Piece]:
    """Evaluates a prompt, steered where its gates open, and yields the answer; at least one piece, the last with a finish reason.

    The sequence then holds the prompt and the answer's tokens but the last. Steering ends with the iterator, however it ends.

    Args:
        tokens: of the prompt, as far as the sequence does not hold it yet; start: position of the first.
        user: the user's own text among these tokens; all of them where nobody said.
    """
    began = time.perf_counter()
    decisions = steering.prefill(context, tokens, user=user, start=start, seq=seq)
    model, position = context.model, start + len(tokens)
    text = TextStream(options.stop)
    prompted, n = time.perf_counter(), 0

    def piece(part: str, token: int | None, reason: FinishReason | None = None) -> Piece:
        return Piece(part, token, decisions, len(tokens), prompted - began, n, time.perf_counter() - prompted, reason)

    with Sampler(options.sampling, model.n_vocab) as sampler, steering.applied(context, decisions):
        while True:
            token = sampler.sample(context)
            if model.ends_generation(token):
                yield piece(text.flush(), None, "stop")
                return
            n += 1
            part = text.feed(model.piece(token))
            if text.stopped:
                yield piece(part, token, "stop_string")
                return
            if n == options.max_tokens or position + 1 >= context.n_ctx:
                yield piece(part + text.flush(), token, "length" if n == options.max_tokens else "context")
                return
            yield piece(part, token)
            try:
                context.decode([token], start=position, seq=seq)
            except ContextFullError:  # another sequence holds the rest
                yield piece(text.flush(), None, "context")
                return
            position += 1


class TextStream:
    """Turns the bytes of tokens into text: never half a character, and nothing of a stop text.

    Attributes:
        stopped: whether a stop text has come.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Text that is certain after these bytes; what may begin a stop text is held back."""
        self._held += self._decoder.decode(data)
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            return self._take(min(found), drop_rest=True)
        return self._take(len(self._held) - self._possible_stop())

    def flush(self) -> str:
        """What was held back, when nothing more comes."""
        self._held += self._decoder.decode(b"", final=True)
        return self._take(len(self._held))

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop text."""
        return max((n for s in self._stop for n in range(1, len(s)) if self._held.endswith(s[:n])), default=0)

    def _take(self, n: int, drop_rest: bool = False) -> str:
        text, self._held = self._held[:n], "" if drop_rest else self._held[n:]
        return text
