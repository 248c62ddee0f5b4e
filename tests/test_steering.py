"""Exactness: what steering computes is what llama.cpp computes, bit for bit."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest

from fs_local.errors import ContextFullError, PackError
from fs_local.examples import Query
from fs_local.pack.file import Pack
from fs_local.runtime.context import Context, LayerStates, default_threads
from fs_local.runtime.library import llama
from fs_local.runtime.model import Model
from fs_local.steering import Steering, added_by_layer, check_model, has_control_vector_hook
from tests.conftest import fetched_model
from tests.packs import random_pack, synthetic_pack, with_gate

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
UBATCH = 64


@pytest.fixture
def context(tiny: Model) -> Iterator[Context]:
    with Context(tiny, n_ctx=2048, n_ubatch=UBATCH, n_seq=2) as context:
        yield context


def prompts(model: Model) -> list[list[int]]:
    return [model.prompt_tokens(list(Query.of(text).messages)) for text in SHORT + LONG]


def stock_logits(
    model: Model, tokens: list[int], n_answer: int, n_ubatch: int = UBATCH, control_vector: np.ndarray | None = None
) -> np.ndarray:
    """Logits of the last prompt token and of a greedy answer, by llama.cpp alone: no callback, its own splitting of batches.

    control_vector: float32, (blocks - 1, d), set natively for all blocks from 1 on."""
    api = llama()
    params = api.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 2048, 2048, n_ubatch
    params.n_threads = params.n_threads_batch = default_threads()
    handle = api.llama_init_from_model(model.handle, params)
    if control_vector is not None:
        data = control_vector.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        assert api.llama_set_adapter_cvec(handle, data, control_vector.size, model.width, 1, model.n_layer) == 0
    rows, now = [], list(tokens)
    for _ in range(n_answer):
        array = (ctypes.c_int32 * len(now))(*now)
        assert api.llama_decode(handle, api.llama_batch_get_one(array, len(now))) == 0
        rows.append(np.ctypeslib.as_array(api.llama_get_logits_ith(handle, -1), shape=(model.n_vocab,)).copy())
        now = [int(rows[-1].argmax())]
    api.llama_free(handle)
    return np.stack(rows)


def steered_logits(context: Context, steering: Steering, tokens: list[int], n_answer: int) -> np.ndarray:
    """The same by our own steering."""
    context.clear()
    decisions = steering.prefill(context, tokens)
    rows = [context.logits()]
    with steering.applied(context, decisions):
        while len(rows) < n_answer:
            context.decode([int(rows[-1].argmax())], start=context.n_past(0))
            rows.append(context.logits())
    return np.stack(rows)


def reference_logits(context: Context, pack: Pack, tokens: list[int], n_answer: int) -> np.ndarray:
    """Two passes: probe unsteered, clear, prefill with the control vector set, decode."""
    seen: dict[int, np.ndarray] = {}

    def read(states: LayerStates) -> bool:
        seen[states.layer] = states.last()
        return True

    def evaluate(now: list[int], start: int) -> np.ndarray:
        for first in range(0, len(now), context.n_ubatch):
            context.decode(now[first : first + context.n_ubatch], start=start + first)
        return context.logits()

    manifest = pack.manifest
    context.clear()
    gate_layers, layers = manifest.gate.layers, manifest.steer.layers
    with context.hooked(sorted({*gate_layers, layers[0]}), read):
        evaluate(tokens, 0)
    found = pack.engine()(np.concatenate([seen[x] for x in gate_layers]), seen[layers[0]])
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
    """All three: steered = reference, whatever the gate; closed = stock; open ≠ stock."""
    assert max(len(t) for t in chosen) > n_ubatch
    with Context(model, n_ctx=2048, n_ubatch=n_ubatch) as context:
        stock = [stock_logits(model, t, 4, n_ubatch) for t in chosen]
        for tokens, plain in zip(chosen, stock, strict=True):
            np.testing.assert_array_equal(steered_logits(context, Steering(model), tokens, 4), plain)
        for layer, gate_layer in layers:
            for gate in ("open", "half", "closed"):
                pack = synthetic_pack(model, gate, layer=layer, gate_layer=gate_layer)
                steering = Steering(model, [pack])
                for tokens, plain in zip(chosen, stock, strict=True):
                    ours = steered_logits(context, steering, tokens, 4)
                    np.testing.assert_array_equal(ours, reference_logits(context, pack, tokens, 4))
                    assert np.array_equal(ours, plain) == (gate == "closed")


@pytest.mark.usefixtures("node_filter")
def test_single_pass_two_pass_and_stock_agree_bit_for_bit(tiny: Model) -> None:
    everything = prompts(tiny)
    assert min(len(t) for t in everything) < UBATCH
    assert_exact(tiny, [(3, 3)], everything)
    few = [everything[0], everything[7], everything[-1]]
    assert_exact(tiny, [(1, 0), (4, 2), (2, 4), (5, 1), ([3, 4], [1, 2]), ([1, 2, 4], [1, 3])], few)


def test_the_same_on_a_quantized_model(smollm2: Model) -> None:
    long = smollm2.tokenize("all work and no play " * 16)[: UBATCH + 2]
    assert_exact(smollm2, [(10, 10), (8, 22)], [prompts(smollm2)[0], long])


def test_the_same_with_micro_batches_of_the_usual_size(tiny: Model) -> None:
    assert_exact(tiny, [(3, 3)], [tiny.tokenize("all work and no play " * 120)[:560]], n_ubatch=512)


@pytest.mark.parametrize("looks", ["open", "closed"])
def test_a_wrong_guess_at_the_first_part_changes_nothing(context: Context, tiny: Model, looks: str) -> None:
    """A gate that is one thing at the end of the first micro-batch, and the other at the end of the prompt."""
    tokens, ends = prompts(tiny)[-1], []

    def read(states: LayerStates) -> bool:
        ends.append(states.last())
        return True

    with context.hooked([3], read):
        for first in range(0, len(tokens), UBATCH):
            context.decode(tokens[first : first + UBATCH], start=first)
    first_end, last = (ends[0], ends[-1]) if looks == "open" else (ends[-1], ends[0])
    apart = (first_end - last).astype(np.float64)
    coef = 16 * apart / (apart @ apart)  # logits of 8 and -8
    middle = coef @ (first_end + last) / 2
    pack = with_gate(synthetic_pack(tiny, "open", layer=3, gate_layer=3), coef, float(-middle))
    ours = steered_logits(context, Steering(tiny, [pack]), tokens, 3)
    np.testing.assert_array_equal(ours, reference_logits(context, pack, tokens, 3))
    assert np.array_equal(ours, stock_logits(tiny, tokens, 3)) == (looks == "open")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2.5", "gemma3"])
def test_the_same_on_other_architectures(name: str) -> None:
    with Model.load(fetched_model(name)) as model:
        n = model.n_layer
        everything = prompts(model)
        assert_exact(model, [(n // 3, n // 3), (n // 2, n // 4)], everything)
        assert_exact(model, [(n // 3, 2 * n // 3), (n - 1, 1)], [*everything[:3], everything[-1]])


def test_generation_scope_starts_at_the_last_prompt_token(context: Context, tiny: Model) -> None:
    """It equals adding the vector, from the callback, to the last prompt token and to every generated one."""
    for tokens in (prompts(tiny)[1], prompts(tiny)[-2]):
        for gate_layer in (2, 4):  # one pass, and two
            pack = synthetic_pack(tiny, "open", layer=3, gate_layer=gate_layer, scope="generation")
            steering = Steering(tiny, [pack])
            ours = steered_logits(context, steering, tokens, 4)
            context.clear()  # beside other cells, parts of 64 tokens sum in another order
            (decision,) = steering.decide(context, tokens, seq=1)

            def add(states: LayerStates, addition: np.ndarray = decision.addition) -> bool:
                states.add(addition, first=states.n_rows - 1)
                return True

            context.clear()
            chunks = [tokens[i : i + UBATCH] for i in range(0, len(tokens), UBATCH)]
            for i, chunk in enumerate(chunks[:-1]):
                context.decode(chunk, start=UBATCH * i)
            with context.hooked([3], add):
                context.decode(chunks[-1], start=UBATCH * (len(chunks) - 1))
                rows = [context.logits()]
                while len(rows) < 4:
                    context.decode([int(rows[-1].argmax())], start=context.n_past(0))
                    rows.append(context.logits())
            np.testing.assert_array_equal(ours, np.stack(rows))


def test_several_packs_decide_on_the_unsteered_model_and_add_up(context: Context, tiny: Model) -> None:
    first = synthetic_pack(tiny, "open", layer=2, gate_layer=2, seed=1, name="first")
    second = synthetic_pack(tiny, "half", layer=4, gate_layer=3, seed=2, name="second")
    third = synthetic_pack(tiny, "closed", layer=4, gate_layer=5, seed=3, name="third")
    tokens = prompts(tiny)[1]
    alone = [Steering(tiny, [p]).decide(context, tokens)[0] for p in (first, second, third)]
    together = Steering(tiny, [first, second, third])
    decisions = together.decide(context, tokens)
    for a, b in zip(alone, decisions, strict=True):
        assert a.opening == b.opening
        np.testing.assert_array_equal(a.vector, b.vector)
    assert 0 < decisions[1].opening < 1
    assert not decisions[2].is_open
    ours = steered_logits(context, together, tokens, 3)
    context.clear()
    with context.control_vector({2: alone[0].addition[0], 4: alone[1].addition[0]}):
        context.decode(tokens, start=0)
        np.testing.assert_array_equal(context.logits(), ours[0])


def test_packs_at_one_layer_are_summed(context: Context, tiny: Model) -> None:
    packs = [synthetic_pack(tiny, "open", layer=2, gate_layer=2, seed=s, name=f"p{s}") for s in (1, 2)]
    decisions = Steering(tiny, packs).decide(context, prompts(tiny)[0])
    np.testing.assert_array_equal(added_by_layer(decisions)[2], (decisions[0].addition + decisions[1].addition)[0])


def test_decide_leaves_no_trace(context: Context, tiny: Model) -> None:
    tokens = prompts(tiny)[2]
    steering = Steering(tiny, [synthetic_pack(tiny, "open", layer=3, gate_layer=1)])
    assert steering.decide(context, tokens)[0].opening == 1
    assert context.n_past(0) == 0
    np.testing.assert_array_equal(steered_logits(context, Steering(tiny), tokens, 2), stock_logits(tiny, tokens, 2))


def test_engines_give_the_same_decisions(context: Context, tiny: Model, tiny_fitted: Pack) -> None:
    for tokens in prompts(tiny)[:5]:
        (a,) = Steering(tiny, [tiny_fitted]).decide(context, tokens)
        (b,) = Steering(tiny, [tiny_fitted], engine="onnx").decide(context, tokens)
        assert a.opening == pytest.approx(b.opening, abs=1e-5)
        assert a.energy_ratio == pytest.approx(b.energy_ratio, abs=1e-5)
        np.testing.assert_allclose(a.weights, b.weights, atol=1e-5)
        np.testing.assert_allclose(a.vector, b.vector, atol=1e-5, rtol=1e-5)


def test_an_architecture_without_the_hook_is_steered_from_the_callback(
    context: Context, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some graphs ignore a control vector in silence. Here the vector never reaches the graph, and the result is the same."""
    pack = synthetic_pack(tiny, "open", layer=3, gate_layer=4)
    native = [steered_logits(context, Steering(tiny, [pack]), t, 3) for t in (prompts(tiny)[1], prompts(tiny)[-1])]
    assert has_control_vector_hook(context)
    monkeypatch.setattr(Context, "set_control_vector", lambda self, vectors: None)
    assert not has_control_vector_hook(context)
    again = [steered_logits(context, Steering(tiny, [pack]), t, 3) for t in (prompts(tiny)[1], prompts(tiny)[-1])]
    for a, b in zip(native, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_prompt_longer_than_the_context_says_so(context: Context, tiny: Model) -> None:
    for packs in ([], [synthetic_pack(tiny, "open", layer=3, gate_layer=1)]):
        with pytest.raises(ContextFullError, match="shorten it or raise --ctx"):
            Steering(tiny, packs).prefill(context, list(range(context.n_ctx)))


def test_a_pack_for_another_model_names_both(tiny: Model) -> None:
    with pytest.raises(PackError, match=f"fingerprint 0123456789abcdef.*fingerprint {tiny.fingerprint}"):
        Steering(tiny, [random_pack()])


def test_another_quantization_is_a_note(tiny: Model) -> None:
    pack = synthetic_pack(tiny, "open", layer=3, gate_layer=1)
    assert check_model(pack, tiny) is None
    identity = pack.manifest.model.model_copy(update={"quantization": "Q8_0"})
    other = Pack(pack.manifest.model_copy(update={"model": identity}), pack.gate, pack.experts, pack.graph)
    assert "fitted with Q8_0" in (check_model(other, tiny) or "")


def test_packs_of_different_scope_do_not_mix(tiny: Model) -> None:
    packs = [synthetic_pack(tiny, "open", layer=3, gate_layer=1, scope=s) for s in ("all", "generation")]
    with pytest.raises(PackError, match="different scopes"):
        Steering(tiny, packs)
