"""The clients that people use, as they are, against a real server: whole answers and streams, structured answers, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from pydantic import BaseModel, ConfigDict

from tests.server.conftest import Real

pytestmark = pytest.mark.clients
PLAIN = "tiny:unsteered"
QUERY = "What is the capital of France?"
MESSAGES: list[Any] = [{"role": "user", "content": QUERY}]


class City(BaseModel):
    """What a structured answer has."""

    model_config = ConfigDict(extra="forbid")

    city: Literal["Paris", "London"]
    rank: Literal[1, 2, 3]


@pytest.fixture
def base(real: Real) -> str:
    return f"{real.server.address}/v1"


@pytest.fixture
def expected(base: str) -> str:
    body = {"model": PLAIN, "messages": MESSAGES, "max_tokens": 6, "temperature": 0}
    return str(
        httpx.post(f"{base}/chat/completions", json=body, timeout=120).json()["choices"][0]["message"]["content"]
    )


def test_openai(base: str, expected: str) -> None:
    from openai import BadRequestError, NotFoundError, OpenAI

    client: Any = OpenAI(base_url=base, api_key="-", max_retries=0)
    given: dict[str, Any] = {"model": PLAIN, "messages": MESSAGES, "max_tokens": 6, "temperature": 0}
    found = client.chat.completions.create(**given)
    assert found.choices[0].message.content == expected
    assert found.usage is not None
    assert found.usage.completion_tokens == 6
    chunks = list(client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected
    assert chunks[-1].usage is not None
    with client.chat.completions.stream(**{**given, "max_tokens": 40}, stop=[expected[3]]) as stream:
        assert stream.get_final_completion().choices[0].message.content == expected[: expected.index(expected[3])]
    steered = client.chat.completions.create(**{**given, "model": "tiny"}, extra_body={"steering": {"explain": "full"}})
    assert steered.model_extra is not None
    assert [d["open"] for d in steered.model_extra["steering"]["decisions"]] == [True, True, False]
    again = [*MESSAGES, found.choices[0].message, {"role": "user", "content": "And of Spain?"}]
    assert client.chat.completions.create(**{**given, "messages": again}).choices
    logged = client.chat.completions.create(**given, logprobs=True, top_logprobs=2)
    assert logged.choices[0].logprobs is not None
    assert len(logged.choices[0].logprobs.content or []) == 6
    completed = client.completions.create(model=PLAIN, prompt=["One", "Two"], max_tokens=3)
    assert len(completed.choices) == 2
    assert [c.choices[0].text for c in client.completions.create(model=PLAIN, prompt="One", max_tokens=3, stream=True)]
    response = client.responses.create(model=PLAIN, input=QUERY, max_output_tokens=6, temperature=0)
    assert response.output_text == expected
    with client.responses.stream(model=PLAIN, input=QUERY, max_output_tokens=6, temperature=0) as events:
        told_events: list[Any] = list(events)
    assert told_events[0].type == "response.created"
    assert told_events[-1].type == "response.incomplete", "it was cut, and OpenAI's own server says so too"
    assert told_events[-1].response.output_text == expected
    parsed = client.chat.completions.parse(model=PLAIN, messages=MESSAGES, response_format=City, max_tokens=400)
    assert parsed.choices[0].message.parsed is not None
    told = client.responses.parse(model=PLAIN, input=QUERY, text_format=City, max_output_tokens=400)
    assert told.output_parsed is not None
    assert PLAIN in [m.id for m in client.models.list()]
    assert client.models.retrieve(PLAIN).id == PLAIN
    with pytest.raises(NotFoundError):
        client.chat.completions.create(**{**given, "model": "gpt-4o"})
    with pytest.raises(BadRequestError, match="tools"):
        client.chat.completions.create(
            **given, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]
        )


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_openai_asynchronously_with_a_cancel(base: str, real: Real, anyio_backend: str) -> None:
    import anyio
    from openai import AsyncOpenAI

    client: Any = AsyncOpenAI(base_url=base, api_key="-")
    stream = await client.chat.completions.create(
        model=PLAIN, messages=MESSAGES, stream=True, max_tokens=2000, logit_bias={"2": -100}
    )
    async for _ in stream:
        break
    await stream.close()
    with anyio.fail_after(30):
        while real.engine.stats.at_work:
            await anyio.sleep(0.05)


def test_tools_by_each_client(handy: httpx.Client) -> None:
    """A tool that must be called is, by all of them, with arguments that follow its schema."""
    import instructor
    import litellm
    from langchain_openai import ChatOpenAI
    from openai import OpenAI, pydantic_function_tool

    base = f"{str(handy.base_url).rstrip('/')}/v1"
    client: Any = OpenAI(base_url=base, api_key="-", max_retries=0)
    given: dict[str, Any] = {"model": "handy", "messages": MESSAGES, "max_tokens": 300}
    complete: Any = litellm.completion
    tools: dict[str, Any] = {"tools": [pydantic_function_tool(City)], "tool_choice": "required"}
    parsed = client.chat.completions.parse(**given, **tools).choices[0].message.tool_calls
    assert parsed is not None
    assert isinstance(parsed[0].function.parsed_arguments, City)
    with client.chat.completions.stream(**given, **tools) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed is not None
    assert City.model_validate_json(streamed[0].function.arguments)
    lite = complete(**{**given, "model": "openai/handy"}, api_base=base, api_key="-", **tools)
    assert City.model_validate_json(lite.choices[0].message.tool_calls[0].function.arguments)
    chat: Any = ChatOpenAI
    chain = chat(model="handy", base_url=base, api_key="-", max_tokens=300)
    [call] = chain.bind_tools([City], tool_choice="required").invoke(QUERY).tool_calls
    assert City.model_validate(call["args"])
    by_tool: Any = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    assert by_tool.chat.completions.create(**given, response_model=City, max_retries=0).rank in (1, 2, 3)


def test_litellm(base: str, expected: str) -> None:
    import litellm

    complete: Any = litellm.completion
    given: dict[str, Any] = {
        "model": f"openai/{PLAIN}",
        "api_base": base,
        "api_key": "-",
        "messages": MESSAGES,
        "max_tokens": 6,
        "temperature": 0,
    }
    assert complete(**given).choices[0].message.content == expected
    assert "".join(c.choices[0].delta.content or "" for c in complete(**given, stream=True)) == expected
    structured = complete(**{**given, "max_tokens": 60}, response_format=City)
    assert City.model_validate_json(structured.choices[0].message.content)
    ollama = {**given, "model": f"ollama_chat/{PLAIN}", "api_base": base.removesuffix("/v1")}
    assert complete(**ollama).choices[0].message.content


def test_langchain_openai(base: str, expected: str) -> None:
    from langchain_openai import ChatOpenAI

    chat: Any = ChatOpenAI
    model = chat(model=PLAIN, base_url=base, api_key="-", temperature=0, max_tokens=6)
    assert model.invoke(QUERY).content == expected
    assert "".join(str(c.content) for c in model.stream(QUERY)) == expected
    structured = chat(model=PLAIN, base_url=base, api_key="-", max_tokens=400)
    assert isinstance(structured.with_structured_output(City, method="json_schema").invoke(QUERY), City)
    responses = chat(model=PLAIN, base_url=base, api_key="-", temperature=0, max_tokens=16, use_responses_api=True)
    assert responses.invoke(QUERY).text


def test_instructor(base: str) -> None:
    import instructor
    from openai import OpenAI

    client: Any = instructor.from_openai(OpenAI(base_url=base, api_key="-"), mode=instructor.Mode.JSON_SCHEMA)
    found = client.chat.completions.create(
        model=PLAIN, messages=MESSAGES, response_model=City, max_tokens=400, max_retries=0
    )
    assert found.city in ("Paris", "London")


def test_pydantic_ai(base: str, expected: str) -> None:
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(PLAIN, provider=OpenAIProvider(base_url=base, api_key="-"))
    settings: Any = {"temperature": 0, "max_tokens": 6}
    plain: Any = Agent(model)
    assert plain.run_sync(QUERY, model_settings=settings).output == expected
    agent: Any = Agent(model, output_type=NativeOutput(City))
    assert agent.run_sync(QUERY, model_settings={"max_tokens": 60}).output.rank in (1, 2, 3)
    streamed = plain.run_stream_sync(QUERY, model_settings=settings)
    assert list(streamed.stream_text(delta=False))[-1] == expected


def test_ollama(real: Real) -> None:
    import ollama

    client: Any = ollama.Client(host=real.server.address)
    options = {"temperature": 0, "num_predict": 6}
    found = client.chat(model=PLAIN, messages=MESSAGES, options=options)
    assert found.message.content
    chunks = list(client.chat(model=PLAIN, messages=MESSAGES, options=options, stream=True))
    assert "".join(c.message.content or "" for c in chunks) == found.message.content
    assert chunks[-1].eval_count == 6
    assert client.generate(model=PLAIN, prompt=QUERY, options=options).response
    assert "".join(c.response for c in client.generate(model=PLAIN, prompt=QUERY, options=options, stream=True))
    structured = client.chat(
        model=PLAIN, messages=MESSAGES, format=City.model_json_schema(), options={"num_predict": 60}
    )
    assert City.model_validate_json(structured.message.content or "")
    assert PLAIN in [m.model for m in client.list().models]
    assert client.show(PLAIN).details is not None
    assert client.ps().models
    with pytest.raises(ollama.ResponseError):
        client.chat(model="nope", messages=MESSAGES)


@pytest.mark.parametrize("flags", [[], ["--no-stream"]])
def test_llm(base: str, tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: local\n  model_name: {PLAIN}\n  api_base: {base}\n  api_key_name: local\n", encoding="utf-8"
    )
    (tmp_path / "keys.json").write_text(json.dumps({"local": "-"}), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "llm",
        "-m",
        "local",
        "-o",
        "max_tokens",
        "6",
        "-o",
        "temperature",
        "0",
        *flags,
        QUERY,
    ]
    found = subprocess.run(
        command, capture_output=True, text=True, env={"LLM_USER_PATH": str(tmp_path), "PATH": ""}, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip()
