"""OpenAI's routes: the shapes that its clients read, and nothing ignored in silence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.conftest import Served
from tests.server.serving import chat


def events(text: str) -> list[Any]:
    """The data of server-sent events, without the last one, which says that it is the last."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(x) for x in data[:-1]]


def test_a_chat_completion_has_openais_shape(served: Served) -> None:
    found = served.http.post("/v1/chat/completions", json=chat("hello there")).json()
    assert found["object"] == "chat.completion"
    assert found["id"].startswith("chatcmpl-")
    assert found["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello there", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + found["usage"]["completion_tokens"] == 13


def test_a_stream_says_the_same_as_the_whole(served: Served) -> None:
    body = chat("one two three", n=2, stream=True, stream_options={"include_usage": True})
    found = events(served.http.post("/v1/chat/completions", json=body).text)
    for index in (0, 1):
        mine = [c["choices"][0] for c in found if c["choices"] and c["choices"][0]["index"] == index]
        assert "".join(c["delta"].get("content", "") for c in mine) == "one two three"
        assert mine[0]["delta"]["role"] == "assistant"
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == ["stop"]
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["prompt_tokens"] == 13, "one prompt, however many answers"
    assert found[-1]["usage"]["completion_tokens"] == 6
    assert all(c["usage"] is None for c in found[:-1])


def test_openais_defaults_and_what_is_given(served: Served) -> None:
    served.http.post("/v1/chat/completions", json=chat())
    plain = served.engine.requests[-1].sampling
    assert (plain.temperature, plain.top_p, plain.top_k, plain.min_p, plain.repeat_penalty) == (1, 1, 0, 0, 1)
    assert plain.seed is None
    body = chat(temperature=0, top_p=0, seed=7, stop=["a", "b"], logit_bias={"5": -100}, presence_penalty=0.5, n=2)
    served.http.post("/v1/chat/completions", json={**body, "max_completion_tokens": 3})
    first, second = served.engine.requests[-2:]
    assert (first.sampling.seed, second.sampling.seed) == (7, 8)
    assert first.sampling.temperature == 0
    assert first.sampling.top_k == 1, "no share of the tokens is the likeliest"
    assert first.sampling.logit_bias == {5: -100.0}
    assert (first.stop, first.max_tokens, first.sampling.presence_penalty) == (("a", "b"), 3, 0.5)


def test_text_parts_and_developers(served: Served) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]},
    ]
    found = served.http.post("/v1/chat/completions", json={"model": "fake", "messages": messages}).json()
    assert found["choices"][0]["message"]["content"] == "Be brief. a b"


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"foo": 1}, "foo"),
        ({"steering": {"bar": 1}}, "steering.bar"),
        ({"steering": {"packs": {"refusal": {"lambda": 1}}}}, "steering.packs.refusal.lambda"),
        ({"temperature": 5}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"n": 0}, "n"),
        ({"store": True}, "store"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"functions": [{"name": "f"}]}, None),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"modalities": ["text", "audio"]}, "modalities.1"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages.0.content.0"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages.0.role"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, None),
        ({"stop": [""]}, "stop.0"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
    ],
)  # fmt: skip
def test_what_is_not_obeyed_is_refused_by_name(served: Served, more: dict[str, Any], named: str | None) -> None:
    answer = served.http.post("/v1/chat/completions", json={**chat(), **more})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert named is None or error["param"] == named
    assert "\n" not in error["message"]


def test_what_changes_nothing_may_be_given(served: Served) -> None:
    harmless: dict[str, Any] = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "tools": None,
        "seed": None,
    }
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "tool_calls": None,
        "annotations": [],
    }
    body = {
        **chat(**harmless),
        "messages": [{"role": "user", "content": "q"}, message, {"role": "user", "content": "r"}],
    }
    assert served.http.post("/v1/chat/completions", json=body).status_code == 200


def test_completions_take_texts_and_tokens(served: Served) -> None:
    for prompt, texts in (
        ("a b", ["a b"]),
        (["a b", "c"], ["a b", "c"]),
        ([97, 32, 98], ["a b"]),
        ([[97], [98]], ["a", "b"]),
    ):
        found = served.http.post("/v1/completions", json={"model": "fake", "prompt": prompt}).json()
        assert [c["text"] for c in found["choices"]] == texts
        assert [c["index"] for c in found["choices"]] == list(range(len(texts)))
    streamed = served.http.post("/v1/completions", json={"model": "fake", "prompt": ["a b", "c"], "stream": True}).text
    assert "".join(c["choices"][0]["text"] for c in events(streamed) if c["choices"][0]["index"] == 0) == "a b"
    refused: list[Any] = ["", [], [999], [[]], [-1], 5]
    for none in refused:
        assert served.http.post("/v1/completions", json={"model": "fake", "prompt": none}).status_code == 400
    assert served.http.post("/v1/completions", json={"model": "fake", "prompt": "a", "echo": True}).status_code == 400


def test_responses_are_stateless_and_typed(served: Served) -> None:
    given = [{"role": "user", "content": [{"type": "input_text", "text": "a b"}]}]
    found = served.http.post("/v1/responses", json={"model": "fake", "input": given, "instructions": "I"}).json()
    assert found["output"][0]["content"][0]["text"] == "I a b"
    assert (found["status"], found["store"]) == ("completed", False)
    again = [*given, found["output"][0], {"role": "user", "content": "more"}]
    assert served.http.post("/v1/responses", json={"model": "fake", "input": again}).status_code == 200
    text = served.http.post("/v1/responses", json={"model": "fake", "input": "a b", "stream": True}).text
    data = [json.loads(x.removeprefix("data: ")) for x in text.splitlines() if x.startswith("data: ")]
    assert [d["sequence_number"] for d in data] == list(range(len(data)))
    assert "".join(d["delta"] for d in data if d["type"] == "response.output_text.delta") == "a b"
    assert data[-1]["type"] == "response.completed"
    cut = served.http.post("/v1/responses", json={"model": "fake", "input": "a b", "max_output_tokens": 1}).json()
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    kept = served.http.post("/v1/responses", json={"model": "fake", "input": "a", "previous_response_id": "resp_1"})
    assert kept.status_code == 400
    assert "keeps no conversations" in kept.json()["error"]["message"]


def test_models_have_three_kinds_of_name(served: Served) -> None:
    names = [m["id"] for m in served.http.get("/v1/models").json()["data"]]
    assert names == ["fake", "fake:unsteered", "fake:refusal", "fake:truthful"]
    assert served.http.get("/v1/models/fake:refusal").json()["id"] == "fake:refusal"
    missing = served.http.post("/v1/chat/completions", json={**chat(), "model": "gpt-4o"})
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


def test_unknown_routes_and_methods(served: Served) -> None:
    assert served.http.get("/v1/embeddings").status_code == 404
    assert served.http.post("/v1/embeddings", json={}).json()["error"]["message"] == "there is no /v1/embeddings here"
    wrong = served.http.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert served.http.put("/v1/steering/packs/none").headers["allow"] == "PATCH"
