"""Steering where blocks of the model lie elsewhere, on workers or devices: steered against unsteered there, and there against here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from fs_local.benchmark.engine_turns import EngineTurns
from fs_local.benchmark.figures import Measurement, Report, Stage, measured, no_more
from fs_local.benchmark.packs import held, steered_layer, synthetic_pack
from fs_local.benchmark.turns import Budget, alternate
from fs_local.model_files import resolve_model
from fs_local.progress import Progress, untold
from fs_local.runtime.context import MICRO_BATCH
from fs_local.runtime.model import Model
from fs_local.runtime.placement import Placement

PROMPT, LIMIT = 128, 1.02
_DECODED = 400


def bench_placed(
    model: str, placement: Placement, budget: Budget | None = None, progress: Progress | None = None
) -> Report:
    """Measures prefill and decoding with the model placed so, beside the same model here.

    Raises:
        ModelError: as `Model.load`.
    """
    budget, path = budget or Budget(), resolve_model(model)
    with Model.load(path, placement=placement) as there, Model.load(path) as here:
        stages: list[Stage] = [("elsewhere and here", lambda: _compared(there, here, budget))]
        where = f"{len(placement.workers)} workers" if placement.workers else "devices of this machine"
        settings = f"blocks on {where}, micro-batches of {MICRO_BATCH} tokens, synthetic pack"
        return measured(there, settings, stages, progress or untold)


def _compared(there: Model, here: Model, budget: Budget) -> Iterator[Measurement]:
    base = synthetic_pack(there)
    layer = steered_layer(base)
    tokens, n_ctx = [20 + (i * 37) % 199 for i in range(PROMPT)], PROMPT + _DECODED + 64
    with ExitStack() as stack:
        sides = [
            stack.enter_context(EngineTurns(model, packs, n_ctx))
            for model, packs in (
                (there, []),
                (there, [held(base, True, layer)]),
                (there, [held(base, False, layer)]),
                (here, [held(base, True, layer)]),
            )
        ]
        taken = alternate([partial(side.prefill, tokens) for side in sides], budget, warm_up=1)
        yield from _rows(f"prefill {PROMPT} tokens", *taken)
        for side in sides:
            side.begin(tokens)
            side.turn()
        many = replace(budget, pairs=max(budget.pairs, _DECODED // 2))
        yield from _rows("decode a token", *alternate([side.turn for side in sides], many, _DECODED // 2, warm_up=4))


def _rows(
    what: str, unsteered: list[float], opened: list[float], closed: list[float], here: list[float]
) -> Iterator[Measurement]:
    yield no_more(f"{what}, gate open", opened, unsteered, LIMIT, against="unsteered")
    yield no_more(f"{what}, gate closed", closed, unsteered, LIMIT, against="unsteered")
    yield _told(no_more(f"{what}, gate open", opened, here, 1, against="here"))


def _told(row: Measurement) -> Measurement:
    """What is no goal: how far away the workers are is not ours to say."""
    return replace(row, goal="", met=None)
