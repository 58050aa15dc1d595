"""OpenAI's and Anthropic's own Python clients with what goes beyond text: likelihoods, effort, thoughts, caches."""

import importlib
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest

from tests.support.fake_anthropic_rules import REDACTED, SIGNATURE
from tests.support.fake_openai import answer_for, logprob_for
from tests.support.llm_gateway import LlmGateway, llm_gateway
from tests.support.needs import missing

HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"number": {"type": "integer"}}, "additionalProperties": False}
MODELS = ("ok", "tools", "reasoning", "filtered", "image-too-large", "bad-tool-schema", "thought-cut:900")


def sdk(name: str) -> ModuleType:
    """Return a vendor's package."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(f"the package {name}", "it is in the extra `test`")


@pytest.fixture
async def gate() -> AsyncIterator[LlmGateway]:
    async with llm_gateway(models=MODELS) as made:
        yield made


@pytest.fixture
async def claude() -> AsyncIterator[LlmGateway]:
    async with llm_gateway(models=MODELS, kind="anthropic") as made:
        yield made


@pytest.fixture
async def openai(gate: LlmGateway) -> AsyncIterator[Any]:
    async with sdk("openai").AsyncOpenAI(base_url=f"{gate.base_url}/v1", api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic(claude: LlmGateway) -> AsyncIterator[Any]:
    async with sdk("anthropic").AsyncAnthropic(base_url=claude.base_url, api_key="k", max_retries=0) as client:
        yield client


async def test_openai_reads_likelihoods_whole_and_in_a_stream(gate: LlmGateway, openai: Any) -> None:
    asked = {"model": "ok", "messages": HELLO, "logprobs": True, "top_logprobs": 2}
    whole = (await openai.chat.completions.create(**asked)).choices[0].logprobs
    tokens = [f" {word}" for word in answer_for(gate.fake.hits[0].body).split(" ")]
    assert [one.model_dump() for one in whole.content] == [logprob_for(token, 2) for token in tokens]
    async with openai.chat.completions.stream(**asked) as stream:
        seen = [event.type async for event in stream]
        streamed = (await stream.get_final_completion()).choices[0]
    assert [one.token for one in streamed.logprobs.content] == tokens
    assert streamed.message.content == "".join(tokens)
    assert seen.count("logprobs.content.delta") == len(tokens)


async def test_openai_steers_and_reads_what_it_cost(gate: LlmGateway, openai: Any) -> None:
    function = {"name": "look", "parameters": SCHEMA, "strict": True}
    answer = await openai.chat.completions.create(
        model="reasoning",
        messages=HELLO,
        tools=[{"type": "function", "function": function}],
        parallel_tool_calls=False,
        reasoning_effort="low",
        frequency_penalty=1,
        presence_penalty=1,
        prompt_cache_key="k",
        extra_body={"top_k": 4},
    )
    assert answer.usage.completion_tokens_details.reasoning_tokens == 2
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert answer.choices[0].message.reasoning_content == "Hm, so be it."
    sent = gate.fake.hits[0].body
    assert (sent["reasoning_effort"], sent["top_k"], sent["tools"][0]["function"]["strict"]) == ("low", 4, True)


async def test_openai_raises_why_a_provider_refuses(openai: Any) -> None:
    for model, code in (
        ("filtered", "content_filter"),
        ("image-too-large", "image_too_large"),
        ("bad-tool-schema", "invalid_function_parameters"),
    ):
        with pytest.raises(sdk("openai").BadRequestError) as raised:
            await openai.chat.completions.create(model=model, messages=HELLO)
        assert raised.value.code == code


@pytest.mark.parametrize("thinking", [{"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}])
async def test_anthropic_goes_through_a_loop_of_tools_with_its_thoughts(
    claude: LlmGateway, anthropic: Any, thinking: Any
) -> None:
    asked: dict[str, Any] = {
        "model": "tools",
        "max_tokens": 2000,
        "messages": HELLO,
        "tools": [{"name": "look", "input_schema": SCHEMA, "strict": True}],
        "thinking": thinking,
    }
    whole = await anthropic.messages.create(**asked)
    async with anthropic.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()
    for message in (whole, streamed):
        first, second, *rest = message.content
        assert (first.thinking, first.signature, second.data) == ("Hm, so be it.", SIGNATURE, REDACTED)
        assert [block.type for block in rest] == ["text", "tool_use", "tool_use"]
        assert message.usage.output_tokens_details.thinking_tokens == 2
        results = [{"type": "tool_result", "tool_use_id": use.id, "content": "7"} for use in rest[1:]]
        said = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]}
        after = await anthropic.messages.create(
            **{**asked, "messages": [*HELLO, said, {"role": "user", "content": results}]}
        )
        assert after.stop_reason == "end_turn"
        kinds = [block["type"] for block in claude.fake.hits[-1].body["messages"][1]["content"]]
        assert kinds[:2] == ["thinking", "redacted_thinking"]


async def test_anthropic_marks_what_is_cached_and_reads_what_that_cost(claude: LlmGateway, anthropic: Any) -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    answer = await anthropic.messages.create(
        model="ok",
        max_tokens=100,
        messages=HELLO,
        system=[{"type": "text", "text": "be brief", "cache_control": mark}],
        cache_control={"type": "ephemeral"},
        thinking={"type": "disabled"},
        extra_body={"top_k": 5},  # a field that the client no longer has
    )
    assert answer.usage.cache_creation_input_tokens == 3
    assert answer.usage.cache_read_input_tokens > 0
    sent = claude.fake.hits[0].body
    assert sent["system"][0]["cache_control"] == mark
    assert sent["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert (sent["thinking"], sent["top_k"]) == ({"type": "disabled"}, 5)


async def test_anthropic_reads_models_in_its_own_form(anthropic: Any) -> None:
    ids = [model.id async for model in anthropic.models.list(limit=2)]
    assert set(MODELS) < set(ids)
    assert len(ids) == len(set(ids))
    one = await anthropic.models.retrieve("ok")
    assert (one.type, one.display_name, one.created_at.year) == ("model", "ok", 1970)
    with pytest.raises(sdk("anthropic").NotFoundError):
        await anthropic.models.retrieve("nope")


async def test_anthropic_raises_what_is_meant_before_a_route_is_found(anthropic: Any) -> None:
    with pytest.raises(sdk("anthropic").NotFoundError) as raised:
        await anthropic.messages.batches.list()
    assert raised.value.body["error"]["type"] == "not_found_error"
    assert raised.value.request_id.startswith("req_")


async def test_anthropic_never_takes_a_cut_thought_for_a_whole_answer(anthropic: Any) -> None:
    with pytest.raises(sdk("anthropic").APIStatusError, match="broke off"):
        async with anthropic.messages.stream(model="thought-cut:900", max_tokens=10, messages=HELLO) as stream:
            await stream.get_final_message()
