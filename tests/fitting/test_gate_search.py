"""The gate that a fit chooses, on states that are made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fs_local.fitting.gate_queries import WRAPPED
from fs_local.fitting.gate_search import ChosenGate, choose_gate
from fs_local.fitting.options import FitOptions
from fs_local.fitting.states import READINGS, Place, QueryStates, gate_layers
from fs_local.method.readings import Reading
from fs_local.method.rows import Rows

WIDTH, N_IR, N_GENERAL, N_UNSEEN = 24, 120, 300, 40
USUAL = (10, 12)


def states(
    shifts: dict[int, float], readings: Sequence[Reading] = READINGS, kind_shift: float = 0.0, unseen_shift: float = 0.0
) -> QueryStates:
    """By block: how far IR queries are from general ones. The last third of the general ones, a kind of their own, is `kind_shift` as
    far; queries in unseen wraps are `unseen_shift` as far, IR and general alike."""
    rng = np.random.default_rng(0)
    found: list[dict[tuple[int, Reading], Rows]] = [{}, {}, {}, {}]
    for layer, shift in shifts.items():
        for reading in readings:
            rows = rng.standard_normal((N_IR + N_GENERAL + 2 * N_UNSEEN, WIDTH))
            rows[:N_IR, 0] += shift
            rows[N_IR + 200 : N_IR + N_GENERAL, 0] += kind_shift * shift
            rows[N_IR + N_GENERAL :, 0] += unseen_shift * shift
            cuts = np.cumsum([N_IR, N_GENERAL, N_UNSEEN])
            for side, part in zip(found, np.split(rows.astype(np.float32), cuts), strict=True):
                side[layer, reading] = Rows.of(part)
    zeros, kinds = np.zeros(N_IR, dtype=np.intp), np.repeat([0, 1], [200, 100]).astype(np.intp)
    groups = np.arange(N_GENERAL, dtype=np.intp)
    keys = list(range(N_IR))
    ir, general, *unseen = found
    return QueryStates(ir, general, zeros, kinds, ("plain", "near"), groups[:N_IR], groups, keys, *unseen)


def chosen(found: QueryStates, layers: Sequence[int] = USUAL, steered: int = 8, **options: object) -> ChosenGate:
    return choose_gate(found, layers, FitOptions(**options), steered, lambda *_: None)  # type: ignore[arg-type]


def test_all_readings_at_all_usual_blocks_are_taken() -> None:
    when = chosen(states({10: 2.0, 12: 2.0}))
    assert (when.layers, when.readings) == ([10, 12], READINGS)
    assert len(when.gate.coef) == len(USUAL) * len(READINGS) * WIDTH
    assert when.open_ir is not None
    assert when.open_ir >= 0.85  # the room that is left closes 15 % at most
    assert when.roc is not None
    assert when.auroc == pytest.approx(np.trapezoid(when.roc.ir, when.roc.general), abs=0.01)
    assert [r.general for r in when.recall] == [0.01, 0.02]
    assert when.recall[0].ir <= when.recall[1].ir


def test_kind_by_kind_what_opens_when_it_was_left_out() -> None:
    plain, near = chosen(states({10: 3.0, 12: 3.0}, kind_shift=0.3)).kinds
    assert (plain.name, near.name, plain.rows, near.rows) == ("plain", "near", 200, 100)
    assert near.opened > 0.02 >= near.opened_seen
    assert near.low < near.opened < near.high
    assert near.held


def test_a_kind_that_is_like_the_ir_queries_is_named_with_its_rows() -> None:
    when = chosen(states({10: 2.0, 12: 2.0}, kind_shift=1.0))
    assert [k.held for k in when.kinds] == [True, False]
    assert len(when.openers["near"]) == 5
    assert all(200 <= row < 300 for row in when.openers["near"])


def test_ir_queries_that_look_general_are_found() -> None:
    plain = states({10: 3.0, 12: 3.0})
    moved = np.zeros((N_IR, WIDTH), dtype=np.float32)
    moved[:5, 0] = -5.0
    found = replace(plain, ir={place: Rows.of(rows.read(np.arange(N_IR)) + moved) for place, rows in plain.ir.items()})
    assert set(chosen(found).ir_like_general) <= {0, 1, 2, 3, 4}
    assert len(chosen(found).ir_like_general) >= 4


def test_queries_in_unseen_wraps_are_measured() -> None:
    when = chosen(states({10: 3.0, 12: 3.0}, unseen_shift=1.0))
    assert when.open_ir_in_wraps is not None
    assert when.open_general_in_wraps is not None
    assert min(when.open_ir_in_wraps, when.open_general_in_wraps) > 0.9
    none = chosen(states({10: 3.0, 12: 3.0}))
    assert none.open_ir_in_wraps is not None
    assert none.open_ir_in_wraps < 0.1


def test_a_one_class_gate_behind_the_steered_block_must_be_worth_its_second_pass() -> None:
    """IR queries vary along one axis alone, which tells them apart; where they vary as general ones do, nothing does."""
    noise = states({6: 0.0, 12: 0.0})
    narrow = np.full(WIDTH, 0.01, dtype=np.float32)
    narrow[0] = 1
    apart = Rows.of(noise.ir[6, "last"].read(np.arange(N_IR)) * narrow)

    def taken(*blocks: int) -> list[int]:
        ir = dict(noise.ir) | {(block, "last"): apart for block in blocks}
        general = dict(noise.general) | {(12, "last"): noise.general[6, "last"]}
        found = replace(noise, ir=ir, general=general)
        when = chosen(found, (12, 6), steered=8, gate="quantile")  # of equal ones, the first would be taken
        assert {tuple(t.layers) for t in when.trials} == {(6,), (12,)}
        return when.layers

    assert taken(6, 12) == [6]
    assert taken(12) == [12]


def test_blocks_that_may_be_taken() -> None:
    assert gate_layers(30, FitOptions(), 10, supervised=True) == (12, 14, 16, 18)
    assert gate_layers(30, FitOptions(), 18, supervised=True) == (12, 14, 16, 18)
    assert gate_layers(30, FitOptions(), 10, supervised=False) == (10,)
    assert gate_layers(30, FitOptions(gate_layer=7), 10, supervised=True) == (7,)
    assert gate_layers(3, FitOptions(), 1, supervised=True) == (1,)


def test_a_kind_of_gate_that_is_asked_for_is_taken() -> None:
    for kind in ("quantile", "soft"):
        when = chosen(states({10: 3.0, 12: 6.0}), gate=kind)
        assert (when.gate.kind, len(when.layers), when.readings) == (kind, 1, ("last",))


def test_a_larger_budget_opens_for_more() -> None:
    small, large = (chosen(states({10: 1.0, 12: 1.0}), budget=b) for b in (0.01, 0.1))
    assert small.open_ir is not None
    assert large.open_ir is not None
    assert small.open_ir < large.open_ir


@pytest.mark.parametrize("reading", [*READINGS, "mean"])
def test_cast_takes_the_block_and_the_reading_of_the_best_f1(reading: Reading) -> None:
    noise, telling = states({4: 0.0, 6: 0.0}, (*READINGS, "mean")), states({6: 5.0}, (reading,))
    found = replace(noise, ir={**noise.ir, **telling.ir}, general={**noise.general, **telling.general})
    when = chosen(found, (4, 6), method="cast")
    assert (when.layers, when.readings) == ([6], (reading,))
    assert when.gate.kind.startswith("cosine")
    assert when.open_ir is not None
    assert when.open_ir > 0.8


def test_what_cast_is_judged_by_was_not_fitted_on() -> None:
    """Of states from elsewhere, which have no mean over the prompt."""
    assert chosen(states({4: 0.0}), (4,), method="cast").auroc == pytest.approx(0.5, abs=0.1)


def test_where_wraps_hide_what_is_in_them_the_gate_leaves_them_alone() -> None:
    """IR queries in wraps and harmless ones in wraps are alike, and far from all that is plain."""
    plain = states({10: 3.0, 12: 3.0}, kind_shift=-4.0, unseen_shift=0.0)
    parts = np.zeros(N_IR, dtype=np.intp)
    parts[90:] = 1
    far = np.zeros((1, WIDTH), dtype=np.float32)
    far[0, 1] = 9.0

    def moved(side: dict[Place, Rows], rows: slice) -> dict[Place, Rows]:
        change = np.zeros((len(next(iter(side.values()))), WIDTH), dtype=np.float32)
        change[rows] += far
        return {place: Rows.of(found.read(np.arange(len(found))) + change) for place, found in side.items()}

    alike = moved(dict(plain.ir), slice(90, None))
    alike = {
        place: Rows.of(rows.read(np.arange(N_IR)) - 3.0 * (parts[:, None] * (np.arange(WIDTH) == 0)).astype(np.float32))
        for place, rows in alike.items()
    }
    general = {}
    for place, rows in plain.general.items():
        changed = rows.read(np.arange(N_GENERAL))
        changed[200:, 0] += 12.0
        changed[200:] += far
        general[place] = Rows.of(changed)
    unseen_ir, unseen_general = (moved(dict(side), slice(None)) for side in (plain.unseen_ir, plain.unseen_general))
    found = replace(
        plain,
        ir=alike,
        general=general,
        ir_parts=parts,
        kind_names=("plain", WRAPPED),
        unseen_ir=unseen_ir,
        unseen_general=unseen_general,
    )
    closed, opened = chosen(found), chosen(found, open_wraps=True)
    assert closed.with_open_wraps == (opened.open_ir_in_wraps, opened.open_general_in_wraps)
    assert opened.with_open_wraps is None
    assert closed.open_general_in_wraps is not None
    assert closed.open_general_in_wraps <= 0.06
    assert opened.open_general_in_wraps is not None
    assert opened.open_general_in_wraps > 0.15
    assert len(closed.ir_score) == 90
