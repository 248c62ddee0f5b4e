"""How to steer: the layer, the experts and the strength, chosen by trials on pairs that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fs_local.capture import query_request
from fs_local.evaluation.runner import Runner
from fs_local.examples import Pair
from fs_local.fitting.given import GivenStates
from fs_local.fitting.options import Examples, FitOptions, Progress
from fs_local.fitting.queries import GateQueries
from fs_local.fitting.states import PairStates, Place, QueryStates, pair_states, query_states, steer_layers
from fs_local.fitting.trials import FINAL_PAIRS, TRIAL_PAIRS, Trials, effect_of, worth
from fs_local.method.experts import MixtureOfSteeringExperts, split
from fs_local.method.folded import F32, Experts, constant_experts
from fs_local.method.rivals import MeanDifference, NullSpaceMap, PrincipalDirection
from fs_local.method.rows import Index, Rows
from fs_local.pack.manifest import EffectKind, ExpertAbout, Trial

UNTRIED_STRENGTH = 1.0
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
BETWEEN = (0.75, 1.5)
"""Times the best of these strengths: tried at its layers afterwards."""
RESIDUAL_RANKS = (8, 0)
FINALISTS = 3
"""Settings that are tried again, on more pairs: the best of many on few pairs is often a lucky one."""
_ABOUT_QUERIES, _ABOUT_CHARACTERS = 3, 160


@dataclass(frozen=True)
class How:
    """The chosen experts, with where and how strongly they steer, and what was tried.

    Attributes:
        mixture: FineSteer's estimator; None for the other methods.
        differences: δ of the training pairs at the steered layers, (n, layers × d). train: their rows among the pairs.
        effect_kind, unsteered_effect, chosen, trials: None and empty where nothing was tried; chosen is the trial of this setting.
    """

    layers: tuple[int, ...]
    strength: float
    experts: Experts
    mixture: MixtureOfSteeringExperts | None
    train: NDArray[np.intp]
    differences: Rows
    effect_kind: EffectKind | None = None
    unsteered_effect: float | None = None
    chosen: Trial | None = None
    trials: Sequence[Trial] = ()


def choose_how(
    runner: Runner,
    examples: Examples,
    options: FitOptions,
    report: Progress,
    queries: GateQueries,
    captures: Path | None = None,
    given: GivenStates | None = None,
) -> How:
    """Searches layers and strengths, and for FineSteer the residual; what was tried before is found in the runner's store.

    Args:
        queries: what AlphaSteer's map is fitted on.
    """
    model, pairs = runner.model, examples.pairs
    layers = steer_layers(model, options) if given is None else given.steer_layers(options)
    captured = sorted({layer for together in layers for layer in together})
    states = pair_states(model, pairs, captured, report, captures) if given is None else given.pairs
    maps: QueryStates | None = None
    unseen: Index | None = None
    if options.method == "alphasteer":
        at = layers[0][0]
        maps = given.queries if given else query_states(model, queries, options, at, report, captures)
        first = min(states.queries)
        paired = [repr(p.query) for p in pairs] if given is None else [h.tobytes() for h in states.queries[first]]
        held_out = {paired[i] for i in split(len(pairs), options.seed)[1]}
        unseen = np.flatnonzero([key not in held_out for key in maps.ir_keys])
        if not len(unseen):
            unseen = None  # all pairs have one query: nothing can be left out
    return _Search(runner, pairs, options, states, maps, unseen, report).run(layers)


def how_untried(given: GivenStates, options: FitOptions, layers: tuple[int, ...]) -> How:
    """Fits without a model to try anything on: strength 1, and the larger residual, unless they are given."""
    rank = RESIDUAL_RANKS[0] if options.residual_rank is None else options.residual_rank
    strength = UNTRIED_STRENGTH if options.strength is None else options.strength
    experts, mixture = _fit(given.pairs, given.queries, options, layers, rank)
    differences = given.pairs.differences_at(layers)
    train, _ = split(len(differences), options.seed)
    return How(layers, strength, experts, mixture, train, differences[train])


def _fit(
    states: PairStates,
    maps: QueryStates | None,
    options: FitOptions,
    layers: Sequence[int],
    rank: int,
    ir_rows: Index | slice = slice(None),
) -> tuple[Experts, MixtureOfSteeringExperts | None]:
    """The method's experts at some layers together, and FineSteer's estimator.

    Args:
        maps: what AlphaSteer is fitted on, of its IR queries `ir_rows`; its one map takes the first layer's states.
    """
    queries = states.queries[layers[0]]
    if options.method == "finesteer":
        mixture = MixtureOfSteeringExperts(options.n_experts, rank, seed=options.seed)
        mixture.fit(queries, states.differences_at(layers))
        return mixture.experts_, mixture
    train, _ = split(len(queries), options.seed)
    # CAST's behaviour vector is RepE's
    method = MeanDifference if options.method in ("caa", "alphasteer") else PrincipalDirection
    direction = np.concatenate(
        [method().fit(states.differences[layer][train]).experts_.prototypes[0] for layer in layers]
    )
    if options.method == "alphasteer" and maps is not None:
        place: Place = (layers[0], "last")
        ir, general = maps.ir[place][ir_rows], maps.general[place]
        return NullSpaceMap().fit(ir, general, direction).experts_, None
    return constant_experts(direction, queries.shape[1]), None


class _Search:
    """Tries settings on a few held-out pairs, and the best of them again on more. unseen: IR queries that no held-out pair has."""

    def __init__(
        self,
        runner: Runner,
        pairs: Sequence[Pair],
        options: FitOptions,
        states: PairStates,
        maps: QueryStates | None,
        unseen: Index | None,
        report: Progress,
    ) -> None:
        self._runner, self._pairs, self._options, self._states, self._report = runner, pairs, options, states, report
        self._maps = maps
        ir_rows = slice(None) if unseen is None else unseen
        self._fitted = cache(lambda layers, rank: _fit(states, maps, options, layers, rank, ir_rows))
        self._trials = cache(self._trials_of)
        self._train, held_out = split(len(pairs), options.seed)
        self._held_out = np.random.default_rng(options.seed).permutation(held_out)  # files are sorted by source
        self._found: list[tuple[Trial, int]] = []
        self._total = 0

    def run(self, layers: Sequence[tuple[int, ...]]) -> How:
        o = self._options
        ranks = RESIDUAL_RANKS if o.residual_rank is None else (o.residual_rank,)
        ranks = ranks if o.method == "finesteer" else ranks[:1]
        strengths, between = (STRENGTHS, BETWEEN) if o.strength is None else ((o.strength,), ())
        self._total = len(layers) * len(strengths) + len(between) + len(ranks) - 1 + FINALISTS
        for together in layers:
            for strength in strengths:
                trial = self._try(together, strength, ranks[0])
                if not trial.within_budget or trial.effect == 1:
                    break  # stronger costs more, and gains nothing
        best = self._best()
        for factor in between:
            self._try(tuple(best.layers), factor * best.strength, ranks[0])
        best = self._best()
        for rank in ranks[1:]:
            self._try(tuple(best.layers), best.strength, rank)
        finalists = sorted(self._found, key=lambda f: worth(f[0]), reverse=True)[:FINALISTS]
        n = TRIAL_PAIRS
        if min(len(self._held_out), FINAL_PAIRS) > TRIAL_PAIRS and len(finalists) > 1:
            n = FINAL_PAIRS
            finalists = [(self._try(tuple(t.layers), t.strength, rank, n), rank) for t, rank in finalists]
        self._report("search", self._total, self._total)
        chosen, rank = max(finalists, key=lambda f: worth(f[0]))
        at = tuple(chosen.layers)
        # tried without the held-out queries, a map is fitted on all in the end
        experts, mixture = self._fitted(at, rank) if self._maps is None else _fit(self._states, self._maps, o, at, rank)
        trials = self._trials(n)
        return How(
            at,
            chosen.strength,
            experts,
            mixture,
            self._train,
            self._states.differences_at(at)[self._train],
            trials.kind,
            trials.unsteered,
            chosen,
            [t for t, _ in self._found],
        )

    def _best(self) -> Trial:
        return max((t for t, _ in self._found), key=worth)

    def _try(self, layers: tuple[int, ...], strength: float, rank: int, n: int = TRIAL_PAIRS) -> Trial:
        experts, mixture = self._fitted(layers, rank)
        k, residual = len(experts.prototypes), len(experts.residual) if mixture else 0
        vectors = experts.vector(self._states.queries[layers[0]][self._held_out[:n]])
        trial = self._trials(n)(layers, strength, vectors, k, residual)
        self._found.append((trial, rank))
        self._report("search", len(self._found), self._total)
        return trial

    def _trials_of(self, n: int) -> Trials:
        """On the first `n` pairs that were held out."""
        some = [self._pairs[i] for i in self._held_out[:n]]
        requests = [query_request(self._runner.model, p.query, p.preferred + p.undesired) for p in some]
        return Trials(self._runner, effect_of(self._pairs), some, requests, self._options.scope)


def about(how: How, pairs: Sequence[Pair]) -> list[ExpertAbout]:
    """What each expert is about: its training pairs nearest to its prototype; no texts where `pairs` is empty."""
    if how.mixture is None:
        return [ExpertAbout(pairs=len(how.train), queries=[])]
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
