"""States that PyTorch reads are those that llama.cpp reads: tested on the same weights, not assumed.

Run with: pytest -m slow -n 0 -s tests/test_correspondence.py; it prints a table of how well they agree at each block.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from fs_local.capture import capture, query_request
from fs_local.demo import demo_examples
from fs_local.engine.packs import Packs
from fs_local.examples import Pair, Query
from fs_local.fitting import Examples, FitOptions, fit, fit_untried
from fs_local.fitting import given as given_module
from fs_local.fitting.given import read_states
from fs_local.model_files import resolve_model
from fs_local.runtime.model import Model
from fs_local.steering import identity
from tests.conftest import fetched_model
from tests.test_capture import one_by_one
from tests.transformers_model import TransformersModel

pytestmark = pytest.mark.slow

TEXTS = ["How do I bake bread?", "Why is the sky blue, and what makes it red at sunset?", "Write a haiku about rain."]
ANSWER = "It depends on the light, and on how far it has come."
Pytorch = tuple[Model, TransformersModel]


@pytest.fixture(scope="module", params=["smollm2", "qwen2.5"])
def both(request: pytest.FixtureRequest) -> Iterator[Pytorch]:
    path = resolve_model("smollm2") if request.param == "smollm2" else fetched_model(request.param)
    with Model.load(path) as model:
        yield model, TransformersModel(path)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of rows (…, d)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    cosines: np.ndarray = (a * b).sum(axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return cosines


def test_every_token_has_the_same_state_after_every_block(both: Pytorch) -> None:
    model, theirs = both
    layers = tuple(range(model.n_layer - 1))
    found = []
    for text in TEXTS:
        tokens = query_request(model, Query.of(text)).prompt
        ours = one_by_one(model, tokens, layers)
        found.append(cosine(np.stack([ours[il] for il in layers]), theirs.states(tokens)))
    cosines = np.concatenate(found, axis=1)
    places = [at for f in found for at in range(f.shape[1])]
    table = Table("block", "mean cosine", "worst token", "its place", box=MARKDOWN, title=f"{model.name} {model.quantization}, {len(places)} tokens")  # fmt: skip
    for il in layers:
        worst = int(cosines[il].argmin())
        table.add_row(str(il), f"{cosines[il].mean():.5f}", f"{cosines[il, worst]:.5f}", str(places[worst]))
    Console(width=100).print(table)
    later = np.array(places) > 0  # after block 0, the first token's state is hardly more than its embedding
    assert cosines[1:].mean(axis=1).min() >= 0.999
    assert cosines[0, later].mean() >= 0.999


def test_what_capture_reads_for_a_fit_is_the_same(both: Pytorch) -> None:
    model, theirs = both
    layers = list(range(model.n_layer - 1))
    requests = [query_request(model, Query.of(text), (ANSWER,)) for text in TEXTS]
    ours = capture(model, requests, layers)
    for i, r in enumerate(requests):
        states = theirs.states(r.prompt + r.answers[0])
        assert cosine(ours.queries[i], states[:, len(r.prompt) - 1]).min() >= 0.998
        assert cosine(ours.answers[i][0], states[:, len(r.prompt) :].mean(axis=1)).min() >= 0.998
    assert np.mean([cosine(ours.queries[i], theirs.states(r.prompt)[:, -1]) for i, r in enumerate(requests)]) >= 0.999


def test_a_pack_fitted_on_pytorchs_states_runs_on_the_gguf(
    smollm2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the very lines that the documentation shows."""
    theirs, block = TransformersModel(smollm2.path), 10
    for name, loaded in (("AutoModelForCausalLM", theirs.model), ("AutoTokenizer", theirs.tokenizer)):
        monkeypatch.setattr(f"transformers.{name}.from_pretrained", lambda _name, loaded=loaded: loaded)
    examples = demo_examples()
    pairs, general = examples.pairs[:32], examples.general["general"][:32]
    lines = (given_module.__doc__ or "").split("Made with transformers:\n")[1]
    shown = "\n".join(line.removeprefix("    ") for line in lines.split("\n"))
    monkeypatch.chdir(tmp_path)
    exec(
        shown,
        {
            "name": "the same weights",
            "pairs": [{"query": p.query.text, "preferred": p.preferred[0], "undesired": p.undesired[0]} for p in pairs],
            "general": [q.text for q in general],
            "blocks": [block],
        },
    )
    options = FitOptions(
        background=False,
        layers=(block,),
        gate_layer=block,
        gate="logistic",
        budget=0.2,
        strength=1.3,
        residual_rank=0,
        n_experts=(1, 1),
    )
    elsewhere = fit_untried(identity(smollm2), read_states(tmp_path / "states.npz"), options).pack
    one_answer = [Pair(p.query, p.preferred[:1], p.undesired[:1]) for p in pairs]
    here = fit(smollm2, Examples(one_answer, general={"general": general}), options).pack
    assert cosine(elsewhere.experts.prototypes[0], here.experts.prototypes[0]) >= 0.99
    ir = capture(smollm2, [query_request(smollm2, p.query) for p in examples.pairs[32:64]], [block]).at(block)
    others = examples.general["general"][32:64]
    other = capture(smollm2, [query_request(smollm2, q) for q in others], [block]).at(block)
    unseen = np.concatenate([ir, other])
    theirs_open, ours_open = (pack.gate.opening(unseen) > 0 for pack in (elsewhere, here))
    assert (theirs_open == ours_open).mean() >= 0.9
    assert theirs_open[: len(ir)].mean() > theirs_open[len(ir) :].mean() + 0.3
    Packs.load(smollm2, [elsewhere])
