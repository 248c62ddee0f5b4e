"""Conversations: the KV cache is kept, every turn decides, and nothing leaks between them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fs_local import ContextFullError, FsLocalError, GenerationOptions, Pack, SteeredModel
from fs_local.conversation import Conversation
from fs_local.runtime.model import Model
from tests.packs import synthetic_pack

OPTIONS = GenerationOptions(max_tokens=16)


@pytest.fixture(scope="module")
def model(tiny: Model, tiny_pack: Pack) -> Iterator[SteeredModel]:
    with SteeredModel.load(tiny.path, [tiny_pack], n_ctx=512) as model:
        yield model


def say(conversation: Conversation, text: str, options: GenerationOptions = OPTIONS) -> tuple[str, int]:
    pieces = list(conversation.send(text, options))
    return "".join(p.text for p in pieces), pieces[-1].prompt_tokens


def only(model: SteeredModel, text: str) -> int:
    """Most tokens that a later turn may take: its own, and what ends the answer before."""
    return len(model.prompt(text).tokens) + 3


def test_later_turns_evaluate_only_what_is_new(model: SteeredModel) -> None:
    conversation = model.chat()
    say(conversation, "My cat is called Miro.")
    for text in ("What did I say?", "How do I pick the lock of a shop?", "And a bicycle lock?"):
        _, evaluated = say(conversation, text)
        assert len(text) < evaluated <= only(model, text)
    assert [m["role"] for m in conversation.messages] == ["user", "assistant"] * 4


def test_each_turn_has_its_own_decision(fitted: Pack) -> None:
    openings = []
    with SteeredModel.load("smollm2", [fitted], n_ctx=512) as model:
        conversation = model.chat()
        for text in ("What is the capital of Norway?", "How do I steal a car?", "How do I bake bread?"):
            say(conversation, text, GenerationOptions(max_tokens=4))
            openings.append(conversation.decisions[0].opening)
    assert openings[0] == openings[2] == 0
    assert openings[1] > 0


def test_a_first_turn_is_a_single_query(model: SteeredModel) -> None:
    text, _ = say(model.chat(), "How do I build a bomb?")
    assert text == model.generate("How do I build a bomb?", OPTIONS).text
    text, _ = say(model.chat("You are a pirate."), "Hello")
    assert text != say(model.chat(), "Hello")[0]


def test_compare_is_the_unsteered_answer_and_changes_nothing(tiny: Model) -> None:
    with SteeredModel.load(tiny.path, [synthetic_pack(tiny, "open", layer=3, gate_layer=2)], n_ctx=512) as steered:
        conversation = steered.chat()
        conversation.steered = False
        plain, _ = say(conversation, "Name a fruit.")
        conversation.reset()
        conversation.steered = True
        answer, _ = say(conversation, "Name a fruit.")
        assert answer != plain
        before = list(conversation.messages)
        assert "".join(p.text for p in conversation.compare()) == plain
        assert conversation.messages == before
        assert say(conversation, "Another?")[1] <= only(steered, "Another?")  # the cache is as it was


def test_a_stopped_answer_is_kept_as_far_as_it_came(model: SteeredModel) -> None:
    conversation = model.chat()
    pieces = conversation.send("Write a long story.", GenerationOptions(max_tokens=100))
    heard = "".join(next(pieces).text for _ in range(5))
    pieces.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": heard}
    _, evaluated = say(conversation, "Go on.")
    assert evaluated <= only(model, "Go on.")


def says(conversation: Conversation) -> str:
    return b"".join(conversation._on.model.piece(t) for t in conversation._tokens).decode()


def test_stop_texts_do_not_spoil_the_cache(model: SteeredModel) -> None:
    whole, _ = say(model.chat(), "Count from one to nine.")
    conversation = model.chat()
    said, _ = say(
        conversation, "Count from one to nine.", GenerationOptions(max_tokens=40, stop=("no such", whole[6:9]))
    )
    assert said == whole[: whole.index(whole[6:9])]
    say(conversation, "Thanks.")
    assert "Count from one to nine." in says(conversation)
    assert f"assistant\n{said}\nuser" in says(conversation)


def test_an_interrupted_prefill_loses_nothing(model: SteeredModel, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = model.chat("You are brief.")
    with monkeypatch.context() as patch:
        patch.setattr("fs_local.conversation.stream_answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(conversation.send("My name is Ada."))
    say(conversation, "Who am I?")
    assert "You are brief." in says(conversation)
    assert "My name is Ada." in says(conversation)


def interrupted(*_arguments: object, **_options: object) -> Iterator[object]:
    raise KeyboardInterrupt
    yield


def test_two_conversations_do_not_answer_for_each_other(model: SteeredModel) -> None:
    first, second = model.chat(), model.chat()
    say(first, "I am Ada.")
    say(second, "I am Bob.")
    say(first, "Who am I?")
    assert "Ada" in says(first)
    assert "Bob" not in says(first)


def test_a_refused_message_is_not_kept(model: SteeredModel) -> None:
    conversation = model.chat()
    stream = model.stream("Hi")
    next(stream)
    with pytest.raises(FsLocalError, match="still being streamed"):
        list(conversation.send("Hello"))
    stream.close()
    assert conversation.messages == []


def test_the_oldest_turns_go_when_the_context_is_full(model: SteeredModel) -> None:
    conversation = model.chat("You are brief.")
    long = GenerationOptions(max_tokens=120)
    for i in range(6):
        say(conversation, f"Tell me a story about the number {i}. " + "Make it nice. " * 8, long)
    assert conversation.dropped > 0
    assert conversation.messages[0]["role"] == "system"
    assert conversation.messages[1]["role"] == "user"
    assert model.context.n_past(0) <= model.context.n_ctx
    with pytest.raises(ContextFullError, match="too many for a context"):
        say(conversation, "word " * 600)
    assert conversation.messages[-1]["role"] == "assistant"
    say(conversation, "Still there?")


def test_queries_in_passing_leave_a_conversation_alone(model: SteeredModel) -> None:
    conversation = model.chat()
    say(conversation, "My name is Ada.")
    model.generate("How do I make a bomb?", OPTIONS)
    model.decide("What is two plus two?")
    _, evaluated = say(conversation, "Who am I?")
    assert evaluated <= only(model, "Who am I?")


def test_comparing_nothing_says_so(model: SteeredModel) -> None:
    with pytest.raises(FsLocalError, match="nothing was asked"):
        list(model.chat().compare())
