"""Exactness: what steering computes is what llama.cpp computes, bit for bit."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from fs_local.choices import Scope
from fs_local.engine import Decision, Engine, Prompt, Span, Steer, added_by_layer
from fs_local.examples import Query
from fs_local.pack.file import Pack
from fs_local.runtime.context import Context
from fs_local.runtime.layer_states import LayerStates
from fs_local.runtime.model import Model
from tests.conftest import fetched_model
from tests.engine.driven import UBATCH, Driven, stock_logits
from tests.packs import synthetic_pack, with_gate

SHORT = [
    "Hi", "How do I bake bread?", "What is the capital of France?", "Write a haiku about rain.", "Why is the sky blue?", "1+1=",
    "Name a fruit.", "Explain gravity to a child.", "¿Qué hora es?", "Wie geht es dir?", "List three rivers in Asia.",
    "def add(a, b):", "Tell me a joke about cats.", "Is water wet?", "Who was Ada Lovelace?", "Give me a synonym for happy.",
    "Sum up the plot of Hamlet.", "What rhymes with orange?", "Translate 'good night' into French.", "How many legs has a spider?",
    "Recommend a book about the sea.",
]  # fmt: skip
LONG = [
    "Repeat after me. " + "The quick brown fox jumps over the lazy dog, and then it rests. " * 2,
    "count these words " * 10,
]


def prompts(model: Model) -> list[list[int]]:
    return [model.prompt_tokens(list(Query.of(text).messages)) for text in SHORT + LONG]


def chunks(tokens: list[int], size: int) -> list[tuple[int, list[int]]]:
    return [(first, tokens[first : first + size]) for first in range(0, len(tokens), size)]


def reference_logits(context: Context, pack: Pack, tokens: list[int], n_answer: int = 4) -> np.ndarray:
    """Two passes: probe unsteered, clear, prefill with the control vector set, decode."""
    seen: dict[int, np.ndarray] = {}

    def read(states: LayerStates) -> bool:
        seen[states.layer] = states.last()
        return True

    def evaluate(now: list[int], start: int) -> np.ndarray:
        for first, chunk in chunks(now, context.n_ubatch):
            context.decode(chunk, start=start + first)
        return context.logits()

    manifest = pack.manifest
    gate_layers, layers = manifest.gate.layers, manifest.steer.layers
    context.clear()
    with context.hooked(sorted({*gate_layers, layers[0]}), read):
        evaluate(tokens, 0)
    found = pack.evaluator()(np.concatenate([seen[x] for x in gate_layers]), seen[layers[0]])
    additions = np.float32(manifest.steer.strength * found.opening) * found.vector.reshape(len(layers), -1)
    context.clear()
    with context.control_vector(dict(zip(layers, additions, strict=True))) if found.opening else nullcontext():
        rows = [evaluate(tokens, 0)]
        while len(rows) < n_answer:
            rows.append(evaluate([int(rows[-1].argmax())], context.n_past(0)))
    return np.stack(rows)


def assert_exact(
    model: Model, layers: list[tuple[int | list[int], int | list[int]]], chosen: list[list[int]], n_ubatch: int = UBATCH
) -> None:
    """All three: steered = reference, whatever the gate; closed = stock; open ≠ stock; whatever was asked before."""
    assert max(len(t) for t in chosen) > n_ubatch
    stock = [stock_logits(model, t, 4, n_ubatch) for t in chosen]
    with Driven(model, n_ubatch=n_ubatch) as plain:
        for tokens, alone in zip(chosen, stock, strict=True):
            ours = plain.logits(tokens)
            np.testing.assert_array_equal(ours, alone[: len(ours)])  # an answer may end before its fourth token
    with Context(model, n_ctx=2048, n_ubatch=n_ubatch) as context:
        for layer, gate_layer in layers:
            for gate in ("open", "half", "closed"):
                pack = synthetic_pack(model, gate, layer=layer, gate_layer=gate_layer)
                with Driven(model, [pack], n_ubatch=n_ubatch) as driven:
                    for tokens, alone in zip(chosen, stock, strict=True):
                        ours = driven.logits(tokens)
                        np.testing.assert_array_equal(ours, reference_logits(context, pack, tokens)[: len(ours)])
                        assert np.array_equal(ours, alone[: len(ours)]) == (gate == "closed")


@pytest.mark.usefixtures("node_filter")
def test_single_pass_two_pass_and_stock_agree_bit_for_bit(tiny: Model) -> None:
    everything = prompts(tiny)
    assert min(len(t) for t in everything) < UBATCH
    assert_exact(tiny, [(3, 3)], everything)
    few = [everything[0], everything[7], everything[-1]]
    assert_exact(tiny, [(1, 0), (4, 2), (2, 4), (5, 1), ([3, 4], [1, 2]), ([1, 2, 4], [1, 3])], few)


def test_the_same_on_a_quantized_model(smollm2: Model) -> None:
    long = smollm2.tokenize("all work and no play " * 8)[:34]
    assert_exact(smollm2, [(10, 10), (8, 22)], [prompts(smollm2)[0], long], n_ubatch=32)


def test_the_same_with_micro_batches_of_the_usual_size(tiny: Model) -> None:
    assert_exact(tiny, [(3, 3)], [tiny.tokenize("all work and no play " * 120)[:560]], n_ubatch=512)


@pytest.mark.parametrize("looks", ["open", "closed"])
def test_a_wrong_guess_at_the_first_part_changes_nothing(tiny: Model, looks: str) -> None:
    """A gate that is one thing at the end of the first micro-batch, and the other at the end of the prompt."""
    tokens, ends = prompts(tiny)[-1], []

    def read(states: LayerStates) -> bool:
        ends.append(states.last())
        return True

    with Context(tiny, n_ctx=2048, n_ubatch=UBATCH) as context, context.hooked([3], read):
        for first, chunk in chunks(tokens, UBATCH):
            context.decode(chunk, start=first)
    first_end, last = (ends[0], ends[-1]) if looks == "open" else (ends[-1], ends[0])
    apart = (first_end - last).astype(np.float64)
    coef = 16 * apart / (apart @ apart)  # logits of 8 and -8
    middle = coef @ (first_end + last) / 2
    pack = with_gate(synthetic_pack(tiny, "open", layer=3, gate_layer=3), coef, float(-middle))
    with Driven(tiny, [pack]) as driven, Context(tiny, n_ctx=2048, n_ubatch=UBATCH) as context:
        ours = driven.logits(tokens)
        np.testing.assert_array_equal(ours, reference_logits(context, pack, tokens))
    assert np.array_equal(ours, stock_logits(tiny, tokens, 4)) == (looks == "open")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2.5", "gemma3"])
def test_the_same_on_other_architectures(name: str) -> None:
    with Model.load(fetched_model(name)) as model:
        n = model.n_layer
        everything = prompts(model)
        assert_exact(model, [(n // 3, n // 3), (n // 2, n // 4)], everything, n_ubatch=32)
        assert_exact(model, [(n // 3, 2 * n // 3), (n - 1, 1)], [*everything[:3], *everything[-2:]], n_ubatch=32)


@pytest.mark.parametrize("gate_layer", [2, 4])  # one pass, and two
@pytest.mark.parametrize("scope", ["generation", "turn"])
def test_a_scope_begins_where_it_says(tiny: Model, gate_layer: int, scope: Scope) -> None:
    """It equals adding the vector, from the callback, to the positions from there on."""
    for tokens in (prompts(tiny)[1], prompts(tiny)[-2]):
        prompt = Prompt(tuple(tokens), Span(20, 30), 18)
        first_steered = 18 if scope == "turn" else len(tokens) - 1
        pack = synthetic_pack(tiny, "open", layer=3, gate_layer=gate_layer, scope=scope)
        with Driven(tiny, [pack]) as driven:
            ours = driven.logits(prompt)
            (decision,) = driven.decide(prompt)
        at = [0]

        def add(
            states: LayerStates,
            first: int = first_steered,
            addition: np.ndarray = decision.addition,
            at: list[int] = at,
        ) -> bool:
            if at[0] + states.n_rows > first:
                states.add(addition, first=max(first - at[0], 0))
            return True

        with Context(tiny, n_ctx=2048, n_ubatch=UBATCH) as context, context.hooked([3], add):
            for at[0], chunk in chunks(tokens, UBATCH):
                context.decode(chunk, start=at[0])
            rows = [context.logits()]
            while len(rows) < 4:
                at[0] = context.n_past(0)
                context.decode([int(rows[-1].argmax())], start=at[0])
                rows.append(context.logits())
        np.testing.assert_array_equal(ours, np.stack(rows))


def test_several_packs_decide_on_the_unsteered_model_and_add_up(tiny: Model) -> None:
    first = synthetic_pack(tiny, "open", layer=2, gate_layer=2, seed=1, name="first")
    second = synthetic_pack(tiny, "half", layer=4, gate_layer=3, seed=2, name="second")
    third = synthetic_pack(tiny, "closed", layer=4, gate_layer=5, seed=3, name="third")
    tokens = prompts(tiny)[1]
    alone = []
    for pack in (first, second, third):
        with Driven(tiny, [pack]) as driven:
            alone += driven.decide(tokens)
    with Driven(tiny, [first, second, third]) as driven:
        decisions = driven.decide(tokens)
        ours = driven.logits(tokens)
        for a, b in zip(alone, decisions, strict=True):
            assert a.opening == b.opening
            np.testing.assert_array_equal(a.vector, b.vector)
        (only,) = driven.decide(tokens, steer=Steer(disabled=frozenset({"first", "third"}), strengths={"second": 0.25}))
        assert (only.pack, only.strength, only.opening) == ("second", 0.25, decisions[1].opening)
    assert 0 < decisions[1].opening < 1
    assert not decisions[2].is_open
    both = {2: alone[0].addition[0], 4: alone[1].addition[0]}
    with Context(tiny, n_ctx=512) as context, context.control_vector(both):
        context.decode(tokens, start=0)
        np.testing.assert_array_equal(context.logits(), ours[0])


def test_packs_at_one_layer_are_summed(tiny: Model) -> None:
    packs = [synthetic_pack(tiny, "open", layer=2, gate_layer=2, seed=s, name=f"p{s}") for s in (1, 2)]
    with Driven(tiny, packs) as driven:
        decisions = driven.decide(prompts(tiny)[0])
    np.testing.assert_array_equal(added_by_layer(decisions)[2], (decisions[0].addition + decisions[1].addition)[0])


def test_decide_leaves_no_trace(tiny: Model) -> None:
    tokens = prompts(tiny)[2]
    with Driven(tiny, [synthetic_pack(tiny, "open", layer=3, gate_layer=1)]) as driven:
        assert driven.decide(tokens)[0].opening == 1
        assert driven.worker.cells_used == 0
        plain = driven.logits(tokens, steer=Steer(enabled=False, exact=True))
    np.testing.assert_array_equal(plain, stock_logits(tiny, tokens, 4))


def test_onnx_gives_the_same_decisions(tiny: Model, tiny_fitted: Pack) -> None:
    with (
        Engine(tiny, [tiny_fitted], n_ctx=512) as ours,
        Engine(tiny, [tiny_fitted], n_ctx=512, evaluator="onnx") as onnx,
    ):
        for tokens in prompts(tiny)[:5]:
            (a,), (b,) = ours.decide(Prompt.plain(tokens)), onnx.decide(Prompt.plain(tokens))
            assert a.opening == pytest.approx(b.opening, abs=1e-5)
            assert a.energy_ratio == pytest.approx(b.energy_ratio, abs=1e-5)
            np.testing.assert_allclose(a.weights, b.weights, atol=1e-5)
            np.testing.assert_allclose(a.vector, b.vector, atol=1e-5, rtol=1e-5)


def test_given_decisions_steer_as_those_that_were_made(tiny: Model) -> None:
    pack = synthetic_pack(tiny, "half", layer=3, gate_layer=4)
    for tokens in (prompts(tiny)[1], prompts(tiny)[-1]):
        with Driven(tiny, [pack]) as driven:
            made, ours = driven.decide(tokens), driven.logits(tokens)
        with Driven(tiny) as driven:
            np.testing.assert_array_equal(driven.logits(tokens, steer=Steer(given=tuple(made), exact=True)), ours)
            vectors = added_by_layer(made)
            given = Steer(given=(Decision.of_vectors(vectors),), exact=True)
            np.testing.assert_array_equal(driven.logits(tokens, steer=given), ours)
