"""Many requests at once: each is answered as it would be alone, and what goes wrong with one is its own."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import numpy as np
import pytest

from fs_local.engine import (
    Engine,
    Piece,
    Prompt,
    Sampling,
    Span,
    Steer,
)
from fs_local.engine.cells import Cells, prompt_parts, same_sums_from
from fs_local.errors import PackError
from fs_local.pack.file import Pack
from fs_local.runtime.model import Model
from tests.engine.asked import asked, last, prompt_of, text
from tests.engine.driven import Driven, stock_logits
from tests.packs import synthetic_pack

LENGTHS = (2, 30, 63, 64, 65, 100, 128, 200, 512, 513, 514, 576, 600)
OFF = Steer(enabled=False)
NEVER_ENDS = Sampling(temperature=0.0, repeat_penalty=1.0, logit_bias={2: float("-inf"), 0: float("-inf")})


# --- bits


@pytest.mark.usefixtures("node_filter")
@pytest.mark.parametrize("gate", ["half", "closed"])
def test_decisions_under_load_are_those_of_the_query_alone(tiny: Model, gate: str) -> None:
    pack, rng = synthetic_pack(tiny, gate, layer=3, gate_layer=2), random.Random(0)
    with Driven(tiny, [pack], n_ubatch=512) as alone:
        decided = {n: alone.decide(prompt_of(n), steer=Steer(exact=True))[0] for n in LENGTHS}
    with Driven(tiny, [pack], n_ubatch=512) as driven:
        for n in [*LENGTHS, *reversed(LENGTHS)]:
            others = [driven.begin(prompt_of(rng.randrange(5, 90), i), rng.randrange(1, 60)) for i in range(3)]
            others[0].mailbox.cancelled = rng.random() < 0.5
            (found,) = driven.answer(prompt_of(n), 2).pieces[-1].decisions
            assert found.opening == decided[n].opening
            np.testing.assert_array_equal(found.vector, decided[n].vector)
        assert driven.worker.n_at_work > 1


def test_without_their_place_in_the_pool_decisions_would_depend_on_load(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `Cells` does is needed: llama.cpp's attention sums in tiles of the pool."""
    monkeypatch.setattr(Cells, "aligned", lambda self, seq, n_rows: True)
    pack = synthetic_pack(tiny, "half", layer=3, gate_layer=2)
    with Driven(tiny, [pack], n_ubatch=512) as driven:
        (alone,) = driven.decide(prompt_of(100), steer=Steer(exact=True))
        driven.begin(prompt_of(37), 500)
        (beside,) = driven.decide(prompt_of(100))
    assert not np.array_equal(alone.vector, beside.vector)


def test_closed_turns_after_steered_ones_are_stocks(tiny: Model) -> None:
    """The steered turn's prompt and answer are evaluated anew, unsteered, in the parts that llama.cpp takes by itself."""
    pack = synthetic_pack(tiny, "half", layer=3, gate_layer=2)
    first = prompt_of(70)
    with Driven(tiny, [pack]) as driven:
        opened = driven.answer(first, 10)
        assert opened.pieces[-1].decisions[0].is_open
        said = opened.work.tokens
        second = Prompt((*said, *prompt_of(20, 1).tokens), Span(85, 100), 80)
        answer = driven.answer(second, 3, steer=OFF)
        assert answer.pieces[-1].cached_tokens == 0
        np.testing.assert_array_equal(np.stack(answer.logits), stock_logits(tiny, second.tokens, 3))


def test_a_closed_conversation_evaluates_what_is_new_as_llama_cpp_does(tiny: Model) -> None:
    with Driven(tiny, [synthetic_pack(tiny, "closed", layer=3, gate_layer=2)], n_ubatch=512) as driven:
        first = driven.answer(prompt_of(40), 10)
        more = list(prompt_of(20, 1).tokens)
        second = driven.answer(Prompt((*first.work.tokens, *more), Span(55, 70), 50), 3)
        assert second.pieces[-1].cached_tokens == 49  # all that was evaluated: not the last token drawn
        from fs_local.runtime.context import Context

        with Context(tiny, n_ctx=2048) as context:
            context.decode(prompt_of(40).tokens, start=0)
            for i, token in enumerate(first.work.tokens[40:49]):
                context.decode([token], start=40 + i)
            context.decode([first.work.tokens[49], *more], start=49)
            np.testing.assert_array_equal(second.logits[0], context.logits())


@pytest.mark.parametrize("n", [40, 200])
def test_a_shared_beginning_is_evaluated_once_and_keeps_all_bits(tiny: Model, n: int) -> None:
    pack = synthetic_pack(tiny, "closed", layer=3, gate_layer=2)
    one = prompt_of(n)
    other = Prompt((*one.tokens[: n - 10], *prompt_of(10, 1).tokens), Span(n - 8, n), 0)
    with Driven(tiny, [pack], n_ubatch=512) as driven:
        alone = driven.logits(other, 1)
    with Driven(tiny, [pack], n_ubatch=512) as driven:
        driven.answer(one)
        again = driven.answer(other, 1)
    np.testing.assert_array_equal(np.stack(again.logits), alone)
    assert again.pieces[-1].cached_tokens == (n - 10 if n < 64 else 136)


