"""Decodes that nobody reads or adds to don't call back, and change nothing for those that do."""

from __future__ import annotations

import numpy as np
import pytest

from fs_local.arrays import F32
from fs_local.runtime import silent_decodes
from fs_local.runtime.context import Context
from fs_local.runtime.layer_states import LayerStates
from fs_local.runtime.model import Model
from fs_local.runtime.node_filter import PURE_PYTHON


def _tokens(context: Context, questions: list[bool], vector: F32) -> tuple[list[int], list[F32]]:
    """Tokens of a sequence: silent, read, silent, added to, silent; questions of each, and what came."""
    asked, results = [], []

    def decode(position: int) -> None:
        questions.clear()
        context.decode([5], start=position)
        asked.append(len(questions))
        results.append(context.logits())

    def keep(states: LayerStates) -> bool:
        results.append(states.read())
        return True

    context.decode([1, 2, 3], start=0)
    for position in (3, 4):
        decode(position)
    with context.hooked([2], keep):
        decode(5)
    decode(6)
    context.add_to_rows({2: [(0, 1, vector)]})
    decode(7)
    context.add_to_rows({})
    decode(8)
    return asked, results


def test_silent_decodes_ask_nothing_and_the_others_are_as_before(
    questions: list[bool], tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PURE_PYTHON, "1")  # every question reaches it
    vector = np.linspace(-1, 1, tiny.width, dtype=np.float32)
    with Context(tiny, n_ctx=64) as context:
        asked, results = _tokens(context, questions, vector)
    assert asked[0] > 100, "a new graph is built for it"
    assert [n > 0 for n in asked[1:]] == [False, True, False, True, False]
    monkeypatch.setattr(silent_decodes, "_calls", lambda: None)
    with Context(tiny, n_ctx=64) as context:
        always_asked, expected = _tokens(context, questions, vector)
    assert min(always_asked) > 100
    for result, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, other)


def test_cells_that_hold_nothing_are_not_evaluated_behind_a_silent_decode(
    questions: list[bool], tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`occupy` needs the callback, or its token would be computed: the graph is ended at its first node."""
    monkeypatch.setenv(PURE_PYTHON, "1")
    with Context(tiny, n_ctx=64, n_seq=2) as context:
        for position in range(3):
            context.decode([5], start=position)
        questions.clear()
        context.decode([5], start=3)
        assert not questions, "silent, and the same graph"
        context.occupy(1, start=0, seq=1)
        assert context.n_past(1) == 1
        assert questions == [True, False]
