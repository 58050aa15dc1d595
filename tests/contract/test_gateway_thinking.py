"""What Anthropic's messages carry beyond text, over HTTP: thoughts that come back, marks for caches, and refusals."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentmesh_gateway.settings import Bounds
from tests.support.fake_anthropic_rules import REDACTED, SIGNATURE, marks_of
from tests.support.llm_gateway import LlmGateway, data_of, llm_gateway

MESSAGES = "/v1/messages"
HELLO = [{"role": "user", "content": "CANARY-PROMPT hello"}]
SCHEMA = {"type": "object", "properties": {"number": {"type": "integer"}}}
TOOLS = [{"name": "look", "input_schema": SCHEMA}]
THOUGHTS = [
    {"type": "thinking", "thinking": "Hm, so be it.", "signature": SIGNATURE},
    {"type": "redacted_thinking", "data": REDACTED},
]
ENABLED = {"type": "enabled", "budget_tokens": 1024}
REFUSALS = {
    "filtered": (400, "invalid_request_error", "the provider's filter"),
    "image-too-large": (400, "invalid_request_error", "messages: an image or a file is larger"),
    "bad-tool-schema": (400, "invalid_request_error", "tools.0.input_schema: is no JSON Schema"),
    "bad-answer-schema": (400, "invalid_request_error", "output_config.format.schema: is no JSON Schema"),
    "too-long": (400, "invalid_request_error", "prompt is too long"),
    "status:413": (413, "request_too_large", "the request has more bytes"),
}
MODELS = ("ok", "tools", "reasoning", *REFUSALS)


@pytest.fixture
async def gate() -> AsyncIterator[LlmGateway]:
    async with llm_gateway(models=MODELS, kind="anthropic") as made:
        yield made


def asked(model: str = "ok", **fields: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 2000, "messages": HELLO, **fields}


async def events_of(gate: LlmGateway, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await gate.client.post(MESSAGES, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    return [json.loads(data) for data in data_of(answer.text)]


def rebuilt(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the blocks of a stream together, and check that each begins, grows and ends before the next."""
    blocks: list[dict[str, Any]] = []
    open_at: int | None = None
    for event in events:
        if event["type"] == "content_block_start":
            assert (open_at, event["index"]) == (None, len(blocks))
            open_at = event["index"]
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_at
            delta, block = event["delta"], blocks[-1]
            for name in delta.keys() - {"type"}:
                block[name] = block.get(name, "") + delta[name]
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_at
            open_at = None
    assert open_at is None
    return blocks


@pytest.mark.parametrize("thinking", [ENABLED, {"type": "adaptive", "display": "summarized"}])
async def test_thoughts_come_whole_and_streamed_with_their_signatures(gate: LlmGateway, thinking: Any) -> None:
    body = asked(thinking=thinking, output_config={"effort": "medium"})
    whole = (await gate.client.post(MESSAGES, json=body)).json()
    assert whole["content"][:2] == THOUGHTS
    assert [block["type"] for block in whole["content"][2:]] == ["text"]
    events = await events_of(gate, body)
    blocks = rebuilt(events)
    assert blocks[:2] == THOUGHTS
    assert blocks[2]["text"] == whole["content"][2]["text"]
    first = [event for event in events if event.get("index") == 0]
    assert first[0]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert [event["delta"]["type"] for event in first[1:-1]] == ["thinking_delta", "thinking_delta", "signature_delta"]
    sent = gate.fake.hits[0].body
    assert (sent["thinking"], sent["output_config"]) == (thinking, {"effort": "medium"})
    assert whole["usage"]["output_tokens_details"] == {"thinking_tokens": 2}


