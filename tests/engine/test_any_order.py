"""Requests, cancels, strengths and full caches in any order: each query's decision and first logits are those of the query alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from fs_local.engine import Prompt, Steer, prefix_cache
from fs_local.runtime.model import Model
from tests.engine.asked import prompt_of
from tests.engine.driven import Answer, Driven
from tests.packs import synthetic_pack
from tests.tiny_model import write_tiny_model

LENGTHS = (3, 20, 63, 64, 90, 130, 150)
STEERS = (
    Steer(),
    Steer(enabled=False),
    Steer(strengths={"half": 2.0}),
    Steer(disabled=frozenset({"half"})),
    Steer(exact=True),
)
N_CTX, N_UBATCH = 512, 128


def prompt(n: int, seed: int) -> Prompt:
    """Those of the seeds 1 and 2 begin alike, whatever their length."""
    own = prompt_of(n, seed)
    return own if seed == 0 else replace(own, tokens=(*prompt_of(30).tokens[: n - 1], *own.tokens)[:n])


@pytest.fixture(scope="module", params=["much is idle", "all is put away", "windows"])
def machine(tiny_path: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tiny_path
    if request.param == "windows":
        path = write_tiny_model(tmp_path_factory.mktemp("windows") / "windows.gguf", window=32)
    model = Model.load(path)
    patch = pytest.MonkeyPatch()
    if request.param == "all is put away":
        patch.setattr(prefix_cache, "MOST_IDLE", 0)
        patch.setattr(prefix_cache, "LEAST_SAVED", 2)
    packs = [
        synthetic_pack(model, "half", layer=3, gate_layer=4, seed=1, name="half"),
        synthetic_pack(model, "closed", layer=2, gate_layer=2, seed=2, name="closed"),
    ]
    known: dict[tuple[int, int, int], Answer] = {}

    def alone(n: int, seed: int, steer: int) -> Answer:
        """The same asked of an engine that has seen nothing."""
        if (n, seed, steer) not in known:
            with Driven(model, packs, n_ctx=N_CTX, n_ubatch=N_UBATCH) as driven:
                known[n, seed, steer] = driven.answer(prompt(n, seed), 1, steer=STEERS[steer])
        return known[n, seed, steer]

    class Requests(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.driven = Driven(model, packs, n_ctx=N_CTX, n_ubatch=N_UBATCH, n_seq=4)
            self.going: list[tuple[tuple[int, int, int], int, Answer]] = []

        @rule(
            n=st.sampled_from(LENGTHS),
            seed=st.integers(0, 2),
            steer=st.integers(0, len(STEERS) - 1),
            tokens=st.integers(0, 60),
            priority=st.integers(0, 1),
        )
        def ask(self, n: int, seed: int, steer: int, tokens: int, priority: int) -> None:
            answer = self.driven.begin(prompt(n, seed), tokens, steer=STEERS[steer], priority=priority)
            self.going.append(((n, seed, steer), tokens, answer))

        @rule(turns=st.integers(1, 30))
        def turn(self, turns: int) -> None:
            for _ in range(turns):
                self.driven.worker.turn()

        @rule(which=st.integers(0, 9))
        def cancel(self, which: int) -> None:
            if which < len(self.going):
                self.going.pop(which)[2].mailbox.cancelled = True

        @invariant()
        def each_is_as_it_would_be_alone(self) -> None:
            for key, tokens, answer in [x for x in self.going if x[2].is_done]:
                last, expected = answer.pieces[-1], alone(*key)
                for a, b in zip(last.decisions, expected.pieces[-1].decisions, strict=True):
                    assert (a.pack, a.opening, a.strength) == (b.pack, b.opening, b.strength)
                    np.testing.assert_array_equal(a.vector, b.vector)
                assert last.finish_reason in ("length", "stop")
                assert len(answer.logits) >= bool(tokens)
                if tokens:
                    np.testing.assert_array_equal(answer.logits[0], expected.logits[0])
            self.going = [x for x in self.going if not x[2].is_done]

        def teardown(self) -> None:
            with self.driven as driven:
                driven.finish()
                self.each_is_as_it_would_be_alone()
                assert not self.going
                driven.worker.forget()
                assert driven.worker.cells_used == 0
                np.testing.assert_array_equal(driven.answer(prompt_of(90), 1).logits[0], alone(90, 0, 0).logits[0])

    yield Requests
    patch.undo()
    model.close()


def test_a_prompt_whose_first_part_stands_at_the_end_of_the_pool_begins_anew(machine: Any) -> None:
    """Others leave one after the other, and the last part of a prompt finds no room behind the first. Found by `test_in_any_order`."""
    requests = machine()
    for n, tokens, priority, turns in (
        (90, 46, 0, 1), (130, 48, 0, 2), (3, 12, 0, 0), (130, 43, 0, 0), (3, 0, 0, 0), (3, 43, 0, 0), (3, 33, 0, 0),
        (63, 46, 1, 0), (90, 39, 0, 0), (130, 34, 0, 0),
    ):  # fmt: skip
        requests.ask(n=n, seed=0, steer=0, tokens=tokens, priority=priority)
        if turns:
            requests.turn(turns=turns)
    requests.teardown()


def test_in_any_order(machine: Any) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
