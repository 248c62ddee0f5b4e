"""From examples to a pack: capture, experts, strength, gate.

Whatever is chosen here is chosen on examples that were held out of what is being judged: pairs that the experts were not
trained on for layer and strength, cross-fitted scores for the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.metrics import roc_auc_score

import fs_local
from fs_local.batch import MAX_SEQUENCES, Batch
from fs_local.capture import Captured, Request, capture, query_request
from fs_local.errors import DataError, FitError
from fs_local.examples import DataFile, Pair, Query
from fs_local.method.experts import MIN_PAIRS, MixtureOfSteeringExperts
from fs_local.method.folded import F32, GateKind
from fs_local.method.gates import MIN_QUERIES, LogisticGate, QuantileGate, SoftGate, is_open
from fs_local.pack.file import Pack
from fs_local.pack.manifest import (
    MAX_STRENGTH,
    DataDigest,
    ExpertAbout,
    Figures,
    GateSettings,
    Manifest,
    ModelIdentity,
    Scope,
    SteerSettings,
    StrengthTrial,
)
from fs_local.runtime.model import Model

AnyGate = QuantileGate | LogisticGate | SoftGate
Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""

STEER_DEPTHS = (0.33, 0.37)
"""Shares of the model's depth that are tried for the steered layer: later blocks break small models at the strengths that move them."""
GATE_DEPTHS = (0.25, 0.75)
STRENGTHS = (0.75, 1.25, 1.6, 2.0)
REPEATED_BUDGET = 0.05
PERPLEXITY_BUDGET = 2.0
SECOND_PASS_PRICE = 0.02
"""Share of openings that a gate behind the steered layer must gain: it costs a second pass for queries that open it."""
_TRIAL_PAIRS, _TRIAL_TOKENS = 8, 24
_ABOUT_QUERIES, _ABOUT_CHARACTERS = 3, 160


@dataclass(frozen=True)
class Examples:
    """What a pack is fitted on. Without IR queries of their own, the pairs' queries serve."""

    pairs: Sequence[Pair]
    ir: Sequence[Query] = ()
    general: Sequence[Query] = ()
    files: dict[str, DataFile] | None = None


@dataclass(frozen=True)
class FitOptions:
    """What a fit may be told; None means that it chooses.

    Attributes:
        name: of the pack.
        layer: steered block. gate_layer: block whose states the gate takes.
        gate: kind of gate; by default the better of one-class and supervised where there are general queries, else one-class.
        strength: λ.
        scope: `all` positions, or `generation` alone.
        n_experts: least and most K.
        residual_rank: directions of the residual; 0 for none.
        tail: ε. budget: share of general queries that may open a supervised gate.
    """

    name: str = "pack"
    layer: int | None = None
    gate_layer: int | None = None
    gate: GateKind | None = None
    strength: float | None = None
    scope: Scope = "all"
    n_experts: tuple[int, int] = (2, 10)
    residual_rank: int = 8
    tail: float = 0.05
    budget: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= 200:
            raise FitError("a pack's name must have 1 to 200 characters")
        if not 0 <= self.seed < 1 << 32:
            raise FitError("the seed must be from 0 to 4294967295")
        if self.strength is not None and not abs(self.strength) <= MAX_STRENGTH:
            raise FitError(f"the strength must be a number from -{MAX_STRENGTH} to {MAX_STRENGTH}")


@dataclass(frozen=True)
class _Steer:
    """The chosen experts, with where and how strongly they steer."""

    layer: int
    strength: float
    experts: MixtureOfSteeringExperts
    similarity: F32
    unsteered_margin: float
    trials: list[StrengthTrial]


def fit(model: Model, examples: Examples, options: FitOptions | None = None, progress: Progress | None = None) -> Pack:
    """Fits a pack with the model itself.

    Raises:
        DataError: too few examples, or one that is longer than the context.
        FitError: states that are not finite, or options out of range.
        ModelError: a layer out of range, or block 0.
    """
    options = options or FitOptions()
    report = progress or (lambda _what, _done, _total: None)
    _check(model, examples, options)
    ir = list(examples.ir) or [p.query for p in examples.pairs]

    steer = _fit_experts(model, examples.pairs, options, report)
    gate, gate_layer = _fit_gate(model, ir, examples.general, options, steer.layer, report)
    files = {name: DataDigest(rows=f.rows, sha256=f.sha256) for name, f in (examples.files or {}).items()}
    scored = len(gate.general_score_) > 0
    manifest = Manifest(
        name=options.name,
        fitted_by=f"fs-local {fs_local.__version__}",
        model=ModelIdentity(
            fingerprint=model.fingerprint,
            name=model.name,
            architecture=model.architecture,
            n_layer=model.n_layer,
            width=model.width,
            quantization=model.quantization,
        ),
        gate=GateSettings(
            kind=gate.kind,
            layer=gate_layer,
            edge=gate.gate_.edge,
            decay=gate.gate_.decay,
            intercept=gate.gate_.intercept,
        ),
        steer=SteerSettings(layer=steer.layer, strength=steer.strength, scope=options.scope),
        experts=_about(steer, examples.pairs),
        data=files,
        figures=Figures(
            open_ir=float(is_open(gate.ir_opening_).mean()),
            open_general=float(is_open(gate.general_opening_).mean()) if scored else None,
            auroc=_auroc(gate) if scored else None,
            validation_error=steer.experts.validation_error_,
            constant_error=steer.experts.constant_error_,
            unsteered_margin=steer.unsteered_margin,
            trials=steer.trials,
        ),
        seed=options.seed,
        digests={},
    )
    return Pack.of(manifest, gate.gate_, steer.experts.experts_)


