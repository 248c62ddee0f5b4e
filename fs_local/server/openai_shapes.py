"""What OpenAI's answers have in common: usage, log probabilities, ends, identifiers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from fs_local.server.backend import Backend
from fs_local.server.operation import Watch
from fs_local.server.shape import EngineLike, Piece, TokenLogprob
from fs_local.server.steering import Asked


@dataclass(frozen=True)
class Call:
    """What all chunks of a call's answers have in common.

    Attributes:
        head: fields of each chunk. top: alternatives a token; None for no log-probabilities. with_usage: whether a last chunk tells it.
    """

    backend: Backend
    watch: Watch
    asked: Asked
    head: dict[str, Any]
    top: int | None
    with_usage: bool

    @property
    def unused(self) -> dict[str, None]:
        """What chunks before the usage say of it."""
        return {"usage": None} if self.with_usage else {}


def new_id(kind: str) -> str:
    """An identifier that no other answer has."""
    return f"{kind}-{uuid.uuid4().hex}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def fingerprint(backend: Backend, engine: EngineLike) -> str:
    """Of the weights: with it, a seed and the same packs, answers are the same."""
    return f"fp_{engine.model.fingerprint}"


def finish_reason(piece: Piece) -> str | None:
    """OpenAI's word for why an answer ended."""
    reason = piece.finish_reason
    return {"stop_string": "stop", "context": "length"}.get(reason, reason) if reason else None


def usage(ends: Iterable[Piece], prompts: int = 1) -> dict[str, Any]:
    """Tokens of these answers. A prompt counts once, however many answers it got."""
    ends = list(ends)
    each = max(1, len(ends) // prompts)
    prompt = sum(end.prompt_tokens for end in ends[::each])
    cached = sum(end.cached_tokens for end in ends[::each])
    generated = sum(end.generated_tokens for end in ends)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def chat_logprobs(logprobs: Sequence[TokenLogprob], top: int) -> dict[str, Any]:
    """The `logprobs` of a chat choice."""
    return {"content": [_logprob(x, top) for x in logprobs], "refusal": None}


def _logprob(entry: TokenLogprob, top: int) -> dict[str, Any]:
    others = [_token(text, logprob) for _, text, logprob in entry.top[:top]]
    return {**_token(entry.text, entry.logprob), "top_logprobs": others}


def _token(text: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _shown(text), "logprob": _finite(logprob), "bytes": list(text)}


def completion_logprobs(logprobs: Sequence[TokenLogprob], top: int, offset: int = 0) -> dict[str, Any]:
    """The `logprobs` of a plain completion. `offset`: characters before it."""
    texts = [_shown(x.text) for x in logprobs]
    return {
        "tokens": texts,
        "token_logprobs": [_finite(x.logprob) for x in logprobs],
        "top_logprobs": [{_shown(text): _finite(p) for _, text, p in x.top[:top]} for x in logprobs],
        "text_offset": list(accumulate(map(len, texts[:-1]), initial=offset)) if texts else [],
    }


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _finite(logprob: float) -> float:
    """JSON has no minus infinity; OpenAI says -9999."""
    return max(float(logprob), -9999.0)
