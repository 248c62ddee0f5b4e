"""Tools: told to the model, called by it, and sent back to it; where the template has none, a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fs_local.errors import ModelError
from fs_local.runtime.model import Model
from fs_local.server.tools import HERMES, LLAMA3, CallFormat, CallReader, ToolUse, format_of
from tests.conftest import fetched_model
from tests.server.conftest import Real
from tests.server.handy import TEMPLATE
from tests.server.real import real_server
from tests.server.serving import client
from tests.tiny_model import write_tiny_model

LLAMA_SAYS = '{{ "Respond in the format {\\"name\\": function name, \\"parameters\\": dictionary}." }}'
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather < of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/City"}, "days": {"enum": [1, 2]}},
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"City": {"enum": ["Paris", "Rome"]}},
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
NAMES = ("get_weather", "clock")


def use(form: CallFormat = HERMES) -> ToolUse:
    return ToolUse(form, [], NAMES, (), True)


def read(text: str, sizes: list[int], form: CallFormat = HERMES) -> tuple[str, list[tuple[str, str]]]:
    """Text and calls of an answer that comes in pieces of these sizes, and then the rest."""
    reader, said = CallReader(use(form)), ""
    for size in [*sizes, len(text)]:
        said += reader.feed(text[:size])[0]
        text = text[size:]
    said += reader.flush()[0]
    return said, [(c.name, c.arguments) for c in reader.calls]


CALL = '<tool_call>\n{"name": "clock", "arguments": {"zone": "a < b"}}\n</tool_call>'
CLOCKED = ("clock", '{"zone": "a < b"}')


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("Hello <b>there</b> <tool", "Hello <b>there</b> <tool", []),
        (f"I look.\n{CALL}\n{CALL}\n", "I look.\n", [CLOCKED, CLOCKED]),
        (CALL.removesuffix("</tool_call>"), "", [CLOCKED]),
        ("<tool_call>\nno JSON\n</tool_call> so", "<tool_call>\nno JSON\n</tool_call> so", []),
        ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', '<tool_call>{"name": "rm", "arguments": {}}</tool_call>', []),
        ('<tool_call>{"name": "clock", "arguments": [1]}', '<tool_call>{"name": "clock", "arguments": [1]}', []),
        ("<tool_call>" + "[" * 100_000, "<tool_call>" + "[" * 100_000, []),
    ],
)  # fmt: skip
@given(sizes=st.lists(st.integers(1, 12), max_size=12))
def test_calls_are_found_however_they_come(
    text: str, said: str, calls: list[tuple[str, str]], sizes: list[int]
) -> None:
    assert read(text, sizes) == (said, calls)


@given(sizes=st.lists(st.integers(1, 12), max_size=12))
def test_a_llama_calls_with_its_whole_answer(sizes: list[int]) -> None:
    assert read(' {"name": "clock", "parameters": {"zone": "a < b"}}', sizes, LLAMA3) == ("", [CLOCKED])
    for text in ("It is {late}.", '{"name": "clock"}', "{", ""):
        assert read(text, sizes, LLAMA3) == (text, [])


def test_formats_are_told_by_what_templates_say() -> None:
    assert format_of(TEMPLATE) is HERMES
    assert format_of(LLAMA_SAYS) is LLAMA3
    for other in ("[TOOL_CALLS]{{ tools }}", "<tool_call>\n<function=name>\n<parameter=a>", "{{ messages }}"):
        assert format_of(other) is None


def ask(http: httpx.Client, **more: Any) -> Any:
    body = {
        "model": "handy",
        "messages": [{"role": "user", "content": "Rain?"}],
        "tools": [WEATHER, CLOCK],
        "max_tokens": 200,
    }
    found = http.post("/v1/chat/completions", json={**body, **more})
    assert found.status_code == 200, found.text
    return (
        found.json()
        if not more.get("stream")
        else [json.loads(x[6:]) for x in found.text.splitlines() if x[:7] == "data: {"]
    )


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_call_that_is_demanded_follows_its_schema(handy: httpx.Client, choice: Any) -> None:
    for seed in range(6):
        found = ask(handy, tool_choice=choice, seed=seed)["choices"][0]
        assert (found["finish_reason"], found["message"]["content"]) == ("tool_calls", None)
        [call] = found["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "get_weather":
            assert arguments["city"] in ("Paris", "Rome")
            assert arguments["days"] in (1, 2)
        else:
            assert choice == "required"


def test_a_call_is_streamed(handy: httpx.Client) -> None:
    given: dict[str, Any] = {"tool_choice": "required", "seed": 3}
    [whole] = ask(handy, **given)["choices"][0]["message"]["tool_calls"]
    chunks = [c["choices"][0] for c in ask(handy, stream=True, **given)]
    [told] = [x for c in chunks for x in c["delta"].get("tool_calls", [])]
    assert (told["index"], told["type"], told["function"]) == (0, "function", whole["function"])
    assert chunks[0]["delta"]["role"] == "assistant"
    assert chunks[-1]["finish_reason"] == "tool_calls"
    assert not any(c["delta"].get("content") for c in chunks)


def test_none_is_called_where_none_is_wanted(handy: httpx.Client) -> None:
    for more in ({}, {"tool_choice": "none"}, {"parallel_tool_calls": False}):
        message = ask(handy, max_tokens=5, temperature=0, **more)["choices"][0]["message"]
        assert message["content"]
        assert "tool_calls" not in message
    without, none, auto = (
        ask(handy, max_tokens=1, **more)["usage"]["prompt_tokens"]
        for more in ({"tools": None}, {"tool_choice": "none"}, {"tool_choice": "auto"})
    )
    assert without == none < auto


def test_calls_and_results_are_sent_back(handy: httpx.Client) -> None:
    [call] = ask(handy, tool_choice="required")["choices"][0]["message"]["tool_calls"]
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "It rains <|im_end|> always."}
    messages = [{"role": "user", "content": "Rain?"}, said, result]
    assert ask(handy, messages=messages, max_tokens=3)["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "rm"}}}, "tool_choice"),
        ({"tools": [CLOCK, CLOCK]}, "tool_choice"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "nothing"}}}], "tool_choice": "required"}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "description": "<|im_end|>"}}]}, None),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "a"}]}, "messages.0"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[]"}}]}]}, "messages.0.tool_calls.0.function.arguments"),
    ],
)  # fmt: skip
def test_what_fits_nothing_is_refused(handy: httpx.Client, more: dict[str, Any], param: str | None) -> None:
    body = {"model": "handy", "messages": [{"role": "user", "content": "Rain?"}], "tools": [CLOCK], **more}
    found = handy.post("/v1/chat/completions", json=body)
    assert found.status_code == 400, found.text
    assert found.json()["error"]["param"] == param


def test_a_template_without_tools_has_none(real: Real) -> None:
    body: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Rain?"}]}
    call = {"id": "a", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    history = [
        *body["messages"],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "x"},
    ]
    for more in ({"tools": [CLOCK]}, {"messages": history}):
        refused = real.http.post("/v1/chat/completions", json={**body, **more})
        assert refused.status_code == 400
        assert "template has no tools" in refused.json()["error"]["message"]
    with pytest.raises(ModelError, match="has no tools"):
        real.engine.prompt([{"role": "user", "content": "Rain?"}], [CLOCK])


def test_the_users_text_stays_where_gates_read_it(tmp_path: Path) -> None:
    with Model.load(write_tiny_model(tmp_path / "handy.gguf", TEMPLATE)) as model:
        plain, told = (model.prompt([{"role": "user", "content": "Rain?"}], tools) for tools in ((), (WEATHER,)))
        text = model.text(told.tokens)
        assert model.text(told.tokens[told.user.start : told.user.stop]) == "Rain?"
        assert told.tokens[told.user.start :] == plain.tokens[plain.user.start :]
        assert told.tokens[told.turn_start :] == plain.tokens[plain.turn_start :]  # tools stand before the turn
        assert '"Weather < of a city"' in text


@pytest.mark.slow
def test_a_trained_model_calls_when_it_likes(tmp_path: Path) -> None:
    path = fetched_model("qwen2.5")
    with real_server(path) as (server, _), client(server) as http:
        messages = [{"role": "user", "content": "What is the weather in Paris today? Look it up for 1 day."}]
        given: dict[str, Any] = {"model": path.stem, "messages": messages, "temperature": 0}
        for more in ({}, {"tool_choice": "required"}):
            [call] = ask(http, **given, **more)["choices"][0]["message"]["tool_calls"]
            assert call["function"]["name"] == "get_weather"
            assert json.loads(call["function"]["arguments"])["city"] == "Paris"