def _check(model: Model, examples: Examples, options: FitOptions) -> None:
    if len(examples.pairs) < MIN_PAIRS:
        raise DataError(f"{len(examples.pairs)} pairs are too few; give at least {MIN_PAIRS}, better 60 or more")
    for name, queries in (("IR", examples.ir), ("general", examples.general)):
        if 0 < len(queries) < MIN_QUERIES:
            raise DataError(
                f"{len(queries)} {name} queries are too few; give at least {MIN_QUERIES}, better 60 or more"
            )
    for name, layer in (("layer", options.layer), ("gate-layer", options.gate_layer)):
        if layer is not None and not 0 <= layer < model.n_layer:
            raise FitError(f"--{name} {layer} is out of range: {model.path.name} has layers 0 to {model.n_layer - 1}")
    if options.layer == 0:
        raise FitError("block 0 can't have a control vector in llama.cpp; choose a layer from 1 on")
    if options.layer == model.n_layer - 1:
        raise FitError(f"nothing comes after block {options.layer}, the last; choose a layer before it")
    if options.gate == "logistic" and not examples.general:
        raise FitError("a logistic gate needs general queries too; give --general, or choose --gate quantile")


# --- how to steer


def _fit_experts(model: Model, pairs: Sequence[Pair], options: FitOptions, report: Progress) -> _Steer:
    layers = sorted({min(max(1, round(model.n_layer * share)), model.n_layer - 1) for share in STEER_DEPTHS})
    if options.layer is not None:
        layers = [options.layer]
    requests = [query_request(model, p.query, p.preferred + p.undesired) for p in pairs]
    captured = capture(model, requests, layers, lambda done, total: report("capture pairs", done, total))
    strengths = STRENGTHS if options.strength is None else (options.strength,)
    total = len(layers) * len(strengths) + 1
    best: _Steer | None = None
    best_worth = (False, 0.0)
    all_trials: list[StrengthTrial] = []
    trial: _Trial | None = None
    for i, layer in enumerate(layers):
        experts = MixtureOfSteeringExperts(options.n_experts, options.residual_rank, seed=options.seed)
        states, differences = captured.at(layer), _differences(captured, pairs, layer)
        experts.fit(states, differences)
        if trial is None:
            trial = _Trial(model, [_first_answers(requests[j], pairs[j]) for j in experts.held_out_[:_TRIAL_PAIRS]])
            report("try strengths", 1, total)
        rows = experts.held_out_[:_TRIAL_PAIRS]
        trials: list[StrengthTrial] = []
        with Batch(model, layer, trial.cells) as batch:
            for j, strength in enumerate(strengths):
                tried = trial.at(batch, layer, strength, experts.vector(states[rows]))
                trials.append(tried)
                report("try strengths", 1 + i * len(strengths) + j + 1, total)
                if not tried.within_budget:
                    break
        all_trials += trials
        chosen = max(trials, key=_worth)
        if best is None or _worth(chosen) > best_worth:
            best_worth = _worth(chosen)
            best = _Steer(layer, chosen.strength, experts, _similarity(experts, differences), trial.margin, all_trials)
    report("try strengths", total, total)
    assert best is not None
    return best


def _differences(captured: Captured, pairs: Sequence[Pair], layer: int) -> F32:
    """δ = h₊ − h₋ of each pair at a layer, (M, d); several answers on one side are averaged."""
    at = captured.layers.index(layer)
    sides = [
        (a[: len(p.preferred), at], a[len(p.preferred) :, at]) for a, p in zip(captured.answers, pairs, strict=True)
    ]
    return np.stack([preferred.mean(axis=0) - undesired.mean(axis=0) for preferred, undesired in sides])


def _first_answers(request: Request, pair: Pair) -> Request:
    return Request(request.prompt, (request.answers[0], request.answers[len(pair.preferred)]))


def _worth(trial: StrengthTrial) -> tuple[bool, float]:
    """Within the budget, the effect counts; outside it, the least damage."""
    return trial.within_budget, trial.margin if trial.within_budget else -trial.perplexity_ratio


