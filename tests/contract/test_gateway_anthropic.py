"""The llm-proxy over HTTP in Anthropic's form: messages, events, tools, counts, refusals, and who may ask."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from agentmesh_gateway.settings import Bounds
from tests.support.fake_openai import answer_for
from tests.support.llm_gateway import LlmGateway, data_of, llm_gateway

MESSAGES = "/v1/messages"
HELLO = [{"role": "user", "content": "CANARY-PROMPT hello"}]
TOOLS = [{"name": "look", "input_schema": {"type": "object"}}]


@pytest.fixture
async def gate() -> AsyncIterator[LlmGateway]:
    async with llm_gateway() as made:
        yield made


def asked(model: str = "ok", **fields: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 100, "messages": HELLO, **fields}


async def events_of(gate: LlmGateway, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await gate.client.post(MESSAGES, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(data) for data in data_of(answer.text)]
    named = [line.removeprefix("event: ") for line in answer.text.split("\n") if line.startswith("event: ")]
    assert named == [event["type"] for event in events]
    return events


async def test_a_message_has_anthropics_shape(gate: LlmGateway) -> None:
    answer = await gate.client.post(MESSAGES, json=asked(), headers={"anthropic-version": "2023-06-01"})
    body = answer.json()
    assert answer.headers["request-id"].startswith("req_")
    assert body["id"].startswith("msg_")
    shape = {key: body[key] for key in ("type", "role", "model", "stop_reason", "stop_sequence")}
    assert shape == {
        "type": "message",
        "role": "assistant",
        "model": "ok",
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    [block] = body["content"]
    assert (block["type"], block["text"].strip()) == ("text", answer_for(gate.fake.hits[0].body))
    usage = body["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (1, 1, 0)
    assert usage["output_tokens"] > 0
    assert gate.fake.hits[0].body["max_tokens"] == 100


async def test_a_stream_has_blocks_that_begin_grow_and_end(gate: LlmGateway) -> None:
    events = await events_of(gate, asked("reasoning"))
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert events[0]["message"]["content"] == []
    begun = [event for event in events if event["type"] == "content_block_start"]
    assert [(event["index"], event["content_block"]["type"]) for event in begun] == [(0, "thinking"), (1, "text")]
    assert kinds.index("content_block_stop") < kinds.index("content_block_start", 2)
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "Hm, so be it."
    assert "".join(delta.get("text", "") for delta in deltas).strip() == answer_for(gate.fake.hits[0].body)
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] > 0
    assert "input_tokens" in events[-2]["usage"]


async def test_tools_are_called_and_answered(gate: LlmGateway) -> None:
    whole = (await gate.client.post(MESSAGES, json=asked("tools", tools=TOOLS, tool_choice={"type": "auto"}))).json()
    assert whole["stop_reason"] == "tool_use"
    uses = whole["content"]
    assert [(u["type"], u["id"], u["name"], u["input"]) for u in uses] == [
        ("tool_use", "call_0", "look", {"number": 0}),
        ("tool_use", "call_1", "look", {"number": 1}),
    ]
    events = await events_of(gate, asked("tools", tools=TOOLS))
    for index in (0, 1):
        begun, *grown, stopped = [event for event in events if event.get("index") == index]
        assert begun["content_block"] == {"type": "tool_use", "id": f"call_{index}", "name": "look", "input": {}}
        assert json.loads("".join(event["delta"]["partial_json"] for event in grown)) == {"number": index}
        assert stopped["type"] == "content_block_stop"
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    results = [
        {"type": "tool_result", "tool_use_id": "call_0", "content": "7"},
        {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "8"}], "is_error": True},
        {"type": "text", "text": "go on"},
    ]
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    turns = [*HELLO, {"role": "assistant", "content": [thought, *uses]}, {"role": "user", "content": results}]
    after = await gate.client.post(MESSAGES, json=asked("tools", tools=TOOLS) | {"messages": turns})
    assert after.json()["stop_reason"] == "end_turn"
    sent = gate.fake.hits[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool", "user"]
    assert [message["content"] for message in sent[2:]] == ["7", "8", "go on"]
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["call_0", "call_1"]


async def test_system_images_documents_and_sampling_reach_the_provider(gate: LlmGateway) -> None:
    data = base64.b64encode(b"bytes").decode()
    blocks = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": data},
            "title": "a.pdf",
        },
        {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
    ]
    body = asked(
        messages=[{"role": "user", "content": blocks}],
        system=[{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        stop_sequences=["END"],
        temperature=0.5,
        tools=TOOLS,
        tool_choice={"type": "tool", "name": "look"},
        metadata={"user_id": "u"},
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    answer = await gate.client.post(MESSAGES, json=body)
    assert answer.status_code == 200, answer.text
    sent = gate.fake.hits[0].body
    assert sent["messages"][0] == {"role": "system", "content": "be brief"}
    kinds = [part["type"] for part in sent["messages"][1]["content"]]
    assert kinds == ["image_url", "image_url", "text", "file", "text"]
    assert sent["messages"][1]["content"][3]["file"]["filename"] == "a.pdf"
    assert (sent["stop"], sent["temperature"]) == (["END"], 0.5)
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "look"}}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"top_k": 0}, "top_k"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"thinking": {"type": "adaptive", "budget_tokens": 2000}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "immense"}}, "output_config.effort"),
        ({"cache_control": {"type": "ephemeral", "ttl": "9m"}}, "cache_control.ttl"),
        ({"messages": [{"role": "user", "content": [{"type": "thinking"}]}]}, "messages.0.content.0"),
        ({"max_tokens": None}, "max_tokens"),
        ({"nonsense": 1}, "nonsense"),
        ({"messages": []}, "messages"),
        ({"temperature": 1.5}, "temperature"),
        ({"system": [{"type": "image"}]}, "system.0"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.source"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages.0.content.0"),
        ({"stop_sequences": list("abcde")}, "stop_sequences"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_its_name(gate: LlmGateway, fields: Any, named: str) -> None:
    answer = await gate.client.post(MESSAGES, json=asked(**fields))
    body = answer.json()
    assert (answer.status_code, body["type"], body["error"]["type"]) == (400, "error", "invalid_request_error")
    assert body["error"]["message"].startswith(named)
    assert body["request_id"] == answer.headers["request-id"]
    assert gate.fake.hits == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "status", "kind"),
    [
        ("nope", 404, "not_found_error"),
        ("too-long", 400, "invalid_request_error"),
        ("rate-limited:7", 429, "rate_limit_error"),
        ("status:500", 502, "api_error"),
        ("status:401", 502, "api_error"),
    ],
)
async def test_a_refusal_has_anthropics_shape_and_status(
    gate: LlmGateway, stream: bool, model: str, status: int, kind: str
) -> None:
    answer = await gate.client.post(MESSAGES, json=asked(model, stream=stream))
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert answer.headers.get("retry-after") == {"rate-limited:7": "7", "status:500": "1"}.get(model)
    assert "CANARY" not in answer.text


async def test_an_answer_that_breaks_off_never_looks_whole(gate: LlmGateway) -> None:
    events = await events_of(gate, asked("cut:700"))
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
    assert not {"message_delta", "message_stop"} & {event["type"] for event in events}
    whole = await gate.client.post(MESSAGES, json=asked("cut:700"))
    assert whole.status_code == 502


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_takes_the_providers_call_with_it(gate: LlmGateway, stream: bool) -> None:
    async with httpx.AsyncClient(base_url=gate.base_url) as client:
        asking = asyncio.create_task(client.post(MESSAGES, json=asked("stall:0", stream=stream)))
        async with asyncio.timeout(5):
            while not gate.fake.hits:
                await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait({asking})
    async with asyncio.timeout(2):
        await gate.fake.hits[0].closed.wait()
    assert gate.fake.hits[0].how == "client_gone"


async def test_a_silent_stream_pings() -> None:
    async with llm_gateway(Bounds(heartbeat_s=0.05, answer_stream_timeout_s=0.5, first_delta_s=0.1)) as gate:
        events = await events_of(gate, asked("stall:3"))
        assert {"type": "ping"} in events
        assert events[-1]["error"]["type"] == "timeout_error"


async def test_tokens_are_counted_without_asking_a_provider(gate: LlmGateway) -> None:
    body = {"model": "ok", "messages": HELLO}
    short = (await gate.client.post("/v1/messages/count_tokens", json=body)).json()
    long = (await gate.client.post("/v1/messages/count_tokens", json={**body, "system": "s", "tools": TOOLS})).json()
    assert set(short) == {"input_tokens"}
    assert 0 < short["input_tokens"] < long["input_tokens"]
    assert gate.fake.hits == []


async def test_a_key_is_taken_from_either_header() -> None:
    keys = [{"sha256": hashlib.sha256(b"key-a").hexdigest(), "tenant": "a"}]
    async with llm_gateway(authentication=True, api_keys=keys) as gate:
        for headers in ({"x-api-key": "key-a"}, {"authorization": "Bearer key-a"}):
            assert (await gate.client.post(MESSAGES, json=asked(), headers=headers)).status_code == 200
        for headers in ({}, {"x-api-key": "no"}, {"authorization": "Bearer no"}):
            answer = await gate.client.post(MESSAGES, json=asked(), headers=headers)
            assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
