"""Steered answers against llama.cpp alone: prefill, decoding, and many at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fs_local.benchmark.engine_turns import EngineTurns
from fs_local.benchmark.figures import Measurement, no_less, no_more, quartiles, second_turn_row
from fs_local.benchmark.packs import N_EXPERTS, N_RESIDUAL, WIDE, held, steered_layer, synthetic_arrays
from fs_local.benchmark.stock import Stock
from fs_local.benchmark.turns import Budget, Run, alternate
from fs_local.engine import Engine, Prompt, Request, Sampling, Steer
from fs_local.generation import GenerationOptions
from fs_local.pack.evaluator import NumpyEvaluator
from fs_local.pack.file import Pack
from fs_local.runtime.context import MICRO_BATCH
from fs_local.runtime.model import Model
from fs_local.steered_model import SteeredModel

SHORT_PROMPT, LONG_PROMPT = 128, 1024
_FEWEST_DECODED, _DECODED = 300, 3000
"""Turns of a single token: each takes little time, and varies by several percent."""
_MANY, _MANY_TOKENS = 8, 64


def _tokens(n: int) -> list[int]:
    """Any tokens do: what they say makes no difference in time."""
    return [20 + (i * 37) % 199 for i in range(n)]


def decoding(model: Model, base: Pack, budget: Budget) -> Iterator[Measurement]:
    """A token of a lone stream, sampled and turned into text, against llama.cpp's own evaluation and greedy sampler."""
    prompt, layer = _tokens(32), steered_layer(base)
    n_ctx = len(prompt) + _DECODED + 64

    with ExitStack() as stack:
        runs: list[Run] = []
        for _ in range(2):
            stock = stack.enter_context(Stock(model, n_ctx))
            stock.prefill(prompt)
            runs.append(partial(_stock_token, stock))
        for opened in (True, False):
            engine = stack.enter_context(EngineTurns(model, [held(base, opened, layer)], n_ctx))
            engine.begin(prompt)
            engine.turn()
            runs.append(engine.turn)
        # the first tokens after a prompt make llama.cpp plan its graph anew
        many = replace(budget, pairs=max(budget.pairs, _FEWEST_DECODED)) if budget.seconds else budget
        plain, again, opened_times, closed_times = alternate(runs, many, _DECODED, warm_up=4)
    yield no_more("decode a token, gate open", opened_times, plain, 1.005)
    yield no_more("decode a token, gate closed", closed_times, plain, 1.003)
    yield replace(
        no_more("decode a token, stock once more", again, plain, 1), goal="1: what differs is noise", met=None
    )


def _stock_token(stock: Stock) -> None:
    stock.decode([stock.sample()])


def prefill(model: Model, base: Pack, budget: Budget) -> Iterator[Measurement]:
    layer, n_layer = steered_layer(base), model.n_layer
    behind = min(max(layer + 1, round(n_layer * 2 / 3)), n_layer - 1)

    def compare(n: int, n_ubatch: int, cases: Sequence[tuple[str, int, bool, float]]) -> Iterator[Measurement]:
        """Cases: what, the gate's layer, whether it opens, and the limit."""
        tokens, n_ctx = _tokens(n), n + 64
        with ExitStack() as stack:
            stock = stack.enter_context(Stock(model, n_ctx, n_ubatch))
            runs: list[Run] = [lambda: stock.prefill(tokens)]
            stock.prefill(tokens[:8])
            for _, gate_layer, opened, _ in cases:
                engine = stack.enter_context(
                    EngineTurns(model, [held(base, opened, gate_layer)], n_ctx, n_ubatch=n_ubatch)
                )
                runs.append(partial(engine.prefill, tokens))
                engine.prefill(tokens[:8])
            plain, *ours = alternate(runs, budget)
        for (what, _, opened, limit), taken in zip(cases, ours, strict=True):
            yield no_more(f"prefill {n:,} tokens, {what}, gate {'open' if opened else 'closed'}", taken, plain, limit)

    one_pass, beyond = ("one pass", layer), (f"gate behind, at block {behind}", behind)
    two_passes = 1 + (behind + 1) / n_layer + 0.03
    yield from compare(SHORT_PROMPT, MICRO_BATCH, [(*one_pass, True, 1.02), (*one_pass, False, 1.02)])
    yield from compare(SHORT_PROMPT, MICRO_BATCH, [(*beyond, True, two_passes), (*beyond, False, 1.02)])
    n = min(LONG_PROMPT, model.n_ctx_train - 64)
    yield from compare(n, n, [(*one_pass, True, 1.02)])
    in_parts, twice = f"in micro-batches of {MICRO_BATCH}", 1 + (layer + 1) / n_layer + 0.03
    yield from compare(n, MICRO_BATCH, [(in_parts, layer, True, twice), (in_parts, layer, False, 1.02)])


