"""Batched capture reads what one prefill at a time would."""

from __future__ import annotations

import numpy as np
import pytest

from fs_local import capture as capture_module
from fs_local.capture import Request, capture, query_request
from fs_local.errors import DataError, FitError, ModelError
from fs_local.examples import Query
from fs_local.runtime.context import Context
from fs_local.runtime.layer_states import LayerStates
from fs_local.runtime.model import Model


def one_by_one(model: Model, tokens: list[int], layers: tuple[int, ...]) -> dict[int, np.ndarray]:
    seen = {}

    def read(states: LayerStates) -> bool:
        seen[states.layer] = states.read()
        return True

    with Context(model, n_ctx=512) as context, context.hooked(layers, read):
        n = len(tokens)
        context.decode_batch(tokens, range(n), [(0,)] * n, [True] * n)
    return seen


def test_batches_give_the_states_of_single_prefills(tiny: Model) -> None:
    layers = (1, 3, 5)
    texts = ["Hi", "What is the tallest mountain on Earth?", "Write a long poem about the sea and the wind."]
    answers = [(), ("It is Mount Everest.", "I do not know, sorry."), ("Waves.",)]
    requests = [query_request(tiny, Query.of(t), a) for t, a in zip(texts, answers, strict=True)]
    found = capture(tiny, requests, layers)
    assert found.queries.shape == (3, 1, 3, 64)
    for i, r in enumerate(requests):
        alone = one_by_one(tiny, r.prompt, layers)
        for at, layer in enumerate(layers):
            np.testing.assert_allclose(
                found.queries[i, 0, at], alone[layer][-1], rtol=0.003, atol=0.003 * np.abs(alone[layer][-1]).max()
            )
        assert found.answers[i].shape == (len(r.answers), 3, 64)
        for j, answer in enumerate(r.answers):
            alone = one_by_one(tiny, r.prompt + answer, layers)
            for at, layer in enumerate(layers):
                mean = alone[layer][len(r.prompt) :].mean(axis=0)
                cosine = mean @ found.answers[i][j, at] / np.linalg.norm(mean) / np.linalg.norm(found.answers[i][j, at])
                assert cosine > 0.99999


def test_requests_are_split_into_batches_without_a_difference(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [
        query_request(tiny, Query.of(f"Tell me about the number {i}."), ("No.", "Yes, of course.")) for i in range(9)
    ]
    together = capture(tiny, requests, [3])
    monkeypatch.setattr(capture_module, "MAX_SEQUENCES", 4)
    reported: list[tuple[int, int]] = []
    apart = capture(tiny, requests, [3], lambda done, total: reported.append((done, total)))
    assert reported == [(2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]
    np.testing.assert_allclose(apart.queries, together.queries, rtol=0.003, atol=0.003 * np.abs(together.queries).max())


def test_a_prompt_longer_than_a_micro_batch(tiny: Model) -> None:
    found = capture(tiny, [Request([i % 200 + 3 for i in range(700)])], [2])
    assert np.isfinite(found.queries).all()


def test_capture_is_deterministic(tiny: Model) -> None:
    requests = [query_request(tiny, Query.of(t), ("a", "b")) for t in ("one", "two", "three")]
    first, second = (capture(tiny, requests, [2, 4]) for _ in range(2))
    np.testing.assert_array_equal(first.queries, second.queries)


def test_what_can_not_be_captured_says_so(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="empty"):
        capture(tiny, [], [5])
    with pytest.raises(DataError, match="example 2 has 3000 tokens, more than the model's context of 2048"):
        capture(tiny, [Request([1, 2]), Request([5] * 3000)], [5])
    with pytest.raises(ModelError, match="out of range"):
        capture(tiny, [Request([1, 2])], [6])
    monkeypatch.setattr(LayerStates, "read", lambda self: np.full((self.n_rows, self.width), np.nan, np.float32))
    with pytest.raises(FitError, match="not finite"):
        capture(tiny, [Request([1, 2])], [5])
