"""What OpenAI's answers have in common: usage, log probabilities, ends, identifiers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from fs_local.server.backend import Backend
from fs_local.server.shape import EngineLike, Piece, TokenLogprob


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
    return {**_token(entry), "top_logprobs": [_token(other) for other in entry.top[:top]]}


def _token(entry: TokenLogprob) -> dict[str, Any]:
    return {
        "token": entry.text.decode("utf-8", "replace"),
        "logprob": max(float(entry.logprob), -9999.0),
        "bytes": list(entry.text),
    }


def completion_logprobs(logprobs: Sequence[TokenLogprob], top: int, offset: int = 0) -> dict[str, Any]:
    """The `logprobs` of a plain completion. `offset`: characters before it."""
    texts = [x.text.decode("utf-8", "replace") for x in logprobs]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [max(float(x.logprob), -9999.0) for x in logprobs],
        "top_logprobs": [
            {y.text.decode("utf-8", "replace"): max(float(y.logprob), -9999.0) for y in x.top[:top]} for x in logprobs
        ],
        "text_offset": offsets,
    }
