"""Steered answers against llama.cpp alone: prefill, decoding, and many at once."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fs_local.benchmark.figures import Row, no_less, no_more, quartiles
from fs_local.benchmark.packs import N_EXPERTS, N_RESIDUAL, WIDE, held, steered_layer, synthetic_arrays
from fs_local.benchmark.stock import Stock
from fs_local.benchmark.turns import Budget, Run, alternate
from fs_local.generation import GenerationOptions, stream_answer
from fs_local.pack.engine import NumpyEngine
from fs_local.pack.file import Pack
from fs_local.runtime.context import MICRO_BATCH, Context
from fs_local.runtime.model import Model
from fs_local.steered_model import CONVERSATION, SteeredModel
from fs_local.steering import Steering

SHORT_PROMPT, LONG_PROMPT = 128, 1024
_DECODED = 3000
_MANY, _MANY_TOKENS = 8, 64


def _tokens(n: int) -> list[int]:
    """Any tokens do: what they say makes no difference in time."""
    return [20 + (i * 37) % 199 for i in range(n)]


@contextmanager
def _steered(model: Model, pack: Pack, n_ctx: int, n_ubatch: int = MICRO_BATCH) -> Iterator[tuple[Context, Steering]]:
    with Context(model, n_ctx=n_ctx, n_ubatch=n_ubatch) as context:
        yield context, Steering(model, [pack])


def decoding(model: Model, base: Pack, budget: Budget) -> Iterator[Row]:
    prompt, layer = _tokens(32), steered_layer(base)
    n_ctx = len(prompt) + _DECODED + 16

    def decoder(context: Context) -> Run:
        position = itertools.count(len(prompt))
        return lambda: context.decode([7], start=next(position))

    with ExitStack() as stack:
        runs: list[Run] = []
        for _ in range(2):
            stock = stack.enter_context(Stock(model, n_ctx))
            stock.prefill(prompt)
            runs.append(partial(stock.decode, [7]))
        for opened in (True, False):
            context, steering = stack.enter_context(_steered(model, held(base, opened, layer), n_ctx))
            stack.enter_context(steering.applied(context, steering.prefill(context, prompt)))
            runs.append(decoder(context))
        # the first tokens after a prompt or a new control vector make llama.cpp plan its graph anew
        plain, again, opened_times, closed_times = alternate(runs, budget, _DECODED, warm_up=4)
    yield no_more("decode a token, gate open", opened_times, plain, 1.005)
    yield no_more("decode a token, gate closed", closed_times, plain, 1.003)
    yield replace(
        no_more("decode a token, stock once more", again, plain, 1), goal="1: what differs is noise", met=None
    )


def prefill(model: Model, base: Pack, budget: Budget) -> Iterator[Row]:
    layer, n_layer = steered_layer(base), model.n_layer
    behind = min(max(layer + 1, round(n_layer * 2 / 3)), n_layer - 1)

    def compare(n: int, n_ubatch: int, cases: Sequence[tuple[str, int, bool, float]]) -> Iterator[Row]:
        """Cases: what, the gate's layer, whether it opens, and the limit."""
        tokens, n_ctx = _tokens(n), n + 64
        with ExitStack() as stack:
            stock = stack.enter_context(Stock(model, n_ctx, n_ubatch))
            runs: list[Run] = [lambda: stock.prefill(tokens)]
            stock.prefill(tokens[:8])
            for _, gate_layer, opened, _ in cases:
                context, steering = stack.enter_context(
                    _steered(model, held(base, opened, gate_layer), n_ctx, n_ubatch)
                )
                runs.append(_prefiller(context, steering, tokens))
                _prefiller(context, steering, tokens[:8])()
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


def _prefiller(context: Context, steering: Steering, tokens: Sequence[int]) -> Run:
    def run() -> None:
        context.clear()
        steering.prefill(context, tokens)

    return run


def first_token(model: Model, base: Pack, budget: Budget) -> Iterator[Row]:
    tokens = _tokens(SHORT_PROMPT)
    n_ctx = len(tokens) + 64
    with (
        Stock(model, n_ctx) as stock,
        _steered(model, held(base, True, steered_layer(base)), n_ctx) as (context, steering),
    ):

        def first() -> None:
            context.clear()
            pieces = stream_answer(context, steering, tokens, start=0, seq=0, options=GenerationOptions())
            next(pieces)
            pieces.close()  # type: ignore[attr-defined]  # a generator

        def stock_first() -> None:
            stock.prefill(tokens)
            stock.sample()

        plain, ours = alternate([stock_first, first], budget, warm_up=1)
    yield no_more(f"first token after {SHORT_PROMPT}, gate open", ours, plain, 1.03)


def second_turn(path: Path, base: Pack) -> Iterator[Row]:
    for opened in (True, False):
        with SteeredModel.load(path, [held(base, opened, steered_layer(base))], n_ctx=1024) as steered:
            chat, options = steered.chat(), GenerationOptions(max_tokens=16)
            list(chat.send("Name three rivers.", options))
            held_tokens = steered.context.n_past(CONVERSATION)
            piece = list(chat.send("And three lakes.", options))[-1]
            turns = steered.model.prompt_tokens(chat.messages[:-1])
        new = len(turns) - held_tokens
        yield Row(
            f"second turn of a chat, gate {'open' if opened else 'closed'}",
            "tokens not in the cache",
            "tokens",
            piece.prompt_tokens,
            "≤ 1.000",
            piece.prompt_tokens <= new,
            new,
            piece.prompt_tokens / new,
        )


def decision() -> Iterator[Row]:
    engine = NumpyEngine(*synthetic_arrays(WIDE))
    state = np.random.default_rng(1).standard_normal(WIDE, dtype=np.float32)
    (taken,) = alternate([lambda: engine(state, state)], Budget(1.0), 2000, warm_up=20)
    micro = [t * 1e6 for t in taken]
    yield Row(
        f"decide, d = {WIDE}, K = {N_EXPERTS}, residual rank {N_RESIDUAL}",
        "",
        "µs",
        statistics.median(micro),
        "≤ 60",
        statistics.median(micro) <= 60,
        spread=quartiles(micro),
        pairs=len(micro),
    )


def many(model: Model, base: Pack, budget: Budget) -> Iterator[Row]:
    """`generate_many`, decisions included, against the same greedy loop of llama.cpp alone."""
    queries = [f"What is {i} plus {i}?" for i in range(11, 11 + _MANY)]
    with Context(model, n_ctx=512, n_seq=2) as context, Stock(model, 1024, n_seq=_MANY) as stock:
        steered = SteeredModel(model, context, Steering(model, [held(base, True, steered_layer(base))]))
        prompts, tokens = [list(steered.prompt(q).tokens) for q in queries], [0, 0]

        def ours() -> None:
            tokens[0] = sum(a.generated_tokens for a in steered.generate_many(queries, _MANY_TOKENS))

        def plain() -> None:
            tokens[1] = stock.generate(prompts, _MANY_TOKENS)

        taken, taken_plain = alternate([ours, plain], budget)
    rates, plain_rates = [tokens[0] / t for t in taken], [tokens[1] / t for t in taken_plain]
    what, against = f"generate_many, {_MANY} at once, gates open", f"stock batch of {_MANY}, unsteered"
    yield no_less(what, rates, plain_rates, 0.95, "tokens/s", against)
