"""Every method from a fit to what the runtime adds, on the tiny model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fs_local.capture import capture, query_request
from fs_local.choices import FitGate, FitMethod, Scope
from fs_local.evaluation.runner import Runner
from fs_local.examples import Query
from fs_local.fitting import Examples, FitOptions, fit
from fs_local.fitting.options import WITH_GATES
from fs_local.fitting.states import steer_layers
from fs_local.pack.file import Pack
from fs_local.pack.manifest import METHODS
from fs_local.runtime.model import Model

ASKED = Query.of("How do I pick the lock of my neighbour's door?")


@pytest.fixture
def both_ways(few_examples: Examples) -> Examples:
    """Pairs of which the unsteered model answers some as preferred already, as AdaSteer needs: every other one is turned around."""
    turned = [
        dataclasses.replace(p, preferred=p.undesired, undesired=p.preferred) if i % 2 else p
        for i, p in enumerate(few_examples.pairs[:16])
    ]
    return Examples(turned, general={"general": few_examples.general["general"][:16]})


@pytest.mark.parametrize("method", METHODS)
def test_what_is_fitted_is_what_the_runtime_adds(
    method: FitMethod, tiny: Model, both_ways: Examples, tmp_path: Path
) -> None:
    layers = (2, 4)
    gate: FitGate | None = "open" if method in WITH_GATES else None
    residual = 2 if method == "finesteer" else None
    options = FitOptions(
        background=False, method=method, layers=layers, strength=1.5, scope="prompt", gate=gate, residual_rank=residual
    )
    fit(tiny, both_ways, options).pack.save(tmp_path / "p.fspack")
    pack = Pack.load(tmp_path / "p.fspack")
    assert (pack.manifest.method, pack.manifest.steer.layers, pack.manifest.steer.scope) == (
        method,
        [*layers],
        "prompt",
    )
    assert pack.manifest.figures.held_out is not None
    runner = Runner(tiny)
    requests = runner.requests([ASKED, both_ways.pairs[0].query])
    found = capture(tiny, requests, range(6), readings=("last",))
    reads = pack.manifest.steer.read_layers
    assert reads == ([*layers] if method == "alphasteer" else [layers[0]])
    states = np.concatenate([found.at(layer) for layer in reads], axis=1)
    vectors = pack.experts.vector(states)
    if method != "dsas":  # which may find that nothing can be told apart
        assert np.abs(vectors).max() > 0
    for decided, vector in zip(runner.decide(pack, requests), vectors, strict=True):
        if decided.opening:
            added = np.concatenate([decided.additions[layer] for layer in layers])
            np.testing.assert_allclose(
                added, 1.5 * decided.opening * vector, rtol=2e-3, atol=2e-3 * np.abs(vector).max()
            )
        else:
            assert method == "cast"


def test_what_has_no_gate_may_have_ours(tiny: Model, both_ways: Examples) -> None:
    method: FitMethod = "caa"
    kinds = [
        fit(
            tiny, both_ways, FitOptions(background=False, method=method, layers=(3,), strength=1.0, gate=gate)
        ).pack.gate.kind
        for gate in (None, "quantile")
    ]
    assert kinds == ["open", "quantile"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_may_try_as_many_settings(method: FitMethod, smollm2: Model) -> None:
    assert len(steer_layers(smollm2, FitOptions(method=method))) == len(steer_layers(smollm2, FitOptions()))


@pytest.mark.parametrize("scope", ["prompt", "generation", "all"])
def test_the_prompts_scope_ends_where_the_answer_begins(scope: Scope, tiny: Model, both_ways: Examples) -> None:
    """The first token that is drawn is steered by the prompt's own positions; those after it see steered cells, and no addition."""
    pack = fit(
        tiny, both_ways, FitOptions(background=False, method="random", layers=(3,), strength=2.0, scope=scope)
    ).pack
    request = query_request(tiny, ASKED, ["some answer of several tokens"])
    runner = Runner(tiny)
    (decided,) = runner.decide(pack, [request])
    ((scores,),) = runner.scores([request], [decided], scope)
    ((everywhere,),), ((nowhere,),) = (
        runner.scores([request], [d], "all") for d in (decided, dataclasses.replace(decided, additions={}))
    )
    assert scores[0] != nowhere[0]
    if scope == "prompt":
        assert scores[0] == everywhere[0]
        assert all(a != b and a != c for a, b, c in zip(scores[1:], everywhere[1:], nowhere[1:], strict=True))
    elif scope == "all":
        assert scores == everywhere


def test_adasteer_says_what_it_needs(tiny: Model, few_examples: Examples) -> None:
    few = Examples(few_examples.pairs[:20], general={"general": few_examples.general["general"][:20]})
    with pytest.raises(
        Exception, match=r"AdaSteer needs pairs that the unsteered model answers as preferred, and others; of 13"
    ):
        fit(tiny, few, FitOptions(background=False, method="adasteer", layers=(3,), strength=1.0))
