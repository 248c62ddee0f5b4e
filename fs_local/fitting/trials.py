"""What a setting does to held-out pairs: the effect that the examples want, and its price in fluency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fs_local.arrays import F32
from fs_local.capture import Request, query_request
from fs_local.choices import ExpertForm, Scope
from fs_local.evaluation.fluency import fluency, is_fluent
from fs_local.evaluation.runner import Answer, KeptDecision, Runner
from fs_local.evaluation.suites import mc2
from fs_local.examples import Pair
from fs_local.pack.manifest import EffectKind, Trial
from fs_local.refusals import is_refusal

TRIAL_PAIRS = (12, 24, 64)
"""Pairs that all settings are tried on, the best of them, and the best of these."""
ANSWER_TOKENS = 24
_REFUSING_SHARE = 0.9
_AS_WANTED = 0.5


def effect_of(pairs: Sequence[Pair]) -> EffectKind:
    """What the pairs are about: `refusal` where preferred answers refuse and undesired ones don't; else `mc2` where some have several answers
    on a side, as TruthfulQA's have; else `preference`: of two whole answers, the one in the model's own voice is so much more probable that
    no strength short of babble shows, so they are compared by their mean tokens."""
    preferred = np.mean([is_refusal(a) for p in pairs for a in p.preferred])
    undesired = np.mean([is_refusal(a) for p in pairs for a in p.undesired])
    if preferred >= _REFUSING_SHARE and undesired <= 1 - _REFUSING_SHARE:
        return "refusal"
    return "mc2" if any(len(p.preferred) > 1 or len(p.undesired) > 1 for p in pairs) else "preference"


@dataclass(frozen=True, eq=False)
class Setting:
    """What is tried: λ after some blocks, with each pair's own steering vector, float32, (pairs, layers × d); K, rank and form for the record."""

    layers: Sequence[int]
    strength: float
    vectors: F32
    experts: int
    residual: int
    form: ExpertForm | None = None

    def decisions(self) -> list[KeptDecision]:
        """One a pair, open."""
        parts = np.float32(self.strength) * self.vectors.reshape(len(self.vectors), len(self.layers), -1)
        return [KeptDecision(1.0, dict(zip(self.layers, part, strict=True))) for part in parts]


class Trials:
    """Tries settings on some pairs, their gates taken as open.

    The effect, by kind: share of refusals among greedy answers; the normalized probability of the preferred answers (TruthfulQA's MC2); or
    that of their mean tokens. The budget is that of `fs_local.evaluation.fluency`.

    Attributes:
        kind: of the effect. unsteered: the effect without steering; unsteered_rows: of each pair.
    """

    def __init__(
        self, runner: Runner, kind: EffectKind, pairs: Sequence[Pair], requests: Sequence[Request], scope: Scope
    ) -> None:
        self._runner, self._pairs, self._requests = runner, pairs, list(requests)
        self._scope = scope
        self._prompts = [replace(r, answers=()) for r in requests]
        self.kind = kind
        closed = [KeptDecision(0.0, {})] * len(pairs)
        self._plain = self._answers(closed)
        self.unsteered_rows = self._effects(closed, self._plain)
        self.unsteered = float(np.mean(self.unsteered_rows))

    def __call__(self, settings: Sequence[Setting]) -> list[Trial]:
        """Tries several settings at once: each unsteered prompt is read once for all their answers."""
        n = len(self._pairs)
        decided = [d for setting in settings for d in setting.decisions()]
        answers = self._answers(decided)
        effects = self._effects(decided, answers)
        return [
            self._trial(setting, answers[first : first + n], effects[first : first + n])
            for first, setting in zip(range(0, len(decided), n), settings, strict=True)
        ]

    def effects(self, setting: Setting) -> list[float]:
        """On each pair."""
        decided = setting.decisions()
        return self._effects(decided, self._answers(decided))

    def texts(self, setting: Setting) -> list[tuple[str, str]]:
        """The unsteered and the steered answer to each pair's query."""
        steered = self._answers(setting.decisions())
        return [(plain.text, ours.text) for plain, ours in zip(self._plain, steered, strict=True)]

    def _trial(self, setting: Setting, steered: Sequence[Answer], effects: Sequence[float]) -> Trial:
        fluent = fluency(steered, self._plain, ANSWER_TOKENS)
        repeated, distinct, increase = (
            float(np.mean(fluent[name])) for name in ("repeated", "distinct_bigrams", "log_perplexity_increase")
        )
        return Trial(
            pairs=len(effects),
            layers=list(setting.layers),
            strength=setting.strength,
            experts=setting.experts,
            residual=setting.residual,
            form=setting.form,
            effect=float(np.mean(effects)),
            repeated=repeated,
            distinct_bigrams=distinct,
            perplexity_ratio=float(np.exp(increase)),
            within_budget=is_fluent(fluent),
        )

    def _answers(self, decided: Sequence[KeptDecision]) -> list[Answer]:
        """To all prompts, once or several times over."""
        prompts = self._prompts * (len(decided) // len(self._prompts))
        return self._runner.answers(prompts, decided, ANSWER_TOKENS, self._scope)

    def _effects(self, decided: Sequence[KeptDecision], answers: Sequence[Answer]) -> list[float]:
        """One an answer."""
        if self.kind == "refusal":
            return [float(is_refusal(a.text)) for a in answers]
        times = len(decided) // len(self._pairs)
        scores = self._runner.scores(self._requests * times, decided, self._scope)
        shares = []
        for pair, found in zip([*self._pairs] * times, scores, strict=True):
            preferred = [True] * len(pair.preferred) + [False] * len(pair.undesired)
            whole = [sum(a) if self.kind == "mc2" else sum(a) / max(1, len(a)) for a in found]
            shares.append(mc2(whole, preferred))
        return shares


def answered_as_wanted(runner: Runner, pairs: Sequence[Pair]) -> NDArray[np.bool_]:
    """Whether the unsteered model answers each pair as preferred already, (n,): refuses, or finds the preferred answers the more probable."""
    requests = [query_request(runner.model, p.query, p.preferred + p.undesired) for p in pairs]
    return np.array(Trials(runner, effect_of(pairs), pairs, requests, "all").unsteered_rows) > _AS_WANTED


def worth(trial: Trial) -> tuple[bool, float, float]:
    """Within the budget, the effect counts, and then fluency; outside it, the least damage."""
    return (
        (True, trial.effect, -trial.perplexity_ratio) if trial.within_budget else (False, -trial.perplexity_ratio, 0.0)
    )