async def test_a_thought_that_is_not_shown_has_its_signature_alone(gate: LlmGateway) -> None:
    thinking = {"type": "adaptive", "display": "omitted"}
    whole = (await gate.client.post(MESSAGES, json=asked(thinking=thinking))).json()
    assert whole["content"][:2] == [THOUGHTS[0] | {"thinking": ""}, THOUGHTS[1]]
    assert rebuilt(await events_of(gate, asked(thinking=thinking)))[:2] == whole["content"][:2]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_loop_of_tools_goes_on_with_the_thoughts_of_its_turn(gate: LlmGateway, stream: bool) -> None:
    body = asked("tools", tools=TOOLS, thinking=ENABLED)
    if stream:
        said = rebuilt(await events_of(gate, body))
        for block in said:
            if partial := block.pop("partial_json", ""):
                block["input"] = json.loads(partial)
    else:
        said = (await gate.client.post(MESSAGES, json=body)).json()["content"]
    assert [block["type"] for block in said] == ["thinking", "redacted_thinking", "text", "tool_use", "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": "7"} for number in range(2)]
    turns = [*HELLO, {"role": "assistant", "content": said}, {"role": "user", "content": results}]
    # The fake refuses a turn that doesn't begin with thoughts of its own, as the API does.
    after = await gate.client.post(MESSAGES, json={**body, "messages": turns})
    assert after.status_code == 200, after.text
    assert gate.fake.hits[-1].body["messages"][1]["content"][:2] == THOUGHTS
    bare = [*HELLO, {"role": "assistant", "content": said[2:]}, {"role": "user", "content": results}]
    assert (await gate.client.post(MESSAGES, json={**body, "messages": bare})).status_code == 400


async def test_a_thought_between_calls_goes_back_to_its_place_and_a_failure_is_told(gate: LlmGateway) -> None:
    uses = [{"type": "tool_use", "id": f"t{number}", "name": "look", "input": {}} for number in range(2)]
    results: list[dict[str, Any]] = [
        {"type": "tool_result", "tool_use_id": f"t{number}", "content": "7"} for number in range(2)
    ]
    results[1]["is_error"] = True
    said = [THOUGHTS[0], uses[0], THOUGHTS[1], uses[1]]
    turns = [*HELLO, {"role": "assistant", "content": said}, {"role": "user", "content": results}]
    answer = await gate.client.post(MESSAGES, json=asked(messages=turns, tools=TOOLS))
    assert answer.status_code == 200, answer.text
    assert gate.fake.hits[0].body["messages"][1]["content"] == said
    assert [result.get("is_error") for result in gate.fake.hits[0].body["messages"][2]["content"]] == [None, True]


async def test_thoughts_between_calls_are_no_hindrance_where_the_provider_speaks_openais_wire() -> None:
    uses = [{"type": "tool_use", "id": f"t{number}", "name": "look", "input": {}} for number in range(2)]
    results = [{"type": "tool_result", "tool_use_id": f"t{number}", "content": "7"} for number in range(2)]
    said = [THOUGHTS[0], {"type": "text", "text": "so"}, uses[0], THOUGHTS[1], uses[1]]
    turns = [*HELLO, {"role": "assistant", "content": said}, {"role": "user", "content": results}]
    async with llm_gateway(models=["ok"]) as gate:
        await gate.client.post(MESSAGES, json=asked(messages=turns, tools=TOOLS))
    sent = gate.fake.hits[0].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool"]
    assert (sent[1]["content"], [call["id"] for call in sent[1]["tool_calls"]]) == ("so", ["t0", "t1"])


async def test_marks_for_the_providers_cache_arrive_where_they_were_put(gate: LlmGateway) -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    usual = {"cache_control": {"type": "ephemeral"}}
    use = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "a", **usual}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "so"}, use]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "7", **mark}]},
    ]
    system = [{"type": "text", "text": "be brief", **mark}, {"type": "text", "text": "be kind"}]
    body = asked(messages=turns, system=system, tools=[{**TOOLS[0], **mark}])
    answer = await gate.client.post(MESSAGES, json=body)
    assert answer.status_code == 200, answer.text
    sent = gate.fake.hits[0].body
    assert sent["system"] == system
    assert sent["tools"][0]["cache_control"] == mark["cache_control"]
    assert sent["messages"][0] == turns[0]
    assert sent["messages"][2]["content"][0]["cache_control"] == mark["cache_control"]
    assert len(marks_of(sent)) == 4
    usage = answer.json()["usage"]
    assert usage["cache_creation_input_tokens"] == 3
    assert usage["cache_read_input_tokens"] > 0
    assert usage["input_tokens"] > 0


