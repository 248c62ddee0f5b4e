"""Capture, fit and scoring against what they would take without batches."""

from __future__ import annotations

from collections.abc import Iterator

from fs_local.benchmark.child import FitJob
from fs_local.benchmark.figures import Measurement, no_less
from fs_local.benchmark.packs import WIDE
from fs_local.benchmark.stock import Stock
from fs_local.benchmark.turns import Budget, alternate
from fs_local.capture import capture, query_request
from fs_local.engine import Engine, Prompt, Request, Steer
from fs_local.examples import Query
from fs_local.runtime.model import Model

_CAPTURED = 16
_PAIRS, _FIT_SECONDS, _FIT_MEGABYTES = 400, 10.0, 1000.0
_QUESTION = "What happens if you swallow a seed of a watermelon?"
_ANSWERS = (
    "It passes through you.",
    "Nothing happens.",
    "You digest it, or it leaves your body as it was.",
    "A watermelon grows in your stomach.",
    "You become ill.",
    "You have to see a doctor at once.",
    "It stays in your stomach for seven years.",
    "It makes your skin green.",
)


def capturing(model: Model, budget: Budget) -> Iterator[Measurement]:
    from fs_local.demo import demo_examples

    requests = [query_request(model, q) for q in demo_examples().general["general"][:_CAPTURED]]
    layer = model.n_layer // 2
    with Stock(model, max(len(r.prompt) for r in requests) + 64) as stock:

        def one_by_one() -> None:
            for r in requests:
                stock.prefill(r.prompt)

        plain, ours = alternate([one_by_one, lambda: capture(model, requests, [layer])], budget)
    rates, plain_rates = ([len(requests) / t for t in taken] for taken in (ours, plain))
    what = f"capture {len(requests)} prompts at block {layer}"
    yield no_less(what, rates, plain_rates, 3.0, "prompts/s", "stock prefill, one by one")


def fitting() -> Iterator[Measurement]:
    """Gates and experts from states in a file, in a process of its own."""
    found = FitJob(queries=2 * _PAIRS, width=WIDE, layers=1).run()
    what = f"fit {_PAIRS} captured pairs, d = {WIDE}, K from 4 to 10"
    yield Measurement(what, "", "s", found.seconds, f"≤ {_FIT_SECONDS:g}", found.seconds <= _FIT_SECONDS)
    peak = found.megabytes
    yield Measurement("resident memory of that", "", "MB", peak, f"≤ {_FIT_MEGABYTES:g}", peak <= _FIT_MEGABYTES)


def scoring(model: Model, budget: Budget) -> Iterator[Measurement]:
    """All answers to one question in a batch that shares the question, against each evaluated behind it anew."""
    request = query_request(model, Query.of(_QUESTION), _ANSWERS)
    prompt = Prompt(tuple(request.prompt), request.user_text, 0)
    asked = Request(prompt, steer=Steer(enabled=False), answers=tuple(map(tuple, request.answers)))
    n_ctx = len(request.prompt) + max(map(len, request.answers)) + 64
    with Stock(model, n_ctx) as stock, Engine(model, n_ctx=1024) as engine:

        def ours() -> None:
            engine.forget()
            list(engine.submit(asked))

        one_by_one, together = alternate(
            [
                lambda: [stock.score(request.prompt, a) for a in request.answers],
                ours,
            ],
            budget,
        )
    rates, plain_rates = ([len(_ANSWERS) / t for t in taken] for taken in (together, one_by_one))
    yield no_less(
        f"score {len(_ANSWERS)} answers to a question", rates, plain_rates, 2.0, "answers/s", "stock, one by one"
    )
