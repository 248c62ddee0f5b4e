"""The search for a gate, on states that are made here: what separates is found."""

from __future__ import annotations

import numpy as np
import pytest

from fs_local.fitting.options import FitOptions
from fs_local.fitting.states import QueryStates
from fs_local.fitting.when import _condition, _Search

WIDTH, N_IR, N_GENERAL, N_CONTRAST = 24, 120, 200, 40


def states(shifts: dict[int, tuple[float, float]]) -> QueryStates:
    """By layer: how far IR queries are from general ones along two directions of their own."""
    rng = np.random.default_rng(0)
    by_layer = {}
    for layer, (first, second) in shifts.items():
        rows = rng.standard_normal((N_IR + N_GENERAL + N_CONTRAST, WIDTH))
        rows[:N_IR, 0] += first
        rows[: N_IR // 2, 1] += second
        by_layer[layer] = rows.astype(np.float32)
    return QueryStates(by_layer, N_IR, N_IR + N_GENERAL)


def search(shifts: dict[int, tuple[float, float]], steered: int = 8, **options: object):
    found = states(shifts)
    return _Search(found, list(shifts), FitOptions(**options), steered, lambda *_: None).run()  # type: ignore[arg-type]


def test_the_layer_that_separates_is_chosen_within_the_budget() -> None:
    when = search({4: (0, 0), 6: (6, 0), 8: (1, 0)})
    assert 6 in when.layers
    assert when.gate.kind == "logistic"
    assert when.open_ir is not None
    assert when.open_general is not None
    assert when.open_ir > 0.97
    assert when.open_general <= 0.03
    assert when.roc is not None
    assert when.auroc == pytest.approx(np.trapezoid(when.roc.ir, when.roc.general), abs=0.01)
    assert {len(t.layers) for t in when.trials} == {1, 2}


def test_two_layers_are_taken_where_each_knows_a_part() -> None:
    when = search({4: (2.5, 0), 6: (2.5, 0), 8: (0, 0)})
    assert when.layers == [4, 6]
    one = max(t.open_ir for t in when.trials if t.kind == "logistic" and len(t.layers) == 1)
    assert when.open_ir is not None
    assert when.open_ir > one


def test_a_gate_behind_the_steered_layer_must_be_worth_its_second_pass() -> None:
    same = {4: (6.0, 0.0), 12: (6.0, 0.0)}
    assert search(same, steered=8).layers == [4]
    assert 12 in search({4: (1.0, 0.0), 12: (6.0, 0.0)}, steered=8).layers


def test_a_kind_that_is_asked_for_is_taken() -> None:
    for kind in ("quantile", "soft"):
        assert search({4: (3, 0), 6: (6, 0)}, gate=kind).gate.kind == kind


def test_a_larger_budget_opens_for_more() -> None:
    small, large = (search({4: (2, 0)}, budget=b) for b in (0.01, 0.1))
    assert small.open_ir is not None
    assert large.open_ir is not None
    assert small.open_ir < large.open_ir
    assert large.open_general == pytest.approx(0.1, abs=0.01)


def test_cast_takes_the_layer_of_the_best_f1() -> None:
    found = states({4: (0, 0), 6: (5, 0)})
    when = _condition(found, [4, 6], FitOptions())
    assert when.layers == [6]
    assert when.gate.kind.startswith("cosine")
    assert when.open_ir is not None
    assert when.open_ir > 0.8
    noise = _condition(states({4: (0, 0)}), [4], FitOptions())
    assert noise.auroc == pytest.approx(0.5, abs=0.1)  # of queries that the condition was not fitted on
