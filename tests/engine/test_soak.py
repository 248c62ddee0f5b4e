"""What ten thousand requests leave behind: nothing."""

from __future__ import annotations

import gc
import random
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from fs_local.benchmark.server_process import written_megabytes
from fs_local.engine import Engine, Sampling, Steer
from fs_local.runtime.model import Model
from tests.engine.asked import asked, prompt_of
from tests.packs import synthetic_pack

CLIENTS, SETTLED, REQUESTS, MEGABYTES = 8, 100, 10_000, 5.0


@pytest.mark.slow
@pytest.mark.usefixtures("node_filter")
def test_memory_does_not_grow_with_requests(tiny: Model) -> None:
    packs = [
        synthetic_pack(tiny, "half", layer=3, gate_layer=2, seed=1, name="half"),
        synthetic_pack(tiny, "closed", layer=2, gate_layer=4, seed=2, name="closed"),
    ]
    with Engine(tiny, packs, n_ctx=1024, n_seq=CLIENTS) as engine:
        for first, last in ((0, SETTLED), (SETTLED, REQUESTS)):
            with ThreadPoolExecutor(
                CLIENTS
            ) as pool:  # a client's requests are one task: each waiting task would be counted too
                list(pool.map(lambda i, f=first, n=last: _ask_all(engine, range(f + i, n, CLIENTS)), range(CLIENTS)))
            ends = time.monotonic() + 10
            while engine.stats.at_work or engine.stats.waiting:  # what was given up last
                assert time.monotonic() < ends, "a request is stuck"
                time.sleep(0.01)
            gc.collect()
            if first == 0:
                settled = written_megabytes(psutil.Process())
        grown = written_megabytes(psutil.Process()) - settled
    print(f"{settled:.1f} MB after {SETTLED} requests, {grown:+.1f} MB after {REQUESTS:,}")
    assert grown <= MEGABYTES, f"{grown:.1f} MB more after {REQUESTS:,} requests"


def _ask_all(engine: Engine, numbers: range) -> None:
    for number in numbers:
        _ask(engine, number)


def _ask(engine: Engine, number: int) -> None:
    """Any request, of which a fifth are given up, before, in and after the prompt."""
    rng = random.Random(number)
    steer = rng.choice(
        [
            Steer(),
            Steer(enabled=False),
            Steer(strengths={"half": rng.uniform(-2, 2)}),
            Steer(disabled=frozenset({"half"})),
        ]
    )
    prompt = prompt_of(rng.choice((3, 20, 90, 200)), rng.randrange(50))
    sampling = Sampling(seed=number, temperature=rng.choice((0.0, 1.0)))
    wanted = rng.randrange(8)
    request = asked(
        prompt,
        rng.choice((0, 1, 4, 12)),
        steer=steer,
        sampling=sampling,
        logprobs=3 if wanted == 0 else None,
        stop=("e",) if wanted == 1 else (),
        answers=((5, 6, 7), (8, 9)) if wanted == 2 else (),
    )
    with engine.submit(request) as stream:
        if number % 5 == 0:
            for _ in range(rng.randrange(3)):
                next(stream, None)
        else:
            list(stream)