class _Trial:
    """What a strength does to held-out queries: the effect on preferred against undesired answers, and the price in fluency.

    The budget: answers repeat no more than `REPEATED_BUDGET` above the unsteered ones, and their perplexity under the unsteered
    model stays below `PERPLEXITY_BUDGET` times theirs.
    """

    def __init__(self, model: Model, requests: list[Request]) -> None:
        self._model, self._requests = model, requests
        longest = max(len(r.prompt) + max(_TRIAL_TOKENS, *(len(a) for a in r.answers)) for r in requests)
        self.cells = MAX_SEQUENCES * (longest + 1)
        self._prompts = [r.prompt for r in requests]
        with Batch(model, 1, self.cells) as batch:
            self.margin = self._margin(batch, None)
            self._repeated, self._perplexity = self._fluency(batch, None)

    def at(self, batch: Batch, layer: int, strength: float, vectors: F32) -> StrengthTrial:
        """Tries λ after a block with each query's own steering vector, its gate taken as open."""
        additions = list(np.float32(strength) * vectors)
        repeated, perplexity = self._fluency(batch, additions)
        ratio = min(perplexity / self._perplexity, 1e6)
        return StrengthTrial(
            layer=layer,
            strength=strength,
            margin=self._margin(batch, additions),
            repeated=repeated,
            perplexity_ratio=ratio,
            within_budget=repeated <= self._repeated + REPEATED_BUDGET and ratio <= PERPLEXITY_BUDGET,
        )

    def _margin(self, batch: Batch, additions: list[F32] | None) -> float:
        return float(
            np.mean([preferred - undesired for preferred, undesired in batch.score(self._requests, additions)])
        )

    def _fluency(self, batch: Batch, additions: list[F32] | None) -> tuple[float, float]:
        """Repeated-word share of greedy answers, and their perplexity under the unsteered model."""
        answers = batch.generate(self._prompts, additions, _TRIAL_TOKENS)
        texts = [b"".join(self._model.piece(t) for t in a).decode("utf-8", "replace") for a in answers]
        spoken = [Request(p, (a,)) for p, a in zip(self._prompts, answers, strict=True) if a]
        scores = [s[0] for s in batch.score(spoken, None)]
        return float(np.mean([repeated_share(t) for t in texts])), float(np.exp(-np.mean(scores))) if scores else float(
            "1e6"
        )


def repeated_share(text: str) -> float:
    """Share of words that stood in the text before; 1 for an empty text."""
    words = text.lower().split()
    return 1 - len(set(words)) / len(words) if words else 1.0


def _similarity(experts: MixtureOfSteeringExperts, differences: F32) -> F32:
    """Cosine of each training pair's δ to each prototype, (training pairs, K)."""
    delta, prototypes = differences[experts.train_], experts.experts_.prototypes
    lengths = np.linalg.norm(delta, axis=1)[:, None] * np.linalg.norm(prototypes, axis=1)
    cosine: F32 = delta @ prototypes.T / np.maximum(lengths, 1e-12)
    return cosine


def _about(steer: _Steer, pairs: Sequence[Pair]) -> list[ExpertAbout]:
    about = []
    for k in range(steer.experts.n_experts_):
        members = np.flatnonzero(steer.experts.labels_ == k)
        nearest = members[np.argsort(-steer.similarity[members, k], kind="stable")][:_ABOUT_QUERIES]
        queries = [pairs[steer.experts.train_[i]].query.text[:_ABOUT_CHARACTERS] for i in nearest]
        about.append(ExpertAbout(pairs=len(members), queries=queries))
    return about


# --- when to steer


def _fit_gate(
    model: Model, ir: Sequence[Query], general: Sequence[Query], options: FitOptions, steered: int, report: Progress
) -> tuple[AnyGate, int]:
    if options.gate_layer is not None:
        layers = [options.gate_layer]
    elif general:
        low, high = (round(model.n_layer * share) for share in GATE_DEPTHS)
        layers = sorted({*range(low, high + 1, max(1, model.n_layer // 15)), steered})
    else:
        layers = [steered]  # nothing to choose by
    kinds: list[Literal["quantile", "logistic", "soft"]] = (
        [options.gate] if options.gate else ["logistic", "quantile"] if general else ["quantile"]
    )
    requests = [query_request(model, q) for q in [*ir, *general]]
    captured = capture(model, requests, layers, lambda done, total: report("capture queries", done, total))
    best: tuple[float, AnyGate, int] | None = None
    candidates = [(kind, layer) for kind in kinds for layer in sorted(layers, key=lambda x: (x > steered, -x))]
    for i, (kind, layer) in enumerate(candidates):
        states = captured.at(layer)
        gate = _gate(kind, options).fit(states[: len(ir)], states[len(ir) :] if general else None)
        apart = float(gate.ir_opening_.mean() - gate.general_opening_.mean()) if general else 0.0
        worth = apart - SECOND_PASS_PRICE * (layer > steered)
        if best is None or worth > best[0]:
            best = worth, gate, layer
        report("fit gates", i + 1, len(candidates))
    assert best is not None
    return best[1], best[2]


def _gate(kind: GateKind, options: FitOptions) -> AnyGate:
    if kind == "logistic":
        return LogisticGate(tail=options.tail, budget=options.budget, seed=options.seed)
    if kind == "soft":
        return SoftGate(seed=options.seed)
    return QuantileGate(tail=options.tail, seed=options.seed)


def _auroc(gate: AnyGate) -> float:
    labels = np.concatenate([np.ones(len(gate.ir_score_)), np.zeros(len(gate.general_score_))])
    return float(roc_auc_score(labels, np.concatenate([gate.ir_score_, gate.general_score_])))