def test_what_comes_before_a_steered_turn_is_shared_and_the_turn_is_evaluated_once(tiny: Model) -> None:
    pack = synthetic_pack(tiny, "open", layer=3, gate_layer=2, scope="turn")
    one = prompt_of(40)
    prompts = [Prompt((*one.tokens[:20], *prompt_of(20, i).tokens), Span(22, 40), 20) for i in range(2)]
    alone = []
    for prompt in prompts:
        with Driven(tiny, [pack], n_ubatch=512) as driven:
            alone.append(driven.logits(prompt, 1))
    with Driven(tiny, [pack], n_ubatch=512) as driven:
        found = [driven.answer(prompt, 1) for prompt in prompts]
        assert driven.worker.evaluated == 40 + 20
    assert [f.pieces[-1].cached_tokens for f in found] == [0, 20]
    for f, logits in zip(found, alone, strict=True):
        np.testing.assert_array_equal(np.stack(f.logits), logits)


def test_what_is_evaluated_again_was_not_taken_from_others(tiny: Model) -> None:
    """Unsteered tokens serve the decision; an open gate steers them all, and they are evaluated anew."""
    pack = synthetic_pack(tiny, "open", layer=3, gate_layer=2)
    one = prompt_of(40)
    with Driven(tiny, [pack], n_ubatch=512) as driven:
        driven.answer(one, 1, steer=Steer(enabled=False))
        assert driven.answer(one, 1).pieces[-1].cached_tokens == 0


def test_parts_and_where_they_can_be_taken_up() -> None:
    assert prompt_parts(513, 512) == [(0, 448), (448, 513)]
    assert prompt_parts(514, 512) == [(0, 512), (512, 514)]
    assert same_sums_from(39, 40, 512) == 38
    assert same_sums_from(190, 200, 512) == 128
    assert same_sums_from(512, 514, 512) == 512
    assert same_sums_from(500, 514, 512) == 448
    assert same_sums_from(30, 200, 512, step=4) == 28
    assert same_sums_from(190, 200, 512, step=4) == 136


def test_tokens_beside_others_are_nearly_always_those_alone(engine: Engine) -> None:
    prompts = [prompt_of(20 + i, i) for i in range(8)]
    alone = [text(engine.submit(asked(p, 12, steer=Steer(exact=True)))) for p in prompts]
    together = [engine.submit(asked(p, 12)) for p in prompts]
    assert np.mean([text(s) == a for s, a in zip(together, alone, strict=True)]) >= 0.7


@pytest.mark.usefixtures("node_filter")
def test_each_is_steered_by_its_own(tiny: Model, packs: list[Pack]) -> None:
    """Additions in one batch are those of each alone: at strengths where another's would show."""
    strengths = [0.0, 0.5, 1.0, 4.0]
    steer = [Steer(strengths={"half": s}) for s in strengths]
    with Driven(tiny, packs) as driven:
        alone = [driven.logits(prompt_of(20), 6, steer=Steer(strengths={"half": s}, exact=True)) for s in strengths]
        together = [driven.begin(prompt_of(20), 6, steer=s) for s in steer]
        driven.finish()
        for one, a in zip(together, alone, strict=True):
            np.testing.assert_allclose(np.stack(one.logits), a, atol=0.05)
        assert not np.allclose(alone[0], alone[1], atol=0.05)


# --- asking


def test_a_stream_has_text_tokens_and_an_end(engine: Engine) -> None:
    pieces = list(engine.submit(asked(prompt_of(20), 9)))
    assert [p.finish_reason for p in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert sum(len(p.tokens) for p in pieces) == pieces[-1].generated_tokens == 9
    assert (pieces[-1].prompt_tokens, pieces[-1].cached_tokens) == (20, 0)
    assert [d.pack for d in pieces[0].decisions] == ["half", "closed"]


def test_sampling_is_seeded_and_the_seed_is_told(engine: Engine) -> None:
    sampling = Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0)
    first = list(engine.submit(asked(prompt_of(20), 12, sampling=sampling)))
    again = Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=first[-1].seed)
    tokens = [t for p in first for t in p.tokens]
    assert [t for p in engine.submit(asked(prompt_of(20), 12, sampling=again)) for t in p.tokens] == tokens
    other = [t for p in engine.submit(asked(prompt_of(20), 12, sampling=sampling)) for t in p.tokens]
    assert other != tokens


