"""What goes wrong with one request is its own: cancelled, evicted, raised in, closed under, or impossible."""

from __future__ import annotations

import gc
import os
import threading
import time

import numpy as np
import pytest

from fs_local.engine import (
    Decision,
    Engine,
    EngineClosed,
    EngineFull,
    Prompt,
    Request,
    Sampling,
    Span,
    Steer,
    Stream,
)
from fs_local.engine.cells import Cells
from fs_local.engine.prefill import Prefill
from fs_local.errors import ContextFullError, FitError, FsLocalError, ModelError
from fs_local.pack.file import Pack
from fs_local.runtime.model import Model
from tests.engine.asked import asked, last, prompt_of
from tests.engine.driven import Driven
from tests.packs import synthetic_pack


def test_cancelling_takes_effect_within_one_part_or_token(tiny: Model) -> None:
    with Driven(tiny, [synthetic_pack(tiny, "half", layer=3, gate_layer=2)]) as driven:
        long = driven.begin(prompt_of(400), 5)
        driven.worker.turn()
        assert driven.worker.n_at_work == 1
        long.mailbox.cancelled = True
        driven.worker.turn()
        assert driven.worker.is_idle
        for turns in (1, 3):
            answer = driven.begin(prompt_of(20), 50)
            waiting = driven.begin(prompt_of(21), 50)
            waiting.mailbox.cancelled = True
            for _ in range(turns):
                driven.worker.turn()
            answer.mailbox.cancelled = True
            driven.worker.turn()
            assert driven.worker.is_idle
        driven.worker.forget()
        assert driven.worker.cells_used == 0
        alone = driven.logits(prompt_of(30), 3)
    with Driven(tiny, [synthetic_pack(tiny, "half", layer=3, gate_layer=2)]) as fresh:
        np.testing.assert_array_equal(fresh.logits(prompt_of(30), 3), alone)


def test_the_newest_makes_room_and_comes_back(tiny: Model, packs: list[Pack]) -> None:
    with Driven(tiny, packs, n_ctx=256, n_seq=4) as driven:
        alone = [driven.answer(prompt_of(30, i), 60).text for i in range(4)]
        answers = [driven.begin(prompt_of(30, i), 60) for i in range(4)]
        driven.finish()
        assert driven.worker.evicted > 0
        assert all(a.pieces[-1].finish_reason == "length" for a in answers)
        assert [len(a.work.tokens) for a in answers] == [90] * 4
        assert np.mean([a.text[:20] == b[:20] for a, b in zip(answers, alone, strict=True)]) >= 0.5


def test_a_lone_answer_ends_with_the_context(tiny: Model) -> None:
    with Driven(tiny, n_ctx=256) as driven:
        answer = driven.answer(prompt_of(200), None, sampling=Sampling(temperature=0, logit_bias={2: -1e9, 0: -1e9}))
        assert answer.pieces[-1].finish_reason == "context"
        assert len(answer.work.tokens) == 256
        with pytest.raises(ContextFullError, match=r"256 tokens, and the context 256.*shorten it or raise --ctx"):
            driven.answer(prompt_of(256), 1)
        assert driven.answer(prompt_of(20), 3).is_done


def test_what_a_mask_raises_ends_that_one_alone(engine: Engine) -> None:
    def mask(so_far: object) -> bytes:
        raise ZeroDivisionError("in a mask")

    good = engine.submit(asked(prompt_of(20), 20))
    bad = engine.submit(asked(prompt_of(21), 20, mask=mask))
    none = engine.submit(asked(prompt_of(22), 20, mask=lambda so_far: bytes(40)))
    with pytest.raises(ZeroDivisionError):
        list(bad)
    with pytest.raises(FsLocalError, match="allows no further token"):
        list(none)
    assert last(good).generated_tokens == 20


def test_a_hook_that_raises_ends_that_one_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Prefill._take

    def fail(self: Prefill, *rest: object) -> None:
        if len(self._prompt.tokens) == 21:
            raise ZeroDivisionError("in a hook")
        take(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Prefill, "_take", fail)
    good = engine.submit(asked(prompt_of(20), 20))
    with pytest.raises(ZeroDivisionError):
        list(engine.submit(asked(prompt_of(21), 20)))
    assert last(good).generated_tokens == 20


