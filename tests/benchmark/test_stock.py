"""llama.cpp alone says what this project says of the unsteered model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fs_local.benchmark.stock import Stock
from fs_local.capture import query_request
from fs_local.evaluation.runner import KeptDecision, Runner
from fs_local.examples import Query
from fs_local.runtime.context import Context
from fs_local.runtime.model import Model


@pytest.fixture(scope="module")
def stock(tiny: Model) -> Iterator[Stock]:
    with Stock(tiny, 512, n_seq=2) as stock:
        yield stock


def test_prefill_and_decode_lead_to_the_same_token(stock: Stock, tiny: Model, context: Context) -> None:
    tokens = query_request(tiny, Query.of("Name a river.")).prompt
    context.decode(tokens, start=0)
    stock.prefill(tokens)
    assert stock.sample() == int(np.argmax(context.logits()))
    stock.prefill(tokens[:-1])
    stock.decode(tokens[-1:])
    assert stock.sample() == int(np.argmax(context.logits()))


def test_answers_are_as_many_tokens_and_scores_are_the_same(stock: Stock, tiny: Model) -> None:
    requests = [query_request(tiny, Query.of(t), ("Yes, it is.", "No.")) for t in ("Is water wet?", "Name a river.")]
    runner, closed = Runner(tiny), [KeptDecision(0.0, {})]
    answers = runner.answers(requests, closed * 2, 5)
    (scores,) = runner.scores(requests[:1], closed)
    assert stock.generate([r.prompt for r in requests], 5) == sum(len(a.tokens) for a in answers)
    found = [stock.score(requests[0].prompt, a) for a in requests[0].answers]
    np.testing.assert_allclose(found, [sum(s) for s in scores], rtol=0.02)
