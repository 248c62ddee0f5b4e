"""How to steer: the layer, the experts and the strength, chosen by trials on pairs that were held out, and measured on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from fs_local.arrays import F32, F64
from fs_local.capture import query_request
from fs_local.evaluation.runner import Runner
from fs_local.examples import Pair
from fs_local.fitting.gate_queries import GateQueries
from fs_local.fitting.given import GivenStates
from fs_local.fitting.held_out import PairParts, pair_parts
from fs_local.fitting.methods import TAKE_QUERIES, FitRows, FittedExperts, Form, fit_experts, forms
from fs_local.fitting.near_twins import groups_of
from fs_local.fitting.options import Examples, FitOptions
from fs_local.fitting.states import (
    PairStates,
    QueryStates,
    blocks_beside,
    pair_states,
    query_states,
    searched_blocks,
    steer_layers,
)
from fs_local.fitting.trials import TRIAL_PAIRS, Setting, Trials, answered_as_wanted, effect_of, worth
from fs_local.method.experts import MixtureOfSteeringExperts, squared_error
from fs_local.method.folded import Experts, constant_experts
from fs_local.method.group_splits import Numbers
from fs_local.method.rows import Rows
from fs_local.method.subspace import mean
from fs_local.pack.manifest import EffectKind, ExpertAbout, Trial
from fs_local.progress import Progress

UNTRIED_STRENGTH = 1.0
STRENGTHS = (1.0, 2.0, 4.0)
BETWEEN = (0.5, 0.75, 1.5)
"""Times the best of these strengths: tried at its layers afterwards."""
MORE = (1.25, 0.6, 1.75, 0.875, 1.125)
"""The same, for methods that have no other forms to try, which so have as many trials."""
FORM_STRENGTHS = (1.0, 1.25, 1.5)
"""Times the best strength of the first form: tried with each other one, since a ridge map or one vector leaves more of the budget at the
same strength."""
BESIDE = 2
"""Blocks next to the best one, or those next to several, tried at its strength."""
STRONGER_AT = 3
"""Blocks that are tried with the larger strengths: those that did best with the smallest. All are, where there are no other forms."""
FINALISTS = (4, 2)
"""Settings that are tried again, on more pairs each time: the best of many on few pairs is often a lucky one."""
WEAKER, STRONGER = 0.875, 1.125
"""Times the strength of those of the last round: tried there too, the first where that was over the budget or the other does less."""
_ABOUT_QUERIES, _ABOUT_CHARACTERS = 3, 160
_SHOWN = 3
"""Held-out queries whose answers are shown."""


_Tried = tuple[Sequence[int], float, Form | None]
"""Layers, strength and form."""
_Found = tuple[Trial, Form | None]
"""What was tried, and its form."""


@dataclass(frozen=True)
class HeldOutAnswer:
    """What the model answers to a held-out pair's query, in its first words, unsteered and steered."""

    query: str
    unsteered: str
    steered: str


@dataclass(frozen=True)
class ChosenExperts:
    """The chosen experts, with where and how strongly they steer, and what was tried.

    Attributes:
        reads: blocks whose states the experts take. mixture: FineSteer's estimator; None for all else.
        differences: δ of the pairs that were fitted on at the steered layers, (n, layers × d). train: their rows among the pairs.
        error, constant_error: `mean ‖v(h) − δ‖²` of the experts and of their constant mean vector, on pairs that report; None for one
            vector and the other methods.
        effect_kind, unsteered_effect, trials: None and empty where nothing was tried; without steering, on the pairs of the last trials.
        held_out, unsteered_held_out: the chosen setting and no steering, on pairs that report; what was tried, and so what was chosen,
            does not depend on these. answers: to some of their queries, with it and without.
    """

    layers: tuple[int, ...]
    strength: float
    experts: Experts
    reads: tuple[int, ...]
    mixture: MixtureOfSteeringExperts | None
    train: Numbers
    differences: Rows
    error: float | None = None
    constant_error: float | None = None
    effect_kind: EffectKind | None = None
    unsteered_effect: float | None = None
    trials: Sequence[Trial] = ()
    held_out: Trial | None = None
    unsteered_held_out: float | None = None
    answers: Sequence[HeldOutAnswer] = ()


