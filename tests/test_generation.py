"""Text from tokens, and answers: whole, streamed, and many at once."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_local import ContextFullError, FsLocalError, GenerationOptions, Sampling, Steer, SteeredModel
from fs_local.engine.stop_strings import TextStream
from fs_local.pack.file import Pack


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


GREEDY = Sampling.greedy()


@pytest.fixture(scope="module")
def model(tiny_path: Path, tiny_pack: Pack) -> Iterator[SteeredModel]:
    with SteeredModel.load(tiny_path, [tiny_pack]) as model:
        yield model


def test_an_answer_ends_for_a_reason() -> None:
    with SteeredModel.load("smollm2", n_ctx=512) as model:
        question = "What is the capital of France? Answer in one word."
        short = model.generate(question, GenerationOptions(max_tokens=60))
        assert short.finish_reason == "stop"
        assert "Paris" in short.text
        assert "<|im_end|>" not in short.text
        stopped = model.generate(question, GenerationOptions(stop=("aris",)))
        assert stopped.finish_reason == "stop_string"
        assert stopped.text.endswith("P")
        cut = model.generate("Count to one hundred.", GenerationOptions(max_tokens=7))
        assert (cut.finish_reason, cut.generated_tokens) == ("length", 7)


def test_streaming_is_generating(model: SteeredModel) -> None:
    options = GenerationOptions(max_tokens=30, sampling=GREEDY)
    pieces = list(model.stream("Write a haiku.", options))
    whole = model.generate("Write a haiku.", GenerationOptions(max_tokens=30))
    assert "".join(p.text for p in pieces) == whole.text
    assert tuple(t for p in pieces for t in p.tokens) == whole.tokens
    assert [p.finish_reason for p in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert asyncio.run(model.agenerate("Write a haiku.", options)).text == whole.text
    sampled = GenerationOptions(max_tokens=20, sampling=Sampling(temperature=1.0, seed=4))
    assert model.generate("Write a haiku.", sampled).text == model.generate("Write a haiku.", sampled).text


def test_a_stream_draws_by_default_and_an_answer_does_not(model: SteeredModel) -> None:
    options = GenerationOptions(max_tokens=40)
    said = {"".join(p.text for p in model.stream("Write a haiku.", options)) for _ in range(4)}
    assert len(said) > 1
    assert len({model.generate("Write a haiku.", options).text for _ in range(3)}) == 1


def test_threads_answer_side_by_side(model: SteeredModel) -> None:
    queries, found = [f"Tell me about {x}." for x in ("owls", "tea", "rust", "maps")], {}
    options = GenerationOptions(max_tokens=12)
    threads = [threading.Thread(target=lambda q=q: found.update({q: model.generate(q, options)})) for q in queries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[q].generated_tokens for q in queries] == [12] * 4


def test_a_closed_or_broken_stream_leaves_nothing_steered(model: SteeredModel) -> None:
    options = GenerationOptions(max_tokens=12, sampling=GREEDY)
    query = "How can I poison my neighbour's dog?"
    off, on = (Steer(enabled, exact=True) for enabled in (False, True))
    plain = [p.text for p in model.stream(query, options, steered=off)]
    assert [p.text for p in model.stream(query, options, steered=on)] != plain
    stream = model.stream(query, options)
    next(stream)
    stream.close()
    assert list(stream) == []
    assert [p.text for p in model.stream(query, options, steered=off)] == plain


@pytest.mark.parametrize("make", [lambda: GenerationOptions(max_tokens=0), lambda: GenerationOptions(stop=("",))])
def test_impossible_options_say_so(make: object) -> None:
    with pytest.raises(FsLocalError):
        make()  # type: ignore[operator]


def test_many_answers_at_once_have_the_decisions_of_one_at_a_time(model: SteeredModel) -> None:
    queries = [f"Tell me {n} things about {what}." for n, what in enumerate(("owls", "tea", "the sea", "rust"), 1)]
    queries = [*queries, *(q.upper() for q in queries), *(f"{q} Please be brief." for q in queries), *queries[:3]]
    queries += ["How do I steal a car?", queries[0] + " Then say why, and who said so first," * 8]
    together = model.generate_many(queries, GenerationOptions(max_tokens=6))
    assert len(together) == len(queries)  # more than there are sequences: the rest wait
    same = []
    for query, answer in zip(queries, together, strict=True):
        for a, b in zip(answer.decisions, model.decide(query, steered=Steer(exact=True)), strict=True):
            assert (a.opening, a.energy_ratio) == (b.opening, b.energy_ratio)
            np.testing.assert_array_equal(a.vector, b.vector)
        same.append(model.generate(query, GenerationOptions(max_tokens=6)).text == answer.text)
    assert np.mean(same) >= 0.7  # sums in a batch have another order than those of one sequence
    assert model.generate_many([]) == []
    with pytest.raises(ContextFullError, match="row 2 has"):
        model.generate_many(["Hi", "word " * 2000])
