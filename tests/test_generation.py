"""Text from tokens, answers, and many sequences in one batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from fs_local.generation import TextStream
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_local import FsLocalError, GenerationOptions, SamplingOptions, SteeredModel
from fs_local.batch import Batch
from fs_local.capture import Request, query_request
from fs_local.examples import Query
from fs_local.runtime.model import Model
from fs_local.steering import SAME_SUMS_BELOW
from tests.packs import synthetic_pack


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 200), max_size=10))
def test_pieces_never_split_a_character(text: str, cuts: list[int]) -> None:
    data = text.encode("utf-8", "surrogatepass")
    edges = sorted({0, len(data), *(c for c in cuts if c <= len(data))})
    stream = TextStream()
    pieces = [stream.feed(data[a:b]) for a, b in itertools.pairwise(edges)] + [stream.flush()]
    assert "".join(pieces) == data.decode("utf-8", "replace")
    assert not any("\ufffd" in p for p in pieces) or "\ufffd" in data.decode("utf-8", "replace")


@settings(max_examples=200, deadline=None)
@given(
    text=st.text("abc", max_size=30),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    size=st.integers(1, 5),
)
def test_stop_texts_end_the_text_wherever_tokens_are_cut(text: str, stop: list[str], size: int) -> None:
    stream, said = TextStream(stop), ""
    for i in range(0, len(text), size):
        said += stream.feed(text[i : i + size].encode())
        if stream.stopped:
            break
    said += stream.flush()
    found = [at for s in stop if (at := text.find(s)) >= 0]
    assert stream.stopped == bool(found)
    if found:
        assert text.startswith(said)
        assert not any(s in said for s in stop)
    else:
        assert said == text


@pytest.fixture(scope="module")
def model(tiny: Model) -> Iterator[SteeredModel]:
    with SteeredModel.load(tiny.path) as model:
        yield model


@pytest.fixture(scope="module")
def smollm2_alone() -> Iterator[SteeredModel]:
    with SteeredModel.load("smollm2") as model:
        yield model


def test_an_answer_ends_for_a_reason(smollm2_alone: SteeredModel) -> None:
    model = smollm2_alone
    short = model.generate("What is the capital of France? Answer in one word.", GenerationOptions(max_tokens=200))
    assert short.finish_reason == "stop"
    assert "Paris" in short.text
    assert "<|im_end|>" not in short.text
    cut = model.generate("Count to one hundred.", GenerationOptions(max_tokens=7))
    assert (cut.finish_reason, cut.generated_tokens) == ("length", 7)
    stopped = model.generate("What is the capital of France? Answer in one word.", GenerationOptions(stop=("aris",)))
    assert stopped.finish_reason == "stop_string"
    assert stopped.text.endswith("P")


def test_streaming_is_generating(model: SteeredModel) -> None:
    options = GenerationOptions(max_tokens=30)
    pieces = list(model.stream("Write a haiku.", options))
    assert "".join(p.text for p in pieces) == model.generate("Write a haiku.", options).text
    assert [p.finish_reason for p in pieces[:-1]] == [None] * (len(pieces) - 1)
    sampled = GenerationOptions(max_tokens=20, sampling=SamplingOptions(temperature=1.0, seed=4))
    assert model.generate("Write a haiku.", sampled).text == model.generate("Write a haiku.", sampled).text


def test_one_stream_at_a_time_and_closing_frees_it(model: SteeredModel) -> None:
    stream = model.stream("Write a story.")
    next(stream)
    with pytest.raises(FsLocalError, match="still being streamed"):
        model.generate("Hi")
    stream.close()
    assert model.generate("Hi", GenerationOptions(max_tokens=3)).generated_tokens == 3


def test_a_closed_or_broken_stream_leaves_nothing_steered(tiny: Model) -> None:
    with SteeredModel.load(tiny.path, [synthetic_pack(tiny, "open", layer=3, gate_layer=1)]) as steered:
        options = GenerationOptions(max_tokens=12)
        plain = [p.text for p in steered.stream("Hi there", options, steered=False)]
        assert [p.text for p in steered.stream("Hi there", options)] != plain
        stream = steered.stream("Hi there", options)
        next(stream)
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt())
        assert [p.text for p in steered.stream("Hi there", options, steered=False)] == plain


@pytest.mark.parametrize(
    "make",
    [
        lambda: GenerationOptions(max_tokens=0),
        lambda: GenerationOptions(stop=("",)),
        lambda: SamplingOptions(temperature=-1),
        lambda: SamplingOptions(top_p=0),
    ],
)
def test_impossible_options_say_so(make: object) -> None:
    with pytest.raises(FsLocalError):
        make()  # type: ignore[operator]


def test_a_batch_answers_and_scores_as_single_sequences_do(tiny: Model) -> None:
    """Up to rounding: from 64 tokens on, llama.cpp's attention sums in another order."""
    texts = [
        "Say hello.",
        "Name a colour, please, and tell me why you like it.",
        "Write a Python function that adds two numbers.",
    ]
    rng = np.random.default_rng(0)
    additions = [{3: (0.5 * rng.standard_normal(64)).astype(np.float32)} for _ in texts]
    requests = [query_request(tiny, Query.of(t), ("Paris is nice.", "No.")) for t in texts]
    prompts = [r.prompt for r in requests]
    with Batch(tiny, 1024) as batch:
        for added in (None, additions):
            together = batch.generate(prompts, added, 8)
            alone = [batch.generate([p], None if added is None else [added[i]], 8)[0] for i, p in enumerate(prompts)]
            assert [a for a, _ in together] == [a for a, _ in alone]
            scores = batch.score(requests, added)
            single = [batch.score([r], None if added is None else [added[i]])[0] for i, r in enumerate(requests)]
            means = [[[a.mean() for a in answers] for answers in x] for x in (scores, single)]
            np.testing.assert_allclose(*means, atol=0.02)
        ((answer, drawn_with),) = batch.generate([prompts[0]], None, 5)
        ((best, other),) = batch.score([Request(prompts[0], (answer, [5] * 5))], None)
        assert best.mean() > other.mean()
        np.testing.assert_allclose(best, drawn_with, atol=0.02)