def choose_experts(
    runner: Runner,
    examples: Examples,
    options: FitOptions,
    report: Progress,
    queries: GateQueries,
    captures: Path | None = None,
    given: GivenStates | None = None,
) -> ChosenExperts:
    """Searches layers and strengths, and for FineSteer the form of the experts; what was tried before is found in the runner's store.

    Args:
        queries: what the experts of some methods are fitted on too (`TAKE_QUERIES`).
    """
    model, pairs = runner.model, examples.pairs
    layers = steer_layers(model, options) if given is None else given.steer_layers(options)
    if given is None:
        states = pair_states(model, pairs, searched_blocks(model, options), report, captures)
    else:
        states = replace(given.pairs, groups=groups_of([p.query.text for p in pairs]))
    of_queries: QueryStates | None = None
    if options.method in TAKE_QUERIES:
        of_queries = given.queries if given else query_states(model, queries, options, layers[0][0], report, captures)
    as_wanted = answered_as_wanted(runner, pairs) if options.method == "adasteer" else None
    return _Search(runner, pairs, options, FitRows(states, of_queries, as_wanted), report).run(layers)


def experts_untried(given: GivenStates, options: FitOptions, layers: tuple[int, ...]) -> ChosenExperts:
    """Fits without a model to try anything on: strength 1, and the mixture with the larger residual, unless they are given."""
    strength = UNTRIED_STRENGTH if options.strength is None else options.strength
    parts = pair_parts(given.pairs.groups, options.seed)
    return _setting(FitRows(given.pairs, given.queries), options, parts, layers, forms(options)[0], strength)


def _setting(
    states: FitRows,
    options: FitOptions,
    parts: PairParts,
    layers: tuple[int, ...],
    form: Form | None,
    strength: float,
) -> ChosenExperts:
    """A setting, fitted on all pairs but those that report."""
    made = fit_experts(states, options, layers, form, parts.fit, parts.report)
    differences = states.pairs.differences_at(layers)
    if options.method not in ("finesteer", "ridge") or form == Form("mean"):
        return ChosenExperts(layers, strength, made.experts, made.reads, None, parts.fit, differences[parts.fit])
    train = parts.fit if made.mixture is None else parts.fit[made.mixture.train_]
    error, constant_error = _errors(states.pairs, made, layers, train, parts.report)
    return ChosenExperts(
        layers, strength, made.experts, made.reads, made.mixture, train, differences[train], error, constant_error
    )


def _errors(
    pairs: PairStates, made: FittedExperts, layers: tuple[int, ...], train: Numbers, rows: Numbers
) -> tuple[float, float]:
    """`mean ‖v(h) − δ‖²` on some rows, of experts and of the mean of those they were fitted on."""
    queries, differences = Rows.of(pairs.read(made.reads, rows)), pairs.differences_at(layers)
    constant = constant_experts(mean(differences[train]).astype(np.float32), queries.width)
    error, constant_error = (squared_error(e, queries, differences[rows]) for e in (made.experts, constant))
    return error, constant_error


