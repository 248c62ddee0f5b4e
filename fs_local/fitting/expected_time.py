"""How long a fit will take, told before it begins: what it has to read, at the speed of this machine with this model."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fs_local.capture import query_request, tokens_left
from fs_local.fitting.expert_search import BESIDE, BETWEEN, FINALISTS, FORM_STRENGTHS, MORE, STRENGTHS, STRONGER_AT
from fs_local.fitting.fit_gate import queries_for
from fs_local.fitting.gate_search import needs_no_states
from fs_local.fitting.methods import forms
from fs_local.fitting.options import Examples, FitOptions
from fs_local.fitting.states import query_places, searched_blocks, steer_layers
from fs_local.fitting.trials import ANSWER_TOKENS, TRIAL_PAIRS, effect_of
from fs_local.runtime.context import MICRO_BATCH, Context
from fs_local.runtime.model import Model

_TRIED_STRENGTHS = 0.75
"""Of the larger strengths, those that are tried before one is too much."""
LEAST_SHARE = 0.2
"""With less than a fifth of the queries, a gate is not worth having."""
_PROBES, _PROBE_TOKENS = 5, 64
_DRAWN, _SHARING = 2, 3
"""Tokens read in the time that one takes to be drawn, a few answers side by side; settings that are tried together."""
_GATE_SECONDS = 1e-5
"""To fit a gate, for each query and dimension of its states: about a second for 200 queries of width 576."""


@dataclass(frozen=True)
class Plan:
    """Seconds that the stages of a fit will take, about."""

    queries: float
    pairs: float
    trials: float
    gate: float

    @property
    def seconds(self) -> float:
        return self.queries + self.pairs + self.trials + self.gate


def plan_fit(model: Model, examples: Examples, options: FitOptions, captures: Path | None) -> Plan:
    """Counts what a fit has to read that is not on disk yet, and measures how fast this machine reads.

    Args:
        captures: where earlier captures are kept.
    """
    if options.share < 1:
        examples = examples.drawn(options)
    queries = queries_for(examples, options)
    steer = steer_layers(model, options)
    a_token = seconds_a_token(model)

    def depth(layers: list[int]) -> float:
        return (layers[-1] + 1) / model.n_layer

    read, gate = 0.0, 0.0
    if not needs_no_states(options):
        layers, readings = query_places(model, queries, options, steer[0][0])
        for pool in queries.pools:
            requests = [query_request(model, q) for q in pool.queries]
            read += depth(layers) * tokens_left(model, requests, layers, captures, readings)
            gate += _GATE_SECONDS * len(requests) * model.width
    layers = searched_blocks(model, options)
    requests = [query_request(model, p.query, p.preferred + p.undesired) for p in examples.pairs]
    pairs = depth(layers) * tokens_left(model, requests, layers, captures, ("last",))
    # a trial reads the prompt steered, draws an answer, and reads it unsteered, behind a prompt that several settings share; a score reads the
    # prompt and the pair's answers too
    prompt = float(np.mean([len(r.prompt) for r in requests]))
    each = (1 + 1 / _SHARING) * prompt + (_DRAWN + 1) * ANSWER_TOKENS
    if effect_of(examples.pairs) != "refusal":
        each += float(np.mean([len(r.prompt) + sum(map(len, r.answers)) for r in requests]))
    searched = options.strength is None
    others = len(forms(options)) - 1
    at_blocks = min(len(steer), STRONGER_AT) if others else len(steer)
    stronger = _TRIED_STRENGTHS * (len(STRENGTHS) - 1) * at_blocks
    between = len(BETWEEN) + (0 if others else len(MORE))
    settings = len(steer) + BESIDE * (len(steer) > 1) + (stronger + between) * searched
    of_forms = others * (1 + _TRIED_STRENGTHS * (len(FORM_STRENGTHS) - 1) * searched)
    # then what was chosen on pairs that report, and no steering on these and on those that chose
    kept, fewest = [settings, FINALISTS[0] + of_forms, FINALISTS[1] * (1 + 2 * searched) + 3], len(examples.pairs) // 5
    tried = sum(n * min(most, fewest) for n, most in zip(kept, TRIAL_PAIRS, strict=True))
    return Plan(a_token * read, a_token * pairs, a_token * each * tried, gate)


def share_for(seconds: float, plan: Plan, share: float = 1.0) -> float:
    """The share of what is usually drawn and tried that a fit has time for, about, in twentieths: from `LEAST_SHARE` to 1.

    Args:
        plan: of a fit with this share.
    """
    return min(1.0, max(LEAST_SHARE, math.floor(20 * share * seconds / plan.seconds) / 20))


def seconds_a_token(model: Model) -> float:
    """Of reading, at full depth: the fastest of several times, since other programs run too."""
    times = []
    with Context(model, n_ctx=MICRO_BATCH) as context:
        tokens = [model.tokenize("a", special=False)[0]] * _PROBE_TOKENS
        for _ in range(_PROBES):
            start = time.perf_counter()
            context.decode_batch(tokens, list(range(_PROBE_TOKENS)), [(0,)] * _PROBE_TOKENS, [False] * _PROBE_TOKENS)
            times.append(time.perf_counter() - start)
            context.clear()
    return min(times) / _PROBE_TOKENS
