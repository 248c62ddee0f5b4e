"""Which trial is worth the most."""

from __future__ import annotations

import numpy as np
import pytest

from fs_local.capture import query_request
from fs_local.evaluation.runner import Answer, KeptDecision, Runner
from fs_local.examples import Pair, Query
from fs_local.fitting.trials import Setting, Trials, effect_of, worth
from fs_local.pack.manifest import Trial
from fs_local.runtime.model import Model


def trial(effect: float, perplexity_ratio: float, within_budget: bool) -> Trial:
    return Trial(
        pairs=16, layers=[3], strength=1.0, experts=2, residual=0, effect=effect, repeated=0.1,
        perplexity_ratio=perplexity_ratio, within_budget=within_budget,
    )  # fmt: skip


def test_the_effect_counts_within_the_budget_and_damage_outside_it() -> None:
    weak, strong = trial(0.5, 1.2, True), trial(0.8, 1.9, True)
    fluent, broken, ruined = trial(0.8, 1.5, True), trial(1.0, 2.5, False), trial(1.0, 9.0, False)
    assert sorted([broken, weak, ruined, fluent, strong], key=worth) == [ruined, broken, weak, strong, fluent]


def test_pairs_are_about_refusing_if_their_preferred_answers_refuse() -> None:
    refusing = Pair(Query.of("q"), ("I'm sorry, no.",), ("Sure!",))
    truthful = Pair(Query.of("q"), ("Six.",), ("Eight.",))
    assert effect_of([refusing] * 9 + [truthful]) == "refusal"
    assert effect_of([refusing, truthful]) == "preference"
    assert effect_of([Pair(Query.of("q"), ("I'm sorry, no.",), ("Sorry, I am late.",))]) == "preference"
    assert effect_of([Pair(Query.of("q"), ("Six.", "6."), ("Eight.",))]) == "mc2"


def test_settings_together_are_tried_as_each_alone(tiny: Model) -> None:
    """Prompts of any length, answers that end at once among them."""
    pairs = [Pair(Query.of("What is " + "so " * n + "good?"), ("Tea.",), ("Coffee.", "Nothing.")) for n in range(6)]
    requests = [query_request(tiny, p.query, p.preferred + p.undesired) for p in pairs]
    vectors = np.random.default_rng(3).standard_normal((3, len(pairs), tiny.width)).astype(np.float32)
    settings = [Setting([2 + i], 0.5 + i, v, 2, 0) for i, v in enumerate(vectors)]
    together = Trials(Runner(tiny), "mc2", pairs, requests, "all")(settings)
    alone = [Trials(Runner(tiny), "mc2", pairs, requests, "all")([setting])[0] for setting in settings]
    for one, other in zip(together, alone, strict=True):
        assert one.effect == pytest.approx(other.effect, abs=2e-3)
        assert one.perplexity_ratio == pytest.approx(other.perplexity_ratio, rel=2e-3)
        assert (one.repeated, one.layers, one.strength) == (other.repeated, other.layers, other.strength)
    assert len({t.perplexity_ratio for t in together}) == 3


@pytest.mark.parametrize(
    ("text", "within"), [("a b a c b d a d", True), ("a b a b a b c d", False), ("a a a a", False)]
)
def test_a_loop_of_phrases_is_over_the_budget(
    text: str, within: bool, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same words, and as probable: the second repeats its bigrams."""
    pairs = [Pair(Query.of("What is good?"), ("Tea.",), ("Coffee.",))]

    def answers(self: Runner, requests: object, decided: list[KeptDecision], *_: object) -> list[Answer]:
        return [Answer(text if d.additions else "a b a c b d a d", (1,) * 8, -1.0) for d in decided]

    monkeypatch.setattr(Runner, "answers", answers)
    trials = Trials(Runner(tiny), "mc2", pairs, [query_request(tiny, pairs[0].query, ["Tea.", "Coffee."])], "all")
    (found,) = trials([Setting([3], 1.0, np.ones((1, tiny.width), dtype=np.float32), 2, 0)])
    assert found.within_budget is within


def test_long_answers_are_compared_by_the_token(tiny: Model) -> None:
    """A model that writes plainly will never say so much at once: of whole answers, no steering could show."""
    pairs = [Pair(Query.of("What is good?"), ("Arr, matey! " * n,), ("Tea.",)) for n in range(4, 12)]
    requests = [query_request(tiny, p.query, p.preferred + p.undesired) for p in pairs]
    whole, by_token = (Trials(Runner(tiny), kind, pairs, requests, "all").unsteered for kind in ("mc2", "preference"))
    assert whole < 1e-6
    assert 0.01 < by_token < 0.99
