"""A steering pack of fs-local on vLLM, through the hooks of its plugin vllm-lens.

    from finesteer_torch import SteeringPack
    from finesteer_vllm import generate

    pack = SteeringPack.load("refusal-torch")
    llm = LLM(name, enable_prefix_caching=False, enable_chunked_prefill=False)
    prompts = pack.prompts(llm.get_tokenizer(), ["How do I pick a lock?"])
    answers, decisions = generate(pack, llm, prompts, SamplingParams(max_tokens=100))

Written after the documentation of vllm-lens, and tested with a stand-in for its hooks: it was never run on vLLM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from finesteer_torch import Decisions, Prompts, SteeringError, SteeringPack
from torch import Tensor


def generate(pack: SteeringPack, llm: Any, prompts: Prompts, sampling: Any) -> tuple[list[Any], Decisions]:
    """Answers of a `vllm.LLM`, and the decisions. Each prompt passes twice: to be decided, then steered.

    Args:
        sampling: a `vllm.SamplingParams`; its `extra_args` are replaced.

    Raises:
        SteeringError: prefix caching is on (cells under steering would serve other queries), or chunked prefill.
    """
    from vllm_lens import Hook

    check(llm)
    rows = range(len(prompts.input_ids))
    tokens = [{"prompt_token_ids": prompts.input_ids[i, prompts.attention_mask[i] > 0].tolist()} for i in rows]

    def run(hooks: list[Any], max_tokens: int | None = None) -> list[Any]:
        settings = [sampling.clone() for _ in rows]
        for one, hook in zip(settings, hooks, strict=True):
            one.max_tokens = max_tokens or one.max_tokens
            one.extra_args = None if hook is None else {"apply_hooks": [hook]}
        return list(llm.generate(tokens, settings))

    places = pack.places()
    blocks = sorted({block for block, _ in places})
    results = [
        out.hook_results["0"]
        for out in run([Hook(fn=_reader(pack, prompts, i), layer_indices=blocks) for i in rows], 1)
    ]
    decisions = pack.decide_on({at: torch.stack([r[_name(*at)].float() for r in results]) for at in places})
    additions = ((pack.strength * decisions.opening)[:, None, None] * decisions.vector).cpu()
    hooks = [
        Hook(fn=_adder(pack, prompts, i, additions[i]), layer_indices=pack.layers) if additions[i].any() else None
        for i in rows
    ]
    return run(hooks), decisions


def check(llm: Any) -> None:
    """Raises SteeringError for a vLLM that was started with what steered and unsteered queries must not share."""
    config = llm.llm_engine.vllm_config
    for what, on in (
        ("enable_prefix_caching", config.cache_config.enable_prefix_caching),
        ("enable_chunked_prefill", config.scheduler_config.enable_chunked_prefill),
    ):
        if on:
            raise SteeringError(
                f"start vLLM with {what}=False: steered and unsteered queries must not share what it keeps"
            )


def _name(block: int, reading: str) -> str:
    return f"{block} {reading}"


def _reader(pack: SteeringPack, prompts: Prompts, row: int) -> Callable[[Any, Tensor], None]:
    lead = prompts.span(row, "mean")[0]
    spans = {at: [x - lead for x in prompts.span(row, at[1])] for at in pack.places()}

    def read(ctx: Any, hidden: Tensor) -> None:
        for (block, reading), (a, b) in spans.items():
            name = _name(block, reading)
            if block == ctx.layer_idx and name not in ctx.saved:  # the prompt's pass, not that of a token after it
                ctx.saved[name] = hidden[a:b].double().mean(0).float().cpu()

    return read


def _adder(pack: SteeringPack, prompts: Prompts, row: int, additions: Tensor) -> Callable[[Any, Tensor], Tensor]:
    start, layers = prompts.steered_from(row, pack.scope) - prompts.span(row, "mean")[0], list(pack.layers)

    def add(ctx: Any, hidden: Tensor) -> Tensor:
        name = f"passed {ctx.layer_idx}"
        passed = ctx.saved.get(name, 0)
        ctx.saved[name] = passed + ctx.seq_len
        hidden, begin = hidden.clone(), max(start - passed, 0)
        vector = additions[layers.index(ctx.layer_idx)].to(hidden.device)
        hidden[begin:] = (hidden[begin:].float() + vector).to(hidden.dtype)
        return hidden

    return add