class _Search:
    """Tries settings on a few pairs that were held out, and the best of them again on more."""

    def __init__(
        self,
        runner: Runner,
        pairs: Sequence[Pair],
        options: FitOptions,
        states: FitRows,
        report: Progress,
    ) -> None:
        self._runner, self._pairs, self._options, self._states, self._report = runner, pairs, options, states, report
        self._parts = parts = pair_parts(states.pairs.groups, options.seed)
        unseen = np.concatenate([parts.choose, parts.report])
        self._fitted = cache(lambda layers, form: fit_experts(states, options, layers, form, parts.train, unseen))
        self._trials = cache(lambda n: self._trials_on(parts.choose[:n]))
        most = len(parts.choose)
        self._rungs = sorted({min(n, most) for n in TRIAL_PAIRS})
        self._kept = FINALISTS[: len(self._rungs) - 1]
        self._first, *others = forms(options)
        self._others = tuple(others)
        self._strengths: tuple[float, ...] = STRENGTHS
        self._between: tuple[float, ...] = BETWEEN if others else (*BETWEEN, *MORE)
        self._form_strengths: tuple[float, ...] = FORM_STRENGTHS
        self._n_nearer = FINALISTS[-1]
        if options.strength is not None:
            self._strengths, self._between, self._n_nearer = (options.strength,), (), 0
            self._form_strengths = FORM_STRENGTHS[:1]
        self._found: list[Trial] = []
        self._total = 0

    def run(self, layers: Sequence[tuple[int, ...]]) -> ChosenExperts:
        """Successive halving: all settings on few pairs, the best of them on more, and the best of these on more again."""
        n_at_blocks = len(layers) + self._n_stronger_at(layers) * len(self._strengths[1:])
        n_beside = BESIDE if len(layers) > 1 else 0
        n_forms = len(self._others) * len(self._form_strengths)
        self._total = n_at_blocks + len(self._between) + n_beside + n_forms + sum(self._kept) + 2 * self._n_nearer
        self._report("search", 0, self._total)
        found = self._nearer(self._halved(self._on_few(layers)))
        self._report("search", self._total, self._total)
        chosen, form = self._chosen(found)
        how = _setting(self._states, self._options, self._parts, tuple(chosen.layers), form, chosen.strength)
        held_out, unsteered, answers = self._held_out(how, form)
        trials = self._trials(chosen.pairs)
        return replace(
            how,
            effect_kind=trials.kind,
            unsteered_effect=trials.unsteered,
            trials=self._found,
            held_out=held_out,
            unsteered_held_out=unsteered,
            answers=answers,
        )

    def _n_stronger_at(self, layers: Sequence[tuple[int, ...]]) -> int:
        return min(len(layers), STRONGER_AT) if self._others else len(layers)

    def _on_few(self, layers: Sequence[tuple[int, ...]]) -> list[_Found]:
        """The first form at all layers, at the larger strengths where more may help, then between these strengths and beside these layers."""
        few, first = self._rungs[0], self._first
        found: list[_Found] = []
        left = list(layers)
        for i, strength in enumerate(self._strengths):
            tried = self._try([(together, strength, first) for together in left], few)
            found += tried
            if i == 0:  # to save time, at the risk that a block which does little at λ = 1 does much at more
                best_first = sorted(range(len(left)), key=lambda x: worth(tried[x][0]), reverse=True)
                go_on = sorted(best_first[: self._n_stronger_at(layers)])
                left, tried = [left[x] for x in go_on], [tried[x] for x in go_on]
            left = [x for x, (t, _) in zip(left, tried, strict=True) if _more_may_help(t)]
        best = _best_first(found)[0][0]
        found += self._try([(best.layers, factor * best.strength, first) for factor in self._between], few)
        if len(layers) > 1:
            best = _best_first(found)[0][0]
            beside = [at for at in blocks_beside(tuple(best.layers), self._runner.model.n_layer) if self._has(at)]
            found += self._try([(at, best.strength, first) for at in beside if at not in layers], few)
        return found

    def _halved(self, found: list[_Found]) -> list[_Found]:
        """The best of these, on more pairs each time, with other forms tried at the best of them from the second time on."""
        # on few pairs that all settings do well on, other forms would crowd out other strengths
        tries_forms = self._rungs[min(1, len(self._rungs) - 1)]
        for n, kept in zip(self._rungs, (len(found), *self._kept), strict=True):
            found = _best_first(found)
            if self._others and n > tries_forms:
                found = _best_of_kinds(found)
            found = found[:kept]
            more = self._others if n == tries_forms else ()
            if n > self._rungs[0] and len(found) + len(more) > 1:
                found = self._try([(t.layers, t.strength, form) for t, form in found], n)
            best = _best_first(found)[0][0]
            for factor in self._form_strengths:
                tried = self._try([(best.layers, factor * best.strength, form) for form in more], n)
                found += tried
                more = tuple(form for t, form in tried if _more_may_help(t))
        return found

    def _nearer(self, found: list[_Found]) -> list[_Found]:
        """These, and the best of them a little stronger, or weaker where they are over the budget or stronger does less: effects have peaks
        and budgets have ends that few pairs tell little of."""
        last = [f for f in _best_first(found)[: self._n_nearer] if f[0].effect < 1]
        stronger = [(t, form) for t, form in last if t.within_budget]
        tried = self._try([(t.layers, STRONGER * t.strength, form) for t, form in stronger], self._rungs[-1])
        gains = [t for (t, _), (more, _) in zip(stronger, tried, strict=True) if worth(more) > worth(t)]
        weaker = [(t.layers, WEAKER * t.strength, form) for t, form in last if t not in gains]
        return found + tried + self._try(weaker, self._rungs[-1])

    def _chosen(self, found: Sequence[_Found]) -> _Found:
        """The best; where another kind of experts does as well within one standard error, the one of these whose vectors are nearest to
        what unseen pairs want: few pairs tell errors better than effects."""
        ours, *theirs = _best_of_kinds(_best_first(found))
        if not theirs:
            return ours
        effects = self._effects(*ours)
        tied = [ours]
        for other in theirs:
            less = effects - self._effects(*other)
            if other[0].within_budget and less.mean() <= less.std(ddof=1) / np.sqrt(len(less)):
                tied.append(other)
        return min(tied, key=lambda f: self._error(*f))

    def _effects(self, trial: Trial, form: Form | None) -> F64:
        """Of each pair of a trial."""
        layers, rows = tuple(trial.layers), self._parts.choose[: trial.pairs]
        setting = self._setting(rows, layers, trial.strength, self._fitted(layers, form), form)
        return np.array(self._trials(trial.pairs).effects(setting))

    def _error(self, trial: Trial, form: Form | None) -> float:
        """Over that of one vector, on the pairs that choose."""
        layers, parts = tuple(trial.layers), self._parts
        made = self._fitted(layers, form)
        error, constant_error = _errors(self._states.pairs, made, layers, parts.train, parts.choose)
        return error / constant_error

    def _has(self, layers: tuple[int, ...]) -> bool:
        """Whether their states are there: of states that were given, some may be missing."""
        pairs, queries = self._states.pairs, self._states.queries
        return all(x in pairs.differences and (queries is None or (x, "last") in queries.ir) for x in layers)

    def _try(self, settings: Sequence[_Tried], n: int) -> list[_Found]:
        """Layers, strengths and forms, on the first `n` pairs that choose."""
        if not settings:
            return []
        rows = self._parts.choose[:n]
        tried = [
            self._setting(rows, layers, strength, self._fitted(tuple(layers), form), form)
            for layers, strength, form in settings
        ]
        found = self._trials(n)(tried)
        self._found += found
        self._report("search", len(self._found), self._total)
        return list(zip(found, [form for _, _, form in settings], strict=True))

    def _held_out(self, how: ChosenExperts, form: Form | None) -> tuple[Trial, float, list[HeldOutAnswer]]:
        """What was chosen, as it is shipped, on pairs that had no part in it; and no steering on these."""
        rows = self._parts.report[: TRIAL_PAIRS[-1]]
        trials = self._trials_on(rows)
        made = FittedExperts(how.experts, how.reads, how.mixture)
        setting = self._setting(rows, how.layers, how.strength, made, form)
        (trial,) = trials([setting])
        answers = [
            HeldOutAnswer(self._pairs[i].query.text, *both)
            for i, both in list(zip(rows, trials.texts(setting), strict=True))[:_SHOWN]
        ]
        return trial, trials.unsteered, answers

    def _setting(
        self, rows: Numbers, layers: Sequence[int], strength: float, made: FittedExperts, form: Form | None
    ) -> Setting:
        vectors = made.vectors(self._states.pairs, rows)
        kind = None if form is None else form.kind
        return Setting(layers, strength, vectors, len(made.experts.prototypes), len(made.experts.residual), kind)

    def _trials_on(self, rows: Numbers) -> Trials:
        some = [self._pairs[i] for i in rows]
        requests = [query_request(self._runner.model, p.query, p.preferred + p.undesired) for p in some]
        return Trials(self._runner, effect_of(self._pairs), some, requests, self._options.scope)


