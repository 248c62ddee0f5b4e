"""Which block, strength and form of experts a fit chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from fs_local.fitting import Examples, FitOptions, fit
from fs_local.fitting.expert_search import BESIDE, _Search
from fs_local.fitting.methods import Form, forms
from fs_local.fitting.states import blocks_beside, searched_blocks, steer_layers
from fs_local.fitting.trials import Setting, Trials
from fs_local.pack.manifest import Trial
from fs_local.pack_summary import summary_rows
from fs_local.runtime.model import Model
from tests.tiny_model import N_LAYER

Effect = Callable[[Setting], float]


@pytest.fixture
def chosen(tiny: Model, few_examples: Examples, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Trial]]:
    """The trials of a fit whose effects are told: what is chosen comes last."""

    def of(
        effect: Effect, within_budget: Callable[[Setting], bool] = lambda _: True, noise: float = 0.0
    ) -> list[Trial]:
        told = Trials.__call__

        def tried(self: Trials, settings: Sequence[Setting]) -> list[Trial]:
            found = told(self, settings)
            update: list[dict[str, Any]] = [
                {"effect": effect(s), "within_budget": within_budget(s), "perplexity_ratio": 1 + s.strength / 100}
                for s in settings
            ]
            return [t.model_copy(update=u) for t, u in zip(found, update, strict=True)]

        def of_pairs(self: Trials, setting: Setting) -> list[float]:
            n = len(setting.vectors)
            return list(effect(setting) + (noise if setting.form == "ridge" else 0.0) * (np.arange(n) % 2 - 0.5))

        monkeypatch.setattr(Trials, "__call__", tried)
        monkeypatch.setattr(Trials, "effects", of_pairs)
        some = Examples(few_examples.pairs[:20])
        m = fit(tiny, some, FitOptions(background=False, gate="open")).pack.manifest
        assert m.figures.held_out is not None
        return [*m.figures.trials, m.figures.held_out]

    return of


def test_a_block_beside_the_best_is_found(tiny: Model, chosen: Callable[..., list[Trial]]) -> None:
    candidates = {layers[0] for layers in steer_layers(tiny, FitOptions())}
    best = min(set(searched_blocks(tiny, FitOptions())) - candidates)
    tried = chosen(lambda s: 0.9 - 0.1 * abs(s.layers[0] - best) - 0.05 * abs(s.strength - 0.75))
    assert (tried[-1].layers, tried[-1].strength) == ([best], 0.75)


def test_a_large_strength_is_found_where_small_ones_do_little(chosen: Callable[..., list[Trial]]) -> None:
    tried = chosen(lambda s: min(s.strength, 6.0) / 10)
    assert tried[-1].strength == 6.0
    assert {t.strength for t in tried} >= {1.0, 2.0, 4.0}


@pytest.mark.parametrize("form", ["mixture", "ridge", "mean"])
def test_the_form_that_does_best_is_kept(form: str, chosen: Callable[..., list[Trial]]) -> None:
    tried = chosen(lambda s: 0.6 if s.form == form else 0.3)
    assert tried[-1].form == form
    assert {t.form for t in tried} == {"mixture", "ridge", "mean"}


def test_a_form_steers_as_it_was_tried(tiny: Model, few_examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shipped is one vector where that did best: the mean difference of the pairs that do not report."""
    monkeypatch.setattr("fs_local.fitting.expert_search.worth", lambda t: (True, float(t.form == "mean"), t.pairs))
    monkeypatch.setattr(_Search, "_error", lambda _, trial, form: float(form.kind != "mean"))
    fitted = fit(tiny, Examples(few_examples.pairs[:20]), FitOptions(background=False, gate="open", layers=(3,)))
    assert (len(fitted.pack.experts.prototypes), len(fitted.pack.experts.residual)) == (1, 0)
    assert fitted.pack.manifest.figures.validation_error is None  # it would be compared with itself
    assert "one vector" in dict(summary_rows(fitted.pack, 0))["experts"]


