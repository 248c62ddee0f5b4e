"""What llama.cpp's questions about graph nodes cost: Python is called for wanted layers alone, and for nothing in decoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fs_local.runtime.context import Context
from fs_local.runtime.layer_states import LayerStates
from fs_local.runtime.model import Model
from fs_local.runtime.node_filter import native_address


def test_only_wanted_layers_reach_python(node_filter: str, questions: list[bool], tiny: Model) -> None:
    native = node_filter == "native"
    with Context(tiny, n_ctx=64) as context:
        context.decode([1, 2, 3], start=0)
        assert len(questions) == 0 if native else len(questions) > 100
        plain = context.logits()
        questions.clear()
        seen: list[int] = []

        def see(states: LayerStates) -> bool:
            seen.append(states.layer)
            return True

        context.clear()
        with context.hooked([2, 4], see):
            context.decode([1, 2, 3], start=0)
        assert seen == [2, 4]
        assert questions.count(False) == 2
        assert questions.count(True) == 0 if native else questions.count(True) > 100
        np.testing.assert_array_equal(context.logits(), plain)


def test_an_early_end_switches_off_one_decode_alone(node_filter: str, tiny: Model) -> None:
    seen: list[int] = []

    def stop(states: Any) -> bool:
        seen.append(states.layer)
        return False

    with Context(tiny, n_ctx=64) as context, context.hooked([3, 4], stop):
        for _ in range(2):
            context.clear()
            context.decode([1, 2, 3], start=0)
    assert seen == [3, 3]


def test_the_environment_forces_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FS_LOCAL_PURE_PYTHON", "1")
    assert native_address() is None
