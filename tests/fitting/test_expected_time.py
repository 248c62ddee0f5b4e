"""How long a fit will take, told before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from fs_local import Examples, FitOptions, fit
from fs_local.fitting import expected_time
from fs_local.fitting.expected_time import LEAST_SHARE, Plan, plan_fit, share_for
from fs_local.runtime.model import Model
from fs_local.store import Store

OPTIONS = FitOptions(background=False, layers=(3,), strength=1.0, residual_rank=0)


def test_what_is_on_disk_already_takes_no_time(tiny: Model, few_examples: Examples, tmp_path: Path) -> None:
    store = Store(tmp_path / "results.sqlite3")
    before = plan_fit(tiny, few_examples, OPTIONS, store.captures)
    assert min(before.queries, before.pairs, before.trials, before.gate) > 0
    fit(tiny, few_examples, OPTIONS, store=store)
    after = plan_fit(tiny, few_examples, OPTIONS, store.captures)
    assert (after.queries, after.pairs) == (0, 0)


def test_the_background_is_read_once_a_model(tiny: Model, few_examples: Examples, tmp_path: Path) -> None:
    """Another user's examples find it where the first fit left it."""
    store, options = (
        Store(tmp_path / "results.sqlite3"),
        FitOptions(layers=(3,), strength=1.0, residual_rank=0, share=0.05),
    )
    half = len(few_examples.pairs) // 2
    first, second = (Examples(some, refusing=True) for some in (few_examples.pairs[:half], few_examples.pairs[half:]))
    cold = plan_fit(tiny, second, options, store.captures)
    fit(tiny, first, options, store=store)
    warm = plan_fit(tiny, second, options, store.captures)
    assert 0 < warm.queries < cold.queries / 4


def test_where_time_is_short_less_is_drawn(
    tiny: Model, few_examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected_time, "seconds_a_token", lambda _: 1e-3)  # the machine's own varies in between
    whole = plan_fit(tiny, few_examples, FitOptions(), None)
    some = plan_fit(tiny, few_examples, FitOptions(share=0.25), None)
    assert some.gate < 0.5 * whole.gate
    assert some.trials < whole.trials


@pytest.mark.parametrize(("seconds", "share"), [(1000, 1.0), (60, 0.6), (59, 0.55), (1, LEAST_SHARE)])
def test_the_share_there_is_time_for(seconds: float, share: float) -> None:
    assert share_for(seconds, Plan(40, 30, 20, 10)) == pytest.approx(share)
