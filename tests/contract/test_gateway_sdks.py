"""OpenAI's and Anthropic's own Python clients, pointed at the gateway: what they parse, raise and retry."""

import asyncio
import base64
import hashlib
import importlib
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest

from tests.support.fake_openai import answer_for, vector_for
from tests.support.llm_gateway import LlmGateway, llm_gateway
from tests.support.needs import missing

KEY = "a-clients-key"
HELLO = [{"role": "user", "content": "hello"}]
PICTURE = base64.b64encode(b"picture").decode()
PARAMETERS = {"type": "object", "properties": {"number": {"type": "integer"}}}


@pytest.fixture
async def gate() -> AsyncIterator[LlmGateway]:
    keys = [{"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "tenant": "a"}]
    async with llm_gateway(authentication=True, api_keys=keys) as made:
        yield made


def sdk(name: str) -> ModuleType:
    """Return a vendor's package."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(f"the package {name}", "it is in the extra `test`")


@pytest.fixture
async def openai(gate: LlmGateway) -> AsyncIterator[Any]:
    async with sdk("openai").AsyncOpenAI(base_url=f"{gate.base_url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic(gate: LlmGateway) -> AsyncIterator[Any]:
    async with sdk("anthropic").AsyncAnthropic(base_url=gate.base_url, api_key=KEY, max_retries=0) as client:
        yield client


async def test_openai_reads_answers_streams_and_usage(gate: LlmGateway, openai: Any) -> None:
    whole = await openai.chat.completions.create(model="ok", messages=HELLO)
    expected = answer_for(gate.fake.hits[0].body)
    assert whole.choices[0].message.content.strip() == expected
    assert whole._request_id.startswith("req_")
    stream = await openai.chat.completions.create(
        model="ok", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert (said.strip(), chunks[-1].usage.total_tokens) == (expected, whole.usage.total_tokens)


async def test_openai_calls_tools_in_a_stream_and_sends_pictures(gate: LlmGateway, openai: Any) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}]
    content = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
    ]
    asked = {"model": "tools", "messages": [{"role": "user", "content": content}], "tools": tools}
    async with openai.chat.completions.stream(**asked) as stream:
        message = (await stream.get_final_completion()).choices[0].message
    assert [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls] == [
        ("call_0", "look", '{"number": 0}'),
        ("call_1", "look", '{"number": 1}'),
    ]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "7"} for call in message.tool_calls]
    turns = [*asked["messages"], message.model_dump(exclude_none=True), *results]
    after = await openai.chat.completions.create(**{**asked, "messages": turns})
    assert after.choices[0].finish_reason == "stop"
    assert gate.fake.hits[0].body["messages"][0]["content"][1]["image_url"]["url"].endswith(PICTURE)


async def test_openai_reads_vectors_and_models(gate: LlmGateway, openai: Any) -> None:
    vectors = await openai.embeddings.create(model="vectors", input=["one", "two"], dimensions=4)
    assert [list(one.embedding) for one in vectors.data] == [vector_for("one", 4), vector_for("two", 4)]
    numbers = await openai.embeddings.create(model="vectors", input="one", dimensions=4, encoding_format="float")
    assert numbers.data[0].embedding == vector_for("one", 4)
    assert "ok" in [model.id async for model in openai.models.list()]
    assert (await openai.models.retrieve("ok")).owned_by == "fake"


async def test_openai_raises_what_is_meant(gate: LlmGateway, openai: Any) -> None:
    package = sdk("openai")
    for model, kind, code in (
        ("nope", package.NotFoundError, "model_not_found"),
        ("rate-limited:7", package.RateLimitError, "rate_limit_exceeded"),
        ("too-long", package.BadRequestError, "context_length_exceeded"),
        ("status:500", package.InternalServerError, "provider_failed"),
    ):
        with pytest.raises(kind) as raised:
            await openai.chat.completions.create(model=model, messages=HELLO)
        assert raised.value.code == code
    with pytest.raises(package.AuthenticationError):
        await openai.with_options(api_key="wrong").models.list()
    stream = await openai.chat.completions.create(model="cut:700", messages=HELLO, stream=True)
    with pytest.raises(package.APIError, match="broke off"):
        _ = [chunk async for chunk in stream]


async def test_anthropic_reads_messages_streams_and_counts(gate: LlmGateway, anthropic: Any) -> None:
    asked = {"model": "reasoning", "max_tokens": 100, "messages": HELLO, "system": "be brief"}
    whole = await anthropic.messages.create(**asked)
    assert [block.type for block in whole.content] == ["thinking", "text"]
    assert whole.content[1].text.strip() == answer_for(gate.fake.hits[0].body)
    async with anthropic.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()
    assert [block.type for block in streamed.content] == ["thinking", "text"]
    assert streamed.content[1].text == whole.content[1].text
    assert (streamed.usage.output_tokens, streamed.stop_reason) == (whole.usage.output_tokens, "end_turn")
    assert (await anthropic.messages.count_tokens(model="ok", messages=HELLO)).input_tokens > 0


async def test_anthropic_calls_tools_in_a_stream_and_sends_pictures(gate: LlmGateway, anthropic: Any) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PICTURE}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "what is it?"}]
    asked: dict[str, Any] = {
        "model": "tools",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": content}],
        "tools": [{"name": "look", "input_schema": PARAMETERS}],
    }
    async with anthropic.messages.stream(**asked) as stream:
        message = await stream.get_final_message()
    assert [(use.id, use.name, use.input) for use in message.content] == [
        ("call_0", "look", {"number": 0}),
        ("call_1", "look", {"number": 1}),
    ]
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "7"} for use in message.content]
    said = [block.model_dump(exclude_none=True) for block in message.content]
    turns = [*asked["messages"], {"role": "assistant", "content": said}, {"role": "user", "content": results}]
    after = await anthropic.messages.create(**{**asked, "messages": turns})
    assert after.stop_reason == "end_turn"


async def test_anthropic_raises_what_is_meant(gate: LlmGateway, anthropic: Any) -> None:
    package = sdk("anthropic")
    for model, kind in (
        ("nope", package.NotFoundError),
        ("rate-limited:7", package.RateLimitError),
        ("too-long", package.BadRequestError),
        ("status:500", package.InternalServerError),
    ):
        with pytest.raises(kind) as raised:
            await anthropic.messages.create(model=model, max_tokens=10, messages=HELLO)
        assert raised.value.request_id.startswith("req_")
    with pytest.raises(package.AuthenticationError):
        await anthropic.with_options(api_key="wrong").messages.create(model="ok", max_tokens=10, messages=HELLO)
    with pytest.raises(package.APIStatusError, match="broke off"):
        async with anthropic.messages.stream(model="cut:700", max_tokens=10, messages=HELLO) as stream:
            await stream.get_final_message()


async def test_a_client_library_that_leaves_takes_the_providers_call_with_it(gate: LlmGateway, openai: Any) -> None:
    stream = await openai.chat.completions.create(model="stall:3", messages=HELLO, stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    async with asyncio.timeout(2):
        await gate.fake.hits[0].closed.wait()
    assert gate.fake.hits[0].how == "client_gone"