def _more_may_help(trial: Trial) -> bool:
    """Where it is too much, or enough, more strength costs more and gains nothing."""
    return trial.within_budget and trial.effect < 1


def _best_first(found: Sequence[_Found]) -> list[_Found]:
    return sorted(found, key=lambda f: worth(f[0]), reverse=True)


def _best_of_kinds(found: Sequence[_Found]) -> list[_Found]:
    """The first of each kind of experts, in that order."""
    firsts: dict[str | None, _Found] = {}
    for trial, form in found:
        firsts.setdefault(None if form is None else form.kind, (trial, form))
    return list(firsts.values())


def about(how: ChosenExperts, pairs: Sequence[Pair]) -> list[ExpertAbout]:
    """What each expert is about: its training pairs nearest to its prototype; no texts where `pairs` is empty."""
    if how.mixture is None:
        nothing = [ExpertAbout(pairs=0, queries=[])] * (
            len(how.experts.prototypes) - 1
        )  # DSAS has one that adds nothing
        return [ExpertAbout(pairs=len(how.train), queries=[]), *nothing]
    prototypes = how.experts.prototypes

    def along(chunk: F32) -> F32:
        lengths = np.linalg.norm(chunk, axis=1)[:, None] * np.linalg.norm(prototypes, axis=1)
        return chunk @ prototypes.T / np.maximum(lengths, 1e-12)  # type: ignore[no-any-return]

    cosine = how.differences.each(along)
    found = []
    for k in range(how.mixture.n_experts_):
        members = np.flatnonzero(how.mixture.labels_ == k)
        nearest = members[np.argsort(-cosine[members, k], kind="stable")][:_ABOUT_QUERIES]
        queries = [pairs[how.train[i]].query.text[:_ABOUT_CHARACTERS] for i in nearest] if pairs else []
        found.append(ExpertAbout(pairs=len(members), queries=queries))
    return found
