"""What logits say: log-probabilities, alternatives, and what a mask leaves of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fs_local.arrays import F32
from fs_local.engine.requests import TokenLogprob
from fs_local.errors import FsLocalError

if TYPE_CHECKING:
    from fs_local.engine.vocabulary import Vocabulary


def log_probability(logits: F32, token: int) -> float:
    """Log-probability of a token, nats. logits: float32, (n_vocab,)."""
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum()))


def alternatives(logits: F32, token: int, n: int, vocabulary: Vocabulary) -> TokenLogprob:
    """A token with its log-probability, and the `n` likeliest ones."""
    top = logits.max()
    values = logits - top - np.log(np.exp(logits - top).sum())
    n = min(n, len(values))
    best = np.argpartition(-values, n - 1)[:n] if n else np.empty(0, dtype=np.intp)
    best = best[np.argsort(-values[best], kind="stable")]
    return TokenLogprob(
        token,
        vocabulary.bytes_of(token),
        float(values[token]),
        tuple((int(t), vocabulary.bytes_of(int(t)), float(values[t])) for t in best),
    )


def masked(logits: F32, mask: bytes | None) -> None:
    """Takes from logits, where they stand, the tokens that a mask does not allow (as `TokenMask` packs them).

    Raises:
        FsLocalError: it allows none.
    """
    if mask is None:
        return
    allowed = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")[: len(logits)].astype(bool)
    if not allowed.any():
        raise FsLocalError("the constraint on the answer allows no further token")
    logits[: len(allowed)][~allowed] = -np.inf
    logits[len(allowed) :] = -np.inf
