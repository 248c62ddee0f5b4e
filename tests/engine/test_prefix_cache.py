"""What stands idle in the cells is put away, and comes back bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fs_local.engine import Prompt, Span, Steer
from fs_local.engine.cells import Cells
from fs_local.engine.prefix_cache import MOST_IDLE
from fs_local.runtime.context import Context
from fs_local.runtime.model import Model
from fs_local.runtime.sequence_state import saved
from tests.conftest import fetched_model
from tests.engine.asked import prompt_of
from tests.engine.driven import Driven
from tests.packs import synthetic_pack, with_gate
from tests.tiny_model import write_tiny_model


def continued(tokens: list[int]) -> Prompt:
    """A conversation with another turn."""
    more = prompt_of(20, 1).tokens
    return Prompt((*tokens, *more), Span(len(tokens) + 5, len(tokens) + 20), len(tokens))


@pytest.mark.parametrize("n", [200, 300, 600])
def test_a_conversation_goes_on_after_others_took_its_place(tiny: Model, n: int) -> None:
    packs = [synthetic_pack(tiny, "closed", layer=3, gate_layer=2)]
    with Driven(tiny, packs, n_ubatch=512, n_ctx=4096) as undisturbed:
        first = undisturbed.answer(prompt_of(n), 10)
        expected = undisturbed.answer(continued(first.work.tokens), 3)
    with Driven(tiny, packs, n_ubatch=512, n_ctx=4096) as driven:
        first = driven.answer(prompt_of(n), 10)
        for seed in range(2, 6):
            driven.answer(prompt_of(400, seed), 2)
        assert driven.worker.cells_used <= MOST_IDLE + 402, "what is idle doesn't stay in the cells"
        second = driven.answer(continued(first.work.tokens), 3)
    assert second.pieces[-1].cached_tokens == expected.pieces[-1].cached_tokens == n + 9
    # behind an answer, the last bits depend on where in the pool it stands
    np.testing.assert_allclose(np.stack(second.logits), np.stack(expected.logits), atol=0.05)
    assert second.pieces[-1].decisions[0].is_open == expected.pieces[-1].decisions[0].is_open


def test_a_sequence_comes_back_bit_for_bit(tiny: Model) -> None:
    """In other cells, in the same order."""
    with Context(tiny, n_ctx=2048, n_ubatch=512, n_seq=5) as context:

        def state(seq: int) -> bytes:
            (only,) = saved(context, seq, context.n_past(seq), 4)
            return only.state.tobytes()

        cells = Cells(context)
        cells.part(0, prompt_of(200).tokens, 0, False)
        cells.part(1, prompt_of(300).tokens, 0, False)
        cells.step([5, 6], [200, 300], [0, 1])
        before, kinds = state(1), bytes(cells.kinds(1))
        away = cells.put_away(1)
        assert (cells.length(1), context.n_past(1), cells.used) == (0, 0, 201)
        assert cells.put_back(2, away)
        assert (cells.length(2), context.n_past(2), cells.used) == (301, 301, 502)
        assert cells.begins_at(2) % 64 == 0
        after = state(2)
        assert bytes(cells.kinds(2)) == kinds
        cells.remove(2)
        assert cells.put_back(1, away)
        assert state(1) == before
        assert len(after) == len(before)
        assert not cells.put_back(2, away, 1800), "no room"
        assert cells.used == 502


def test_a_beginning_that_was_put_away_serves_others_too(tiny: Model) -> None:
    """And again: its copy stays."""
    one = prompt_of(300)
    others = [Prompt((*one.tokens[:280], *prompt_of(20, i).tokens), Span(282, 300), 0) for i in (1, 2)]
    packs = [synthetic_pack(tiny, "half", layer=3, gate_layer=2, scope="generation")]
    with Driven(tiny, packs, n_ubatch=512) as alone:
        expected = [alone.logits(other, 2) for other in others]
    with Driven(tiny, [], n_ubatch=512) as driven:
        driven.answer(one, 2)
        driven.packs = alone.packs
        for other, logits in zip(others, expected, strict=True):
            driven.answer(prompt_of(400, 7), 2)
            again = driven.answer(other, 2)
            assert again.pieces[-1].cached_tokens == 236
            np.testing.assert_array_equal(np.stack(again.logits), logits)


def test_what_is_put_away_has_a_bound(tiny: Model) -> None:
    with Driven(tiny, n_ubatch=512, n_ctx=1024) as driven:
        for seed in range(12):
            driven.answer(prompt_of(300, seed), 2)
        assert driven.worker.n_kept <= 4
        driven.worker.forget()
        assert driven.worker.n_kept == 0


def test_what_had_to_stand_anywhere_serves_no_decision(tiny: Model) -> None:
    """A sequence that made room is prefilled again where there are cells; its bits are not those of an empty pool."""
    coef = np.random.default_rng(1).standard_normal(tiny.width) / tiny.width**0.5
    packs = [with_gate(synthetic_pack(tiny, "half", layer=3, gate_layer=2), coef, 0.0)]
    unsteered = Steer(disabled=frozenset({packs[0].manifest.name}))
    asked = prompt_of(100, 4)
    with Driven(tiny, packs, n_ctx=512, n_seq=4) as alone:
        (expected,) = alone.decide(asked)
    with Driven(tiny, packs, n_ctx=512, n_seq=4) as driven:
        lasting = driven.begin(prompt_of(10), 200, steer=unsteered)
        driven.begin(prompt_of(200, 2), 75, steer=unsteered)
        evicted = driven.begin(asked, 90, steer=unsteered)
        while not evicted.is_done:
            driven.worker.turn()
        assert driven.worker.evicted
        assert not lasting.is_done
        (found,) = driven.decide(asked)
    assert found.opening == expected.opening
    np.testing.assert_array_equal(found.vector, expected.vector)


def assert_short_beginnings_keep_all_bits(model: Model, lengths: Sequence[int]) -> None:
    """30 tokens that all begin with, as a template's own system prompt: alone, and while others decode and come in between."""
    coef = np.random.default_rng(1).standard_normal(model.width) / model.width**0.5
    packs = [with_gate(synthetic_pack(model, "half", layer=3, gate_layer=2, scope="turn"), coef, 0.0)]
    begin = prompt_of(30).tokens
    prompts = [Prompt((*begin, *prompt_of(n - 30, i).tokens), Span(40, n), 30) for i, n in enumerate(lengths)]
    with Driven(model, packs, n_ubatch=512, n_ctx=4096) as alone:
        expected = [(alone.logits(prompt, 1), alone.decide(prompt, steer=Steer(exact=True))[0]) for prompt in prompts]
    with Driven(model, packs, n_ubatch=512, n_ctx=4096) as driven:
        driven.answer(Prompt((*begin, *prompt_of(80, 99).tokens), Span(40, 110), 30), 2)
        one_by_one = [driven.answer(prompt, 1) for prompt in prompts]
        beside = driven.begin(prompt_of(50, 98), 100)
        at_once = [driven.begin(prompt, 30) for prompt in prompts]
        driven.finish()
        assert beside.is_done
    for found in (one_by_one, at_once):
        for answer, (logits, decision) in zip(found, expected, strict=True):
            assert answer.pieces[-1].cached_tokens >= 28 or found is at_once, "alone, there is room for a copy"
            np.testing.assert_array_equal(answer.logits[0], logits[0])
            (of_this,) = answer.pieces[-1].decisions
            assert of_this.opening == decision.opening
            np.testing.assert_array_equal(of_this.vector, decision.vector)


