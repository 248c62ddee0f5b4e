"""Fluency figures on answers whose trouble is known."""

from __future__ import annotations

import pytest

from fs_local.evaluation.fluency import FLUENCY, distinct_share, fluency, is_fluent, repeated_share
from fs_local.evaluation.runner import Answer
from fs_local.evaluation.suites import figure_kind


def answer(text: str, n_tokens: int | None = None, log_probability: float = -1.0) -> Answer:
    return Answer(text, tuple(range(len(text.split()) if n_tokens is None else n_tokens)), log_probability)


def test_repeated_share() -> None:
    assert repeated_share("a b c") == 0
    assert repeated_share("a A a a") == 0.75
    assert repeated_share("") == 1


def test_distinct_share() -> None:
    assert distinct_share("the cat and the dog", 2) == 1  # a word again, in another place
    assert distinct_share("I can not I can not I can not", 2) == 3 / 8
    assert distinct_share("I can not I can not I can not", 3) == 3 / 7
    assert distinct_share("No.", 2) == distinct_share("", 3) == 1


def test_each_kind_of_trouble_shows() -> None:
    """Fluent; a loop of phrases; one that is cut off; one that says next to nothing."""
    plain = [answer("Water boils at a hundred degrees at sea level.")] * 4
    steered = [
        answer("It boils at a hundred degrees Celsius by the sea."),
        answer("I can not help with that. " * 5, 30),
        answer("One could say many things about water and its states", 32, -3.0),
        answer("", 0),
    ]
    found = fluency(steered, plain, max_tokens=32)
    assert tuple(sorted(found)) == tuple(sorted(FLUENCY))
    assert found["distinct_trigrams"] == pytest.approx([1, 6 / 28, 1, 1])
    assert found["repeated"][1] > 0.7
    assert found["length_ratio"] == pytest.approx([10 / 9, 30 / 9, 32 / 9, 0])
    assert found["ended"] == [1, 1, 0, 1]
    assert found["ended_unsteered"] == [1] * 4
    assert found["log_perplexity_increase"] == [0, 0, 2, 0]
    assert found["repeated_unsteered"] == pytest.approx([1 / 9] * 4)


@pytest.mark.parametrize(
    ("text", "log_probability", "good"),
    [
        ("It boils at a hundred degrees Celsius by the sea.", -2.0, True),
        ("It boils at a hundred degrees Celsius by the sea.", -2.2, False),  # more than 3 times as surprising
        ("It boils and boils and boils and boils, it boils.", -1.0, False),
    ],
)
def test_the_fluency_budget(text: str, log_probability: float, good: bool) -> None:
    plain = [answer("Water boils at a hundred degrees at sea level.")] * 4
    assert is_fluent(fluency([answer(text, None, log_probability)] * 4, plain, 32)) is good


def test_an_unsteered_answer_without_tokens_is_no_division_by_zero() -> None:
    assert fluency([answer("yes", 3)], [answer("", 0)], 8)["length_ratio"] == [3]


def test_every_fluency_figure_has_its_interval() -> None:
    kinds = {name: figure_kind(name) for name in FLUENCY}
    assert {name for name, kind in kinds.items() if kind == "mean"} == {"length_ratio", "log_perplexity_increase"}
    assert {name for name, kind in kinds.items() if kind == "share"} == {"ended", "ended_unsteered"}
