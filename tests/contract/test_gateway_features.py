"""What chat completions carry beyond text, over HTTP: likelihoods, effort, penalties, strict tools, and refusals."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.fake_openai import answer_for, logprob_for
from tests.support.llm_gateway import LlmGateway, data_of, llm_gateway

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "CANARY-PROMPT hello"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}}]
REFUSALS = {
    "filtered": (400, "content_filter", "messages"),
    "image-too-large": (400, "image_too_large", "messages"),
    "bad-image": (400, "unsupported_part", "messages"),
    "bad-tool-schema": (400, "invalid_function_parameters", "tools[0].function.parameters"),
    "bad-answer-schema": (400, "invalid_json_schema", "response_format.json_schema.schema"),
    "too-long": (400, "context_length_exceeded", "messages"),
    "status:413": (413, "request_too_large", None),
}
MODELS = ("ok", "old", "tools", "reasoning", *REFUSALS)


@pytest.fixture
async def gate() -> AsyncIterator[LlmGateway]:
    async with llm_gateway(models=MODELS) as made:
        yield made


@pytest.fixture
async def claude() -> AsyncIterator[LlmGateway]:
    async with llm_gateway(models=("ok",), kind="anthropic") as made:
        yield made


def chat(model: str = "ok", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO} | fields


async def choices_of(gate: LlmGateway, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await gate.client.post(CHAT, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    chunks = [json.loads(one) for one in data_of(answer.text) if one != "[DONE]"]
    return [chunk["choices"][0] for chunk in chunks if "choices" in chunk]


async def test_everything_that_steers_an_answer_reaches_the_provider(gate: LlmGateway) -> None:
    body = chat(
        tools=TOOLS,
        parallel_tool_calls=False,
        reasoning_effort="minimal",
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        top_k=9,
        logprobs=True,
        top_logprobs=3,
        prompt_cache_key="k",
    )
    answer = await gate.client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    sent = gate.fake.hits[0].body
    names = ("parallel_tool_calls", "reasoning_effort", "frequency_penalty", "presence_penalty", "top_k", "logprobs")
    assert [sent[name] for name in names] == [body[name] for name in names]
    assert sent["top_logprobs"] == 3
    assert sent["tools"] == [
        {"type": "function", "function": {"name": "look", "description": "", **TOOLS[0]["function"]}}  # type: ignore[dict-item]
    ]


@pytest.mark.parametrize("alternatives", [None, 2])
async def test_likelihoods_have_openais_shape(gate: LlmGateway, alternatives: int | None) -> None:
    fields = {"logprobs": True} if alternatives is None else {"logprobs": True, "top_logprobs": alternatives}
    whole = (await gate.client.post(CHAT, json=chat(**fields))).json()["choices"][0]
    tokens = [f" {word}" for word in answer_for(gate.fake.hits[0].body).split(" ")]
    expected = [logprob_for(token, alternatives or 0) for token in tokens]
    assert whole["logprobs"] == {"content": expected, "refusal": None}
    streamed = await choices_of(gate, chat(**fields))
    told = [choice for choice in streamed if choice["logprobs"]]
    assert [choice["logprobs"] for choice in told] == [{"content": [one], "refusal": None} for one in expected]
    # Each token's text is in the chunk that tells how likely it was.
    assert [choice["delta"]["content"] for choice in told] == tokens
    assert [choice["delta"] for choice in streamed if not choice["logprobs"]][1:] == [{}]


async def test_without_them_a_choice_says_that_there_are_none(gate: LlmGateway) -> None:
    whole = (await gate.client.post(CHAT, json=chat(logprobs=False))).json()["choices"][0]
    assert whole["logprobs"] is None
    assert all(choice["logprobs"] is None for choice in await choices_of(gate, chat()))


async def test_usage_says_what_went_into_thinking_and_came_from_the_providers_cache(gate: LlmGateway) -> None:
    usage = (await gate.client.post(CHAT, json=chat("reasoning"))).json()["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert usage["prompt_tokens_details"] == {"cached_tokens": 1}
    answer = await gate.client.post(CHAT, json=chat("reasoning", stream=True, stream_options={"include_usage": True}))
    *_, told, done = data_of(answer.text)
    assert done == "[DONE]"
    assert json.loads(told)["usage"] == usage


async def test_one_call_at_a_time_is_the_clients_to_ask(gate: LlmGateway) -> None:
    body = chat("tools", tools=TOOLS, parallel_tool_calls=False)
    [call] = (await gate.client.post(CHAT, json=body)).json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "look"


async def test_reasoning_that_a_client_sends_back_arrives(gate: LlmGateway) -> None:
    said = {"role": "assistant", "content": "so", "reasoning_content": "Hm."}
    await gate.client.post(CHAT, json=chat(messages=[*HELLO, said, *HELLO]))
    assert gate.fake.hits[0].body["messages"][1] == said


async def test_effort_becomes_thinking_where_the_provider_is_anthropic(claude: LlmGateway) -> None:
    answer = await claude.client.post(CHAT, json=chat(reasoning_effort="high"))
    assert answer.json()["choices"][0]["message"]["reasoning_content"] == "Hm, so be it."
    assert answer.json()["usage"]["prompt_tokens_details"]["cache_write_tokens"] == 3
    sent = claude.fake.hits[0].body
    assert (sent["thinking"], sent["output_config"]) == ({"type": "adaptive"}, {"effort": "high"})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True}, "top_logprobs"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"presence_penalty": 1}, "presence_penalty"),
    ],
)
async def test_what_the_provider_cannot_do_is_refused_by_its_name(
    claude: LlmGateway, fields: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        answer = await claude.client.post(CHAT, json=chat(stream=stream, **fields))
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
        assert (error["code"], error["param"]) == ("unsupported_parameter", param)
        assert "this provider" in error["message"]


async def test_what_a_server_does_not_know_is_named(gate: LlmGateway) -> None:
    answer = await gate.client.post(CHAT, json=chat("old", reasoning_effort="low"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "reasoning_effort")


@pytest.mark.parametrize("model", REFUSALS)
async def test_why_a_provider_refuses_is_told_in_openais_codes(gate: LlmGateway, model: str) -> None:
    status, code, param = REFUSALS[model]
    for stream in (False, True):
        answer = await gate.client.post(CHAT, json=chat(model, stream=stream))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
        assert error["type"] == "invalid_request_error"
        assert "CANARY" not in answer.text


async def test_a_body_that_grows_beyond_the_contracts_bound_is_too_large(gate: LlmGateway) -> None:
    schema = {"enum": [1] * 800_000}  # two bytes each in JSON, more in the contract
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    answer = await gate.client.post(CHAT, json=chat(tools=[tool]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "message_too_large")
    assert gate.fake.hits == []