def first_token(model: Model, base: Pack, budget: Budget) -> Iterator[Measurement]:
    """From a request to its first piece, on another thread."""
    tokens = _tokens(SHORT_PROMPT)
    n_ctx = len(tokens) + 64
    opened = held(base, True, steered_layer(base))
    with Stock(model, n_ctx) as stock, Engine(model, [opened], n_ctx=n_ctx, n_seq=1) as engine:
        request = Request(Prompt.plain(tokens), Sampling.greedy(), max_tokens=1)

        def first() -> None:
            engine.forget()
            with engine.submit(request) as stream:
                next(stream)

        def stock_first() -> None:
            stock.prefill(tokens)
            stock.sample()

        plain, ours = alternate([stock_first, first], budget, warm_up=1)
    yield no_more(f"first token after {SHORT_PROMPT}, gate open", ours, plain, 1.03)


def second_turn(path: Path, base: Pack) -> Iterator[Measurement]:
    """What the second turn evaluates: what is new, and after a steered turn its prompt and answer once more."""
    for opened in (True, False):
        with SteeredModel.load(path, [held(base, opened, steered_layer(base))], n_ctx=1024) as steered:
            chat, options = steered.chat(), GenerationOptions(max_tokens=16, sampling=Sampling.greedy())
            first = list(chat.send("Name three rivers.", options))[-1]
            before = steered.engine.stats.prompt_tokens
            piece = list(chat.send("And three lakes.", options))[-1]
            turns = steered.model.prompt(chat.messages[:-1])
            evaluated = steered.engine.stats.prompt_tokens - before
        closing = 2 + (first.finish_reason == "length")  # what ends the answer before, and its last token if it was cut
        least = piece.prompt_tokens if opened else len(turns.tokens) - turns.turn_start + closing
        yield second_turn_row(opened, "tokens evaluated, all passes", evaluated, least)


def decision() -> Iterator[Measurement]:
    evaluator = NumpyEvaluator(*synthetic_arrays(WIDE))
    state = np.random.default_rng(1).standard_normal(WIDE, dtype=np.float32)
    (taken,) = alternate([lambda: evaluator(state, state)], Budget(1.0), 2000, warm_up=20)
    micro = [t * 1e6 for t in taken]
    yield Measurement(
        f"decide, d = {WIDE}, K = {N_EXPERTS}, residual rank {N_RESIDUAL}",
        "",
        "µs",
        statistics.median(micro),
        "≤ 60",
        statistics.median(micro) <= 60,
        spread=quartiles(micro),
        pairs=len(micro),
    )


def many(model: Model, base: Pack, budget: Budget) -> Iterator[Measurement]:
    """Answers side by side, decisions included, each steered by another vector, against the same greedy loop of llama.cpp alone."""
    opened = held(base, True, steered_layer(base))
    prompts = [_tokens(32 + i) for i in range(_MANY)]
    different = [Steer(strengths={opened.manifest.name: 1 + i / _MANY}) for i in range(_MANY)]
    half = _MANY // 2
    with (
        EngineTurns(model, [opened], 1024, n_seq=_MANY) as engine,
        EngineTurns(model, [opened], 1024, n_seq=_MANY, pure_python=True) as pure,
        Stock(model, 1024, n_seq=_MANY) as stock,
    ):
        rates: list[list[float]] = [[] for _ in range(5)]

        def run(at: int, answer: Callable[[], int]) -> Run:
            def timed() -> None:
                began = time.perf_counter()
                tokens = answer()
                rates[at].append(tokens / (time.perf_counter() - began))

            return timed

        alternate(
            [
                run(0, lambda: engine.answers(prompts, _MANY_TOKENS, different)),
                run(1, lambda: pure.answers(prompts, _MANY_TOKENS, different)),
                run(2, lambda: stock.generate(prompts, _MANY_TOKENS)),
                run(3, lambda: engine.answers(prompts[:half], _MANY_TOKENS, different[:half])),
                run(4, lambda: engine.answers(prompts[:half], _MANY_TOKENS, different[:1] * half)),
            ],
            budget,
            warm_up=1,
        )
    ours, in_python, plain, four, alike = (x[1:] for x in rates)
    against, what = f"stock batch of {_MANY}, unsteered", f"{_MANY} answers at once, each steered by another vector"
    yield no_less(what, ours, plain, 0.98, "tokens/s", against)
    yield no_less(f"{what}, pure Python", in_python, plain, 0.9, "tokens/s", against)
    what, against = f"{half} answers at once, steered by {half} vectors", f"{half} steered by one"
    yield no_less(what, four, alike, 0.95, "tokens/s", against)
