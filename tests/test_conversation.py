"""Conversations: every turn decides, history is unsteered, and nothing leaks between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fs_local import ContextFullError, FsLocalError, GenerationOptions, Pack, Sampling, Steer, SteeredModel
from fs_local.conversation import Conversation
from fs_local.demo import DATA
from fs_local.examples import read_queries

OPTIONS = GenerationOptions(max_tokens=16, sampling=Sampling.greedy())
IR, GENERAL = (read_queries(DATA / f"{name}.jsonl")[0][0].text for name in ("unseen_ir", "unseen_general"))


@pytest.fixture
def model(tiny_path: Path, tiny_pack: Pack) -> Iterator[SteeredModel]:
    with SteeredModel.load(tiny_path, [tiny_pack], n_ctx=1024) as model:
        yield model


def say(conversation: Conversation, text: str, options: GenerationOptions = OPTIONS) -> tuple[str, int]:
    """The answer, and how many tokens of its prompt were not in the cache."""
    pieces = list(conversation.send(text, options))
    return "".join(p.text for p in pieces), pieces[-1].prompt_tokens - pieces[-1].cached_tokens


def says(conversation: Conversation) -> str:
    return "".join(m["content"] for m in conversation.messages)


def test_later_turns_evaluate_only_what_is_new(model: SteeredModel) -> None:
    conversation = model.chat()
    conversation.steered = False
    evaluated = [say(conversation, text)[1] for text in ("My cat is called Miro.", "What did I say?", "And what else?")]
    assert evaluated[0] > 35
    assert max(evaluated[1:]) < 70  # a message with its template, and the last token of the answer before
    assert [m["role"] for m in conversation.messages] == ["user", "assistant"] * 3


def test_each_turn_has_its_own_decision_and_what_was_steered_is_evaluated_again() -> None:
    """Of the unsteered model: SmolLM2, whose decisions mean something."""
    from tests.packs import synthetic_pack

    with SteeredModel.load("smollm2", n_ctx=512) as model:
        model.engine.set_packs([synthetic_pack(model.model, "open", layer=10, gate_layer=8)])
        conversation = model.chat()
        _, first = say(conversation, "Name a fruit.")
        _, second = say(conversation, "Another?")
        assert conversation.decisions[0].is_open
        assert second > first + 10
        conversation.steered = False
        _, third = say(conversation, "One more?")
        assert third > second
        assert conversation.decisions == []
        _, fourth = say(conversation, "And the last?")
        assert fourth < 25


def test_a_turn_after_a_steered_one_is_the_unsteered_models(model: SteeredModel, tiny_path: Path) -> None:
    conversation = model.chat()
    say(conversation, IR)
    assert conversation.decisions[0].is_open
    conversation.steered = Steer(enabled=False, exact=True)
    answer, _ = say(conversation, GENERAL)
    assert conversation._last is not None
    with SteeredModel.load(tiny_path, n_ctx=1024) as fresh:
        assert "".join(p.text for p in fresh.stream(*conversation._last)) == answer


def test_a_first_turn_is_a_single_query(model: SteeredModel) -> None:
    text, _ = say(model.chat(), IR)
    assert text == model.generate(IR, OPTIONS).text
    text, _ = say(model.chat("You are a pirate."), "Hello")
    assert text != say(model.chat(), "Hello")[0]


def test_compare_is_the_unsteered_answer_and_changes_nothing(model: SteeredModel) -> None:
    conversation = model.chat()
    conversation.steered = False
    plain, _ = say(conversation, IR)
    conversation.reset()
    conversation.steered = True
    answer, _ = say(conversation, IR)
    assert answer != plain
    before = list(conversation.messages)
    assert "".join(p.text for p in conversation.compare()) == plain
    assert conversation.messages == before


def test_a_stopped_answer_is_kept_as_far_as_it_came(model: SteeredModel) -> None:
    conversation = model.chat()
    conversation.steered = False
    pieces = conversation.send("Write a long story.", GenerationOptions(max_tokens=100))
    heard = "".join(next(pieces).text for _ in range(5))
    pieces.close()  # type: ignore[attr-defined]
    assert conversation.messages[-1] == {"role": "assistant", "content": heard}
    assert say(conversation, "Go on.")[1] < 70


def test_stop_texts_do_not_spoil_the_history(model: SteeredModel) -> None:
    conversation = model.chat()
    whole, _ = say(conversation, "Count from one to nine.")
    conversation.reset()
    stop = whole[5:7]
    options = GenerationOptions(max_tokens=16, stop=(stop,), sampling=Sampling.greedy())
    said, _ = say(conversation, "Count from one to nine.", options)
    assert said == whole[: whole.index(stop)]
    say(conversation, "Thanks.")
    assert conversation.messages[1]["content"] == said
    prompt = conversation._as_said(model.engine.prompt(conversation.messages))
    assert f"{said}<|im_end|>" in b"".join(conversation._bytes(prompt.tokens)).decode()


def test_a_turn_that_fails_is_not_kept(model: SteeredModel) -> None:
    conversation = model.chat("You are brief.")
    say(conversation, "My name is Ada.")
    before = list(conversation.messages)
    with pytest.raises(ContextFullError, match="too many for a context"):
        say(conversation, "word " * 600)
    stream = conversation.send("Who am I?", OPTIONS)
    next(stream)
    with pytest.raises(FsLocalError, match="still being streamed"):
        list(conversation.send("Hello"))
    model.engine.close()
    with pytest.raises(FsLocalError):
        list(conversation.send("Hello"))
    assert conversation.messages[: len(before)] == before
    assert all(m["content"] for m in conversation.messages)


def test_reset_in_the_middle_of_an_answer_forgets_it(model: SteeredModel) -> None:
    conversation = model.chat("You are brief.")
    stream = conversation.send("Write a story.", GenerationOptions(max_tokens=200))
    next(stream)
    conversation.reset()
    assert list(stream) == []
    assert [m["role"] for m in conversation.messages] == ["system"]
    say(conversation, "Hello")
    assert [m["role"] for m in conversation.messages] == ["system", "user", "assistant"]


def test_conversations_and_queries_do_not_answer_for_each_other(model: SteeredModel) -> None:
    first, second = model.chat(), model.chat()
    say(first, "I am Ada.")
    say(second, "I am Bob.")
    model.generate(IR, OPTIONS)
    say(first, "Who am I?")
    assert "Ada" in says(first)
    assert "Bob" not in says(first)


def test_the_oldest_turns_go_when_the_context_is_full(model: SteeredModel) -> None:
    conversation = model.chat("You are brief.")
    for i in range(6):
        say(conversation, f"Tell me about {i}. " + "Make it nice. " * 12)
    assert conversation.dropped > 0
    assert [m["role"] for m in conversation.messages[:2]] == ["system", "user"]
    assert conversation.messages[-1]["role"] == "assistant"
    assert model.generate("Hi", OPTIONS).generated_tokens == 16  # a long chat takes no room from others
    say(conversation, "Still there?")


def test_comparing_nothing_says_so(model: SteeredModel) -> None:
    with pytest.raises(FsLocalError, match="nothing was asked"):
        list(model.chat().compare())