def test_a_decode_that_fails_is_taken_apart(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with Driven(tiny) as driven:
        step = Cells.step
        answers = [driven.begin(prompt_of(20, i), 10) for i in range(3)]

        def fail(self: Cells, tokens: list[int], positions: list[int], sequences: list[int]) -> None:
            if answers[1].work.seq in sequences:
                raise ModelError("llama.cpp failed to decode")
            step(self, tokens, positions, sequences)

        monkeypatch.setattr(Cells, "step", fail)
        driven.finish()
        with pytest.raises(ModelError):
            _ = answers[1].pieces
        assert [len(answers[i].work.tokens) for i in (0, 2)] == [30, 30]


def test_what_is_no_number_ends_that_one_and_is_wiped_out(tiny: Model, packs: list[Pack]) -> None:
    with Driven(tiny, packs) as driven:
        alone = driven.logits(prompt_of(100), 3)
        good = driven.begin(prompt_of(30), 12)
        driven.worker.turn()
        with pytest.raises(FitError, match="not finite"):
            driven.answer(prompt_of(20), steer=Steer(given=(_huge(driven, float("inf")),)))
        with pytest.raises(ModelError, match="no longer made of numbers"):
            driven.answer(prompt_of(20), 30, steer=Steer(given=(_huge(driven, 3e38),)))
        driven.finish()
        assert len(good.work.tokens) == 42
        np.testing.assert_array_equal(driven.logits(prompt_of(100), 3), alone)


def _huge(driven: Driven, size: float) -> Decision:
    rng = np.random.default_rng(0)
    vector = (size * rng.uniform(0.5, 1, driven.context.model.width)).astype(np.float32)
    return Decision.of_vectors({3: vector, 4: vector})


def test_a_closed_engine_ends_its_streams(tiny: Model) -> None:
    engine = Engine(tiny, n_ctx=512, n_seq=2)
    streams = [engine.submit(asked(prompt_of(20, i), None)) for i in range(4)]
    next(streams[0])
    engine.close()
    for stream in streams:
        with pytest.raises(EngineClosed, match="was closed before"):
            list(stream)
    with pytest.raises(EngineClosed, match="load the model again"):
        engine.submit(asked(prompt_of(20)))
    engine.close()


def test_a_model_closed_under_an_engine_ends_its_streams(tiny_path: object) -> None:
    model = Model.load(tiny_path)  # type: ignore[arg-type]
    with Engine(model, n_ctx=1024) as engine:
        stream = engine.submit(asked(prompt_of(20), None, sampling=Sampling(temperature=0, logit_bias={2: -1e9})))
        next(stream)
        model.close()
        with pytest.raises(ModelError, match="is closed; load it again"):
            list(stream)
        # its thread finds the model closed, or has ended over it already
        with pytest.raises((ModelError, EngineClosed), match=r"closed; load .* again"):
            last(engine.submit(asked(prompt_of(20))))


def test_the_queue_has_a_bound(tiny: Model) -> None:
    with Engine(tiny, n_ctx=512, n_seq=1, max_waiting=1) as engine:
        streams = [engine.submit(asked(prompt_of(20, i), None)) for i in range(2)]
        with pytest.raises(EngineFull, match="try again"):
            engine.submit(asked(prompt_of(20)))
        for stream in streams:
            stream.close()
        while engine.stats.waiting or engine.stats.at_work:
            time.sleep(0.01)
        assert last(engine.submit(asked(prompt_of(20), 2))).generated_tokens == 2


def test_a_stream_that_nobody_reads_holds_nothing_up(engine: Engine) -> None:
    unread = [engine.submit(asked(prompt_of(20, i), 30)) for i in range(4)]
    assert last(engine.submit(asked(prompt_of(25), 5))).generated_tokens == 5
    assert [last(s).generated_tokens for s in unread] == [30] * 4
    dropped = [engine.submit(asked(prompt_of(20, i), None)) for i in range(4)]
    del dropped
    gc.collect()
    deadline = time.monotonic() + 20
    while engine.stats.at_work or engine.stats.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_engine_that_nobody_holds_ends(tiny: Model) -> None:
    def begin() -> Stream:
        return Engine(tiny, n_ctx=512).submit(asked(prompt_of(20), None))

    stream = begin()
    gc.collect()
    with pytest.raises(EngineClosed):
        list(stream)
    assert not [t for t in threading.enumerate() if t.name == "fs-local engine" and not t.is_alive()]


def test_a_forked_process_is_told(engine: Engine) -> None:
    stream = engine.submit(asked(prompt_of(20), 3))
    child = os.fork()
    if child == 0:
        refused = 0
        for do in (lambda: engine.submit(asked(prompt_of(20))), lambda: next(stream)):
            try:
                do()
            except EngineClosed:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert last(stream).generated_tokens == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: Request(Prompt((), Span(0, 1), 0)),
        lambda: Request(Prompt((1, 2), Span(0, 3), 0)),
        lambda: Request(Prompt((1, 2), Span(0, 2), 2)),
        lambda: asked(prompt_of(5), -1),
        lambda: asked(prompt_of(5), stop=("",)),
        lambda: asked(prompt_of(5), logprobs=-1),
        lambda: Sampling(temperature=float("nan")),
        lambda: Sampling(top_p=0),
        lambda: Sampling(logit_bias={5: float("nan")}),
    ],
)
def test_impossible_requests_say_so(make: object) -> None:
    with pytest.raises(FsLocalError):
        make()  # type: ignore[operator]
