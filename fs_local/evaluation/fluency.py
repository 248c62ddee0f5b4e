"""Fluency of answers: how often words repeat, how varied they are, how long they run, and whether they come to an end.

What the unsteered model thinks of them is `Answer.log_probability`. No one of these sees everything: babble repeats words, a loop of
phrases repeats n-grams, clumsiness shows in length and in answers that don't end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from fs_local.evaluation.runner import Answer

FLUENCY = (
    "repeated",
    "repeated_unsteered",
    "distinct_bigrams",
    "distinct_bigrams_unsteered",
    "distinct_trigrams",
    "distinct_trigrams_unsteered",
    "length_ratio",
    "ended",
    "ended_unsteered",
    "log_perplexity_increase",
)
"""Names of the figures of `fluency`."""
REPEATED_BUDGET = 0.05
DISTINCT_BUDGET = 0.05
PERPLEXITY_BUDGET = 3.0
"""Of greedy answers, which a model finds far less surprising than what people write."""


def fluency(steered: Sequence[Answer], plain: Sequence[Answer], max_tokens: int) -> dict[str, list[float]]:
    """One value a row of each figure: of greedy answers of at most `max_tokens`, and of the unsteered answers to the same queries.

    `length_ratio` is in tokens, over the unsteered answer's; `ended` is 1 where an answer ended by itself, before the limit;
    `log_perplexity_increase` is the difference of mean log-probabilities under the unsteered model (nats a token).
    """
    both = {"": steered, "_unsteered": plain}
    found = {f"repeated{of}": [repeated_share(a.text) for a in answers] for of, answers in both.items()}
    for n, name in ((2, "bigrams"), (3, "trigrams")):
        found |= {f"distinct_{name}{of}": [distinct_share(a.text, n) for a in answers] for of, answers in both.items()}
    found["length_ratio"] = [len(s.tokens) / max(1, len(p.tokens)) for s, p in zip(steered, plain, strict=True)]
    found |= {f"ended{of}": [float(len(a.tokens) < max_tokens) for a in answers] for of, answers in both.items()}
    found["log_perplexity_increase"] = [
        p.log_probability - s.log_probability for p, s in zip(plain, steered, strict=True)
    ]
    return found


def is_fluent(values: Mapping[str, Sequence[float]]) -> bool:
    """Whether answers are within the fluency budget: on the mean they repeat no more than `REPEATED_BUDGET` above the unsteered ones, of
    their bigrams no fewer than `DISTINCT_BUDGET` below these are distinct (a loop of phrases repeats bigrams), and their perplexity under
    the unsteered model is at most `PERPLEXITY_BUDGET` times theirs.

    Args:
        values: as `fluency` gives them.
    """
    mean = {name: float(np.mean(values[name])) for name in FLUENCY}
    return (
        mean["repeated"] <= mean["repeated_unsteered"] + REPEATED_BUDGET
        and mean["distinct_bigrams"] >= mean["distinct_bigrams_unsteered"] - DISTINCT_BUDGET
        and float(np.exp(mean["log_perplexity_increase"])) <= PERPLEXITY_BUDGET
    )


def repeated_share(text: str) -> float:
    """Share of words that stood in the text before; 1 for an empty text."""
    words = text.lower().split()
    return 1 - len(set(words)) / len(words) if words else 1.0


def distinct_share(text: str, n: int) -> float:
    """Share of the text's n-grams of words that are distinct (distinct-n, arXiv 1510.03055); 1 where there is none."""
    words = text.lower().split()
    grams = list(zip(*(islice(words, i, None) for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0