@pytest.mark.parametrize("rungs", [(2, 3, 4), (2, 4)])
def test_forms_do_not_crowd_out_strengths(
    rungs: tuple[int, ...], chosen: Callable[..., list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the fewest pairs all settings do well, the weakest of them most fluently; on more, only stronger ones do."""
    monkeypatch.setattr("fs_local.fitting.expert_search.TRIAL_PAIRS", rungs)
    tried = chosen(lambda s: 1.0 if len(s.vectors) == 2 or s.strength >= 0.9 else 0.5)
    assert tried[-1].strength >= 0.9


@pytest.mark.parametrize("form", ["ridge", "mean"])
def test_a_form_has_a_strength_of_its_own(form: str, chosen: Callable[..., list[Trial]]) -> None:
    """The mixture is at its best at λ = 2, this form at half as much again, where it does more."""
    tried = chosen(
        lambda s: 0.5 - 0.1 * abs(s.strength - 2) if s.form != form else 0.4 + 0.2 * min(s.strength - 2, 1.0)
    )
    assert (tried[-1].form, tried[-1].strength) == (form, 3.0)


def test_what_is_just_over_the_budget_is_tried_a_little_weaker(
    chosen: Callable[..., list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """λ = 1 does best, and is over the budget on the most pairs alone."""
    monkeypatch.setattr("fs_local.fitting.expert_search.TRIAL_PAIRS", (2, 3, 4))
    tried = chosen(lambda s: 0.9 - abs(s.strength - 1), lambda s: len(s.vectors) < 4 or s.strength < 1)
    assert tried[-1].strength == 0.875


@pytest.mark.parametrize(("peak", "strength"), [(0.9, 0.875), (1.1, 1.125)])
def test_an_effect_that_has_its_peak_beside_the_strengths_that_are_tried_is_found(
    peak: float, strength: float, chosen: Callable[..., list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """λ = 1 is the best of those that are tried first."""
    monkeypatch.setattr("fs_local.fitting.expert_search.TRIAL_PAIRS", (2, 3, 4))
    tried = chosen(lambda s: 0.9 - abs(s.strength - peak))
    assert tried[-1].strength == strength


@pytest.mark.parametrize(("noise", "form"), [(1.0, "ridge"), (0.01, "mean")])
def test_forms_that_pairs_cannot_tell_apart_are_told_by_their_errors(
    noise: float, form: str, chosen: Callable[..., list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One vector does a little more than a ridge map, whose vectors are nearer to what unseen pairs want."""
    error = {"mixture": 0.5, "ridge": 0.9, "mean": 1.0}
    measured = _Search._error

    def told(self: _Search, trial: Trial, form: Form) -> float:
        assert (measured(self, trial, form) == pytest.approx(1)) == (form.kind == "mean")  # it is over one vector's
        return error[form.kind]

    monkeypatch.setattr(_Search, "_error", told)
    effect = {"mixture": 0.2, "ridge": 0.55, "mean": 0.6}
    assert chosen(lambda s: effect[s.form or ""], noise=noise)[-1].form == form


@pytest.mark.parametrize("given", [{"residual_rank": 2}, {"n_experts": (2, 2)}])
def test_who_wants_a_mixture_gets_one(given: dict[str, Any]) -> None:
    assert {form and form.kind for form in forms(FitOptions(**given))} == {"mixture"}


def test_blocks_beside_can_be_steered_too(tiny: Model) -> None:
    assert blocks_beside((1,), 6) == [(2,)]
    assert blocks_beside((4,), 6) == [(3,)]
    assert blocks_beside((2, 3), 6) == [(1, 2), (3, 4)]
    assert len(blocks_beside((3,), 8)) == BESIDE
    assert set(searched_blocks(tiny, FitOptions())) <= set(range(1, N_LAYER - 1))
    assert searched_blocks(tiny, FitOptions(layers=(3,))) == [3]