def test_many_answers_at_once_are_those_of_one_at_a_time(tiny: Model) -> None:
    packs = [synthetic_pack(tiny, gate, layer=3, gate_layer=2, seed=i, name=gate) for i, gate in enumerate(("open", "closed"))]  # fmt: skip
    queries = [
        f"Tell me {n} things about {what}." for n, what in enumerate(("owls", "tea", "the sea", "rust", "maps"), 1)
    ]
    queries = [*queries, *(q.upper() for q in queries), *(f"{q} Please be brief." for q in queries), *queries[:3]]
    queries += [q + " Then say why, and who said so first," * 8 for q in queries[:2]]  # llama.cpp sums these otherwise
    with SteeredModel.load(tiny.path, packs) as steered:
        assert (
            min(len(steered.prompt(q).tokens) for q in queries)
            < SAME_SUMS_BELOW
            < len(steered.prompt(queries[-1]).tokens)
        )
        together = steered.generate_many(queries, max_tokens=6)
        assert len(together) == len(queries) == 20  # more than there are sequences: the rest wait
        for query, answer in zip(queries, together, strict=True):
            for a, b in zip(answer.decisions, steered.decide(query), strict=True):
                assert (a.opening, a.energy_ratio) == (b.opening, b.energy_ratio)
                np.testing.assert_array_equal(a.vector, b.vector)
            assert steered.generate(query, GenerationOptions(max_tokens=6)).text == answer.text
        assert steered.generate_many([]) == []
        with pytest.raises(FsLocalError, match="max-tokens must be 1 or more"):
            steered.generate_many(queries, max_tokens=0)