async def test_a_mark_on_the_request_is_one_at_its_end(gate: LlmGateway) -> None:
    answer = await gate.client.post(MESSAGES, json=asked(cache_control={"type": "ephemeral"}))
    assert answer.status_code == 200, answer.text
    [block] = gate.fake.hits[0].body["messages"][0]["content"]
    assert block["cache_control"] == {"type": "ephemeral"}


async def test_calls_one_at_a_time_strict_tools_and_the_k_likeliest_reach_the_provider(gate: LlmGateway) -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    body = asked("tools", tools=[{**TOOLS[0], "strict": True}], tool_choice=choice, top_k=5)
    said = (await gate.client.post(MESSAGES, json=body)).json()["content"]
    assert [block["type"] for block in said] == ["text", "tool_use"]
    sent = gate.fake.hits[0].body
    assert (sent["top_k"], sent["tool_choice"], sent["tools"][0]["strict"]) == (5, choice, True)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.budget_tokens: must be less"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1000}}, "thinking.budget_tokens: must be at least 1024"),
        ({"thinking": ENABLED, "temperature": 0.5}, "temperature: the model doesn't take this"),
        ({"thinking": ENABLED, "top_k": 5}, "top_k: the model doesn't take this"),
        ({"thinking": ENABLED, "tools": TOOLS, "tool_choice": {"type": "any"}}, "tool_choice: can't force"),
    ],
)
async def test_what_does_not_go_with_thinking_is_named(gate: LlmGateway, fields: Any, named: str) -> None:
    answer = await gate.client.post(MESSAGES, json=asked(**fields))
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert answer.json()["error"]["message"].startswith(named)


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
async def test_effort_is_apart_from_thinking_for_anthropics_clients(gate: LlmGateway, thinking: Any) -> None:
    fields = {"thinking": thinking} if thinking else {}
    answer = await gate.client.post(MESSAGES, json=asked(output_config={"effort": "xhigh"}, **fields))
    assert answer.status_code == 200, answer.text
    sent = gate.fake.hits[0].body
    assert (sent.get("thinking"), sent["output_config"]) == (thinking, {"effort": "xhigh"})


@pytest.mark.parametrize("model", REFUSALS)
async def test_why_a_provider_refuses_is_told_in_anthropics_shape(gate: LlmGateway, model: str) -> None:
    status, kind, text = REFUSALS[model]
    for stream in (False, True):
        answer = await gate.client.post(MESSAGES, json=asked(model, stream=stream))
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (status, kind)
        assert error["message"].startswith(text)
        assert "CANARY" not in answer.text


async def test_a_body_that_is_too_large_is_refused_in_anthropics_shape() -> None:
    async with llm_gateway(Bounds(max_body_bytes=1000)) as gate:
        answer = await gate.client.post(MESSAGES, json=asked(system="x" * 1000))
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")
    assert answer.json()["request_id"] == answer.headers["request-id"]


async def test_thinking_is_no_hindrance_where_the_provider_speaks_openais_wire() -> None:
    async with llm_gateway(models=["ok", "reasoning"]) as gate:
        for thinking in (ENABLED, {"type": "adaptive"}):
            answer = await gate.client.post(MESSAGES, json=asked("reasoning", thinking=thinking))
            assert answer.json()["content"][0] == {"type": "thinking", "thinking": "Hm, so be it.", "signature": ""}
        said = [*HELLO, {"role": "assistant", "content": [*THOUGHTS, {"type": "text", "text": "so"}]}, *HELLO]
        await gate.client.post(MESSAGES, json=asked(messages=said, output_config={"effort": "low"}))
        await gate.client.post(MESSAGES, json=asked(thinking={"type": "disabled"}))
    assert not {"thinking", "reasoning_effort"} & gate.fake.hits[0].body.keys()
    assert [hit.body.get("reasoning_effort") for hit in gate.fake.hits] == [None, None, "low", "none"]
    assert gate.fake.hits[2].body["messages"][1] == {"role": "assistant", "content": "so"}
