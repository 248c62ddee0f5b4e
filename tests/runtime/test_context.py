"""Contexts: hooks, control vector, sequences; and that nothing is left behind."""

from __future__ import annotations

import gc
import signal
import threading

import numpy as np
import pytest

from fs_local.errors import ContextFullError, ModelError
from fs_local.runtime.context import Context
from fs_local.runtime.layer_states import LayerStates
from fs_local.runtime.model import Model
from fs_local.runtime.sampling import Sampler, Sampling

pytestmark = pytest.mark.usefixtures("node_filter")

TOKENS = list(range(100, 120))


def logits(context: Context) -> np.ndarray:
    context.clear()
    context.decode(TOKENS, start=0)
    return context.logits()


def test_reading_changes_nothing_and_sees_every_row(context: Context, tiny: Model) -> None:
    plain, shapes = logits(context), {}

    def read(states: LayerStates) -> bool:
        shapes[states.layer] = states.read().shape
        np.testing.assert_array_equal(states.read()[-1], states.last())
        return True

    with context.hooked(range(tiny.n_layer), read):
        np.testing.assert_array_equal(logits(context), plain)
    assert set(shapes) == set(range(6))
    assert set(shapes.values()) == {(20, 64), (1, 64)}
    assert shapes[5] == (1, 64)  # in the last block only rows that have outputs are present


@pytest.mark.parametrize("layer", [1, 2, 4, 5])
def test_a_write_and_a_control_vector_are_the_same_bits(context: Context, layer: int) -> None:
    vector = np.random.default_rng(layer).standard_normal(64).astype(np.float32)

    def add(states: LayerStates) -> bool:
        states.add(vector)
        return True

    plain = logits(context)
    with context.hooked([layer], add):
        written = logits(context)
    with context.control_vector({layer: vector}):
        native = logits(context)
    np.testing.assert_array_equal(written, native)
    assert not np.array_equal(plain, native)
    np.testing.assert_array_equal(logits(context), plain)


@pytest.mark.parametrize("raised", [ValueError("from the hook"), KeyboardInterrupt()])
def test_what_a_hook_raises_reaches_the_caller_and_the_context_goes_on(context: Context, raised: BaseException) -> None:
    plain = logits(context)

    def fail(_states: LayerStates) -> bool:
        raise raised

    context.clear()
    context.decode(TOKENS[:10], start=0)
    with pytest.raises(type(raised)), context.hooked([5], fail):
        context.decode(TOKENS[10:], start=10)
    assert context.n_past(0) == 10
    context.decode(TOKENS[10:], start=10)
    assert np.isfinite(context.logits()).all()
    np.testing.assert_array_equal(logits(context), plain)


def test_an_exception_ends_a_control_vector(context: Context) -> None:
    plain = logits(context)
    with pytest.raises(ZeroDivisionError), context.control_vector({5: np.ones(64, dtype=np.float32)}):
        _ = 1 / 0
    np.testing.assert_array_equal(logits(context), plain)


def test_logits_leave_nothing_for_the_collector(context: Context) -> None:
    """A circle at each token would stand in memory until some hundred thousand of them are collected."""
    logits(context)
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            context.logits()
            context.logits_in_place()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_graph_that_ends_early_has_no_logits(context: Context) -> None:
    seen = []

    def stop(states: LayerStates) -> bool:
        seen.append(states.layer)
        return False

    context.clear()
    with context.hooked([3, 4], stop):
        context.decode(TOKENS, start=0)
    assert context.stopped_early
    assert seen == [3]


def test_hooks_do_not_nest(context: Context) -> None:
    with context.hooked([1], lambda s: True), pytest.raises(RuntimeError), context.hooked([2], lambda s: True):
        pass


def test_rows_out_of_range_are_refused(context: Context) -> None:
    def read(states: LayerStates) -> bool:
        states.read(15, 10)
        return True

    with pytest.raises(IndexError), context.hooked([1], read):
        logits(context)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({0: np.ones(64, np.float32)}, "block 0 can't have a control vector"),
        ({6: np.ones(64, np.float32)}, "has layers 0 to 5"),
        ({3: np.ones(5, np.float32)}, "width 64"),
    ],
)
def test_impossible_control_vectors_say_so(context: Context, vectors: dict[int, np.ndarray], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        context.set_control_vector(vectors)


def test_impossible_layers_say_so(context: Context) -> None:
    with pytest.raises(ModelError, match="layer 6 is out of range"), context.hooked([6], lambda s: True):
        pass


def test_a_full_context_says_so_and_goes_on(tiny: Model) -> None:
    with Context(tiny, n_ctx=256) as small:
        small.decode([5] * 200, start=0)
        with pytest.raises(ContextFullError, match="256 tokens is full"):
            small.decode([5] * 100, start=200)
        small.clear()
        small.decode(TOKENS, start=0)
        assert np.isfinite(small.logits()).all()


def test_sequences_are_apart(context: Context) -> None:
    alone = logits(context)
    context.clear()
    context.decode([7, 8, 9], start=0, seq=1)
    context.decode(TOKENS, start=0, seq=0)
    np.testing.assert_allclose(context.logits(), alone, atol=1e-3)
    context.copy(0, 1, 10)
    assert (context.n_past(0), context.n_past(1)) == (20, 10)


def test_sampling_is_seeded_and_greedy_is_the_best_token(context: Context, tiny: Model) -> None:
    best = int(logits(context).argmax())
    with Sampler(Sampling.greedy(), 0, tiny.n_vocab) as sampler:
        assert sampler.sample(context) == best

    def draw(seed: int) -> list[int]:
        options = Sampling(temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0)
        with Sampler(options, seed, tiny.n_vocab) as sampler:
            return [sampler.sample(context) for _ in range(20)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    with Sampler(Sampling(top_k=1, repeat_penalty=1.0), 0, tiny.n_vocab) as sampler:
        assert {sampler.sample(context) for _ in range(5)} == {best}
    with Sampler(Sampling(temperature=0, repeat_penalty=1e6), 0, tiny.n_vocab) as sampler:
        drawn = [sampler.sample(context) for _ in range(5)]
    assert len(set(drawn)) == 5


def test_ctrl_c_in_the_middle_of_a_decode_reaches_the_caller(context: Context) -> None:
    """A real signal, while llama.cpp computes with a hook set: not lost in a callback, whenever it comes."""
    plain = logits(context)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with SIGINT ignored
    for delay in (0.0, 0.005, 0.02, 0.04):
        context.clear()
        timer = threading.Timer(delay, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt), context.hooked(range(6), lambda states: True):
            decode_until_interrupted(context, timer)
        timer.join()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)
    np.testing.assert_array_equal(logits(context), plain)


def decode_until_interrupted(context: Context, timer: threading.Timer) -> None:
    timer.start()
    for _ in range(20_000):
        context.clear()
        context.decode(TOKENS, start=0)


def test_two_threads_compute_what_one_does(tiny: Model) -> None:
    """Each worker of the tests has one core, and so one thread."""
    vector, seen, found = np.ones(tiny.width, dtype=np.float32), [], []

    def add(states: LayerStates) -> bool:
        seen.append(states.read())
        states.add(vector)
        return True

    for n_threads in (1, 2):
        with Context(tiny, n_ctx=256, n_threads=n_threads) as context:
            assert context.n_threads == n_threads
            found.append(logits(context))
            with context.hooked([3], add):
                found.append(logits(context))
    by_one, by_two = seen
    np.testing.assert_array_equal(by_one, by_two)
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])
    assert not np.array_equal(found[0], found[1])