def test_bias_penalties_and_masks_steer_the_draw(engine: Engine) -> None:
    def tokens(**sampling: object) -> list[int]:
        chosen = Sampling(**{"temperature": 0.0, "repeat_penalty": 1.0, **sampling})  # type: ignore[arg-type]
        return [t for p in engine.submit(asked(prompt_of(20), 8, sampling=chosen)) for t in p.tokens]

    plain = tokens()
    assert set(tokens(logit_bias={77: 1e6})) == {77}
    assert plain[0] not in tokens(logit_bias={plain[0]: float("-inf")})
    assert len(set(tokens(presence_penalty=1e6))) == 8
    assert len(set(tokens(repeat_penalty=1e6))) == 8
    seen: list[list[int]] = []

    def mask(so_far: object) -> bytes | None:
        seen.append(list(so_far))  # type: ignore[call-overload]
        only = np.zeros(260, dtype=np.uint8)
        only[[65, 66]] = 1
        return np.packbits(only, bitorder="little").tobytes() if len(seen) > 1 else None

    drawn = [t for p in engine.submit(asked(prompt_of(20), 4, mask=mask)) for t in p.tokens]
    assert drawn[0] == plain[0]
    assert set(drawn[1:]) <= {65, 66}
    assert seen == [drawn[:i] for i in range(4)]


def test_log_probabilities_are_of_the_logits(tiny: Model) -> None:
    with Driven(tiny) as driven:
        answer = driven.answer(prompt_of(20), 3, logprobs=3)
        found = [x for p in answer.pieces for x in p.logprobs]
        for one, logits in zip(found, answer.logits, strict=True):
            exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
            assert one.logprob == pytest.approx(exact[one.token], abs=1e-4)
            assert [t for t, _, _ in one.top] == np.argsort(-exact, kind="stable")[:3].tolist()
            assert one.text == tiny.piece(one.token)


def test_given_answers_are_scored_as_they_are_drawn(engine: Engine, tiny: Model) -> None:
    for steer in (OFF, Steer()):
        drawn = list(engine.submit(asked(prompt_of(20), 5, steer=steer, logprobs=0)))
        tokens = tuple(t for p in drawn for t in p.tokens)
        answers = (tokens, (7,), (), tuple(range(10, 90)))
        piece = last(engine.submit(asked(prompt_of(20), answers=answers, steer=steer, keep_logits=True)))
        assert [len(s) for s in piece.scores] == [5, 1, 0, 80]
        np.testing.assert_allclose(piece.scores[0], [x.logprob for p in drawn for x in p.logprobs], atol=0.02)
        assert [x.shape for x in piece.logits] == [(n, tiny.n_vocab) for n in (5, 1, 0, 80)]
        assert piece.finish_reason == "stop"


def test_an_event_loop_reads_many_streams(engine: Engine) -> None:
    expected = [text(engine.submit(asked(prompt_of(20, i), 8))) for i in range(3)]

    async def read(i: int) -> str:
        return "".join([p.text async for p in engine.submit(asked(prompt_of(20, i), 8))])

    async def main() -> list[str]:
        return list(await asyncio.gather(*(read(i) for i in range(3))))

    assert [len(t) for t in asyncio.run(main())] == [len(t) for t in expected]


def test_closing_a_stream_wakes_whoever_waits_for_it(tiny: Model) -> None:
    """A request that is never taken up has no piece to wake anybody with."""
    with Engine(tiny, n_ctx=1024, n_seq=1) as engine:
        busy = engine.submit(asked(prompt_of(30), None, sampling=NEVER_ENDS))

        async def main() -> list[Piece]:
            stream = engine.submit(asked(prompt_of(20)))

            async def read() -> list[Piece]:
                return [piece async for piece in stream]

            reading = asyncio.create_task(read())
            await asyncio.sleep(0.05)
            stream.close()
            return await asyncio.wait_for(reading, 5)

        assert asyncio.run(main()) == []
        stream = engine.submit(asked(prompt_of(20)))
        pieces: list[Piece] = []
        thread = threading.Thread(target=lambda: pieces.extend(stream))
        thread.start()
        time.sleep(0.05)
        stream.close()
        thread.join(5)
        assert not thread.is_alive()
        assert not pieces
        busy.close()


def test_packs_are_changed_for_those_that_come_later(engine: Engine, tiny: Model) -> None:
    prompt = prompt_of(20)
    engine.set_strength("half", 0.25)
    assert [d.strength for d in engine.decide(prompt)] == [0.25, 0.7]
    engine.enable("closed", False)
    assert [d.pack for d in engine.decide(prompt)] == ["half"]
    engine.replace_pack(synthetic_pack(tiny, "open", layer=1, gate_layer=1, name="closed"))
    assert not engine.is_enabled("closed")
    engine.enable("closed", True)
    assert [d.opening == 1 for d in engine.decide(prompt)] == [False, True]
    assert engine.decide(prompt, OFF) == []
    with pytest.raises(PackError, match="no pack 'no'"):
        engine.set_strength("no", 1)
    with pytest.raises(PackError, match="no pack 'no'"):
        engine.enable("no", True)
    for steer in (Steer(disabled=frozenset({"no"})), Steer(strengths={"half": float("nan")})):
        with pytest.raises(PackError):
            engine.decide(prompt, steer)


def test_who_is_more_urgent_is_served_first(tiny: Model) -> None:
    with Driven(tiny, n_seq=1) as driven:
        running = driven.begin(prompt_of(10), 3)
        driven.worker.turn()
        late, urgent = driven.begin(prompt_of(11), 1), driven.begin(prompt_of(12), 2, priority=1)
        while not urgent.is_done:
            driven.worker.turn()
        assert running.is_done
        assert not late.is_done