def test_a_short_beginning_is_copied_and_keeps_all_bits(tiny: Model) -> None:
    assert_short_beginnings_keep_all_bits(tiny, [94, 101, 130, 203, 300, 570, 1100])


def test_the_same_on_a_quantized_model(smollm2: Model) -> None:
    assert_short_beginnings_keep_all_bits(smollm2, [97, 158])


def test_what_fell_out_of_a_sliding_window_stays_for_others(tmp_path: Path) -> None:
    """llama.cpp would give such cells away, in some blocks alone."""
    with Model.load(write_tiny_model(tmp_path / "windows.gguf", window=64)) as model:
        assert model.window == 64
        assert_short_beginnings_keep_all_bits(model, [94, 130, 300, 570, 1100])
        long = prompt_of(700)
        short = Prompt((*long.tokens[:200], *prompt_of(80, 3).tokens), Span(210, 280), 0)
        with Driven(model, n_ubatch=512) as alone:
            expected = alone.logits(short, 1)
        with Driven(model, n_ubatch=512) as driven:
            driven.answer(long, 60)
            for seed in range(4):  # they take all cells that they can get
                driven.answer(prompt_of(350, seed), 40)
            again = driven.answer(short, 1)
        assert again.pieces[-1].cached_tokens >= 192
        np.testing.assert_array_equal(again.logits[0], expected[0])


def test_a_decode_may_have_fewer_rows_than_there_are_sequences(tmp_path: Path) -> None:
    """Each sequence has a second one, and llama.cpp ends the process where a batch has no place for a token of each."""
    path = write_tiny_model(tmp_path / "windows.gguf", window=64)
    with Model.load(path) as model, Context(model, n_ctx=512, n_ubatch=8, n_seq=18) as context:
        context.decode(prompt_of(8).tokens, start=0, seq=17)
        assert context.n_past(17) == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2.5", "gemma3"])
def test_the_same_on_other_architectures(name: str) -> None:
    with Model.load(fetched_model(name)) as model:
        assert_short_beginnings_keep_all_bits(model, [94, 101, 130, 203, 300, 570, 1100])
