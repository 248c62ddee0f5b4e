"""Open answers against references."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fs_local.evaluation.references import agreement, lead

TEXTS = st.text("abc dé.", max_size=40)


def test_agreement_is_rouge_1() -> None:
    assert agreement("The cat sat.", "the cat") == pytest.approx(2 * 2 / 5)
    assert agreement("the the the", "the cat") == pytest.approx(2 * 1 / 5)  # as often as it stands in both
    assert agreement("Nothing", "at all") == 0


@given(TEXTS, TEXTS)
def test_it_is_symmetric_and_from_0_to_1(a: str, b: str) -> None:
    assert agreement(a, b) == agreement(b, a)
    assert 0 <= agreement(a, b) <= 1


def test_the_nearest_reference_of_each_side_counts() -> None:
    true, false = ["Nothing in particular happens.", "You digest the seeds."], ["Watermelons grow in your stomach."]
    assert lead("You digest the seeds.", true, false) == pytest.approx(1 - agreement("You digest the seeds.", false[0]))
    assert lead("Watermelons grow in you", true, false) < 0
    assert lead("", true, false) == 0  # and so it does not agree
