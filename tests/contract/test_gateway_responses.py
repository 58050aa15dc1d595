"""The llm-proxy over HTTP in the form of OpenAI's Responses API, and OpenAI's own client in front of it."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from agentmesh_gateway.settings import Bounds
from tests.contract.test_gateway_sdks import sdk
from tests.support.fake_anthropic_rules import REDACTED, SIGNATURE
from tests.support.fake_openai import answer_for
from tests.support.llm_gateway import LlmGateway, data_of, llm_gateway

RESPONSES = "/v1/responses"
KEY = "a-clients-key"
HELLO = "CANARY-PROMPT hello"
TOOLS = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]
KEPT_FILE = {"type": "input_file", "file_id": "f"}
PICTURE = base64.b64encode(b"picture").decode()


@pytest.fixture
async def gate() -> AsyncIterator[LlmGateway]:
    async with llm_gateway() as made:
        yield made


@pytest.fixture
async def keyed() -> AsyncIterator[LlmGateway]:
    keys = [{"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "tenant": "a"}]
    async with llm_gateway(authentication=True, api_keys=keys) as made:
        yield made


@pytest.fixture
async def openai(keyed: LlmGateway) -> AsyncIterator[Any]:
    client = sdk("openai").AsyncOpenAI(
        base_url=f"{keyed.base_url}/v1", api_key=KEY, max_retries=0, _strict_response_validation=True
    )
    async with client:
        yield client


def asked(model: str = "ok", **fields: Any) -> dict[str, Any]:
    return {"model": model, "input": HELLO, **fields}


async def events_of(gate: LlmGateway, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await gate.client.post(RESPONSES, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(one) for one in data_of(answer.text)]
    named = [line.removeprefix("event: ") for line in answer.text.split("\n") if line.startswith("event: ")]
    assert named == [event["type"] for event in events]
    return events


# --- the wire


async def test_a_response_has_openais_shape(gate: LlmGateway) -> None:
    answer = await gate.client.post(RESPONSES, json=asked())
    body = answer.json()
    assert answer.headers["x-request-id"].startswith("req_")
    assert body["id"].startswith("resp_")
    assert (body["object"], body["model"], body["status"], body["error"]) == ("response", "ok", "completed", None)
    assert (body["store"], body["previous_response_id"], body["incomplete_details"]) == (False, None, None)
    [message] = body["output"]
    assert (message["type"], message["role"], message["status"]) == ("message", "assistant", "completed")
    [content] = message["content"]
    assert (content["type"], content["annotations"]) == ("output_text", [])
    assert content["text"].strip() == answer_for(gate.fake.hits[0].body)
    usage = body["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert usage["input_tokens_details"]["cached_tokens"] == 1


async def test_a_stream_ends_with_the_whole_response(gate: LlmGateway) -> None:
    events = await events_of(gate, asked("reasoning"))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[0]["type"], events[1]["type"]) == ("response.created", "response.in_progress")
    last = events[-1]
    assert last["type"] == "response.completed"
    said = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    assert said.strip() == answer_for(gate.fake.hits[0].body)
    thought, message = last["response"]["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "Hm, so be it."}]
    assert message["content"][0]["text"] == said


async def test_a_conversation_with_tools_and_pictures_reaches_the_provider(gate: LlmGateway) -> None:
    content = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}", "detail": "low"},
        {"type": "input_image", "image_url": "https://example.org/a.png"},
        {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PICTURE}"},
    ]
    turns: list[Any] = [{"role": "user", "content": content}]
    body = asked("tools", tools=TOOLS, instructions="be brief", max_output_tokens=9) | {"input": turns}
    first = (await gate.client.post(RESPONSES, json=body)).json()
    calls = first["output"]
    assert [(c["type"], c["call_id"], json.loads(c["arguments"])) for c in calls] == [
        ("function_call", "call_0", {"number": 0}),
        ("function_call", "call_1", {"number": 1}),
    ]
    results = [{"type": "function_call_output", "call_id": c["call_id"], "output": "7"} for c in calls]
    second = (await gate.client.post(RESPONSES, json=body | {"input": [*turns, *calls, *results]})).json()
    assert second["output"][0]["type"] == "message"
    sent = gate.fake.hits[-1].body
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "tool", "tool"]
    kinds = [part["type"] for part in sent["messages"][1]["content"]]
    assert kinds == ["text", "image_url", "image_url", "file"]
    assert len(sent["messages"][2]["tool_calls"]) == 2
    assert (sent["max_tokens"], sent["tools"][0]["function"]["name"]) == (9, "look")


@pytest.mark.parametrize("stream", [False, True])
async def test_what_another_vendors_model_thought_comes_back_to_it(stream: bool) -> None:
    async with llm_gateway(models=["reasoning"], kind="anthropic") as gate:
        body = asked("reasoning", reasoning={"effort": "high", "summary": "auto"})
        if stream:
            output = (await events_of(gate, body))[-1]["response"]["output"]
        else:
            output = (await gate.client.post(RESPONSES, json=body)).json()["output"]
        assert [item["type"] for item in output] == ["reasoning", "reasoning", "message"]
        assert [part["text"] for part in output[0]["summary"]] == ["Hm, so be it."]
        turns = [{"role": "user", "content": HELLO}, *output, {"role": "user", "content": "go on"}]
        again = await gate.client.post(RESPONSES, json=body | {"input": turns})
        assert again.status_code == 200, again.text
        said = gate.fake.hits[-1].body["messages"][1]["content"]
        assert said[:2] == [
            {"type": "thinking", "thinking": "Hm, so be it.", "signature": SIGNATURE},
            {"type": "redacted_thinking", "data": REDACTED},
        ]


@pytest.mark.parametrize(
    ("fields", "param", "advice"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "whole conversation"),
        ({"conversation": "conv_1"}, "conversation", "whole conversation"),
        ({"background": True}, "background", "stream"),
        ({"prompt": {"id": "p"}}, "prompt", "instructions"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "the item itself"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "function"),
        ({"truncation": "auto"}, "truncation", "leave it out"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "medium"),
        ({"nonsense": 1}, "nonsense", "not known"),
        ({"input": []}, "input", ""),
        ({"temperature": "warm"}, "temperature", ""),
        ({"tools": TOOLS * 2}, "tools[1].name", "unique"),
        ({"tool_choice": {"type": "function", "name": "nope"}}, "tool_choice.name", ""),
        ({"input": [{"role": "user", "content": [KEPT_FILE]}]}, "input[0].content[0].input_file", "no files are kept"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_with_what_to_do(
    gate: LlmGateway, fields: Any, param: str, advice: str
) -> None:
    answer = await gate.client.post(RESPONSES, json=asked(**fields))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert param in error["message"]
    assert advice in error["message"]
    assert "CANARY" not in answer.text
    assert gate.fake.hits == []


async def test_what_changes_nothing_is_passed_over(gate: LlmGateway) -> None:
    fields = {"store": True, "user": "u", "service_tier": "auto", "max_tool_calls": 3, "truncation": "disabled"}
    fields |= {"previous_response_id": None, "background": False, "stream_options": {"include_obfuscation": False}}
    answer = await gate.client.post(RESPONSES, json=asked(**fields))
    assert (answer.status_code, answer.json()["store"]) == (200, False)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "status", "kind", "code", "param"),
    [
        ("nope", 404, "invalid_request_error", "model_not_found", "model"),
        ("too-long", 400, "invalid_request_error", "context_length_exceeded", "input"),
        ("rate-limited:7", 429, "rate_limit_error", "rate_limit_exceeded", None),
        ("status:500", 502, "server_error", "provider_failed", None),
        ("status:401", 502, "server_error", "provider_credential", None),
    ],
)
async def test_a_refusal_has_openais_shape_and_status(
    gate: LlmGateway, stream: bool, model: str, status: int, kind: str, code: str, param: str | None
) -> None:
    answer = await gate.client.post(RESPONSES, json=asked(model, stream=stream))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"], error["param"]) == (status, kind, code, param)
    assert answer.headers.get("retry-after") == {"rate-limited:7": "7", "status:500": "1"}.get(model)
    assert "CANARY" not in answer.text


async def test_an_answer_that_breaks_off_never_looks_whole(gate: LlmGateway) -> None:
    events = await events_of(gate, asked("cut:700"))
    assert [event["type"] for event in events[-2:]] == ["response.failed", "error"]
    assert not any(event["type"] in ("response.completed", "response.incomplete") for event in events)
    assert events[-1]["code"] == "stream_interrupted"
    assert events[-2]["response"]["output"][0]["status"] == "incomplete"
    assert "CANARY" not in json.dumps(events)
    whole = await gate.client.post(RESPONSES, json=asked("cut:700"))
    assert (whole.status_code, whole.json()["error"]["code"]) == (502, "stream_interrupted")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_takes_the_providers_call_with_it(gate: LlmGateway, stream: bool) -> None:
    async with httpx.AsyncClient(base_url=gate.base_url) as client:
        asking = asyncio.create_task(client.post(RESPONSES, json=asked("stall:3", stream=stream)))
        async with asyncio.timeout(5):
            while not gate.fake.hits:
                await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait({asking})
    async with asyncio.timeout(2):
        await gate.fake.hits[0].closed.wait()
    assert gate.fake.hits[0].how == "client_gone"


async def test_a_silent_stream_says_that_it_is_alive_and_ends_at_its_deadline() -> None:
    async with llm_gateway(Bounds(heartbeat_s=0.05, answer_stream_timeout_s=0.6, first_delta_s=0.1)) as gate:
        answer = await gate.client.post(RESPONSES, json=asked("stall:3", stream=True))
        assert answer.text.count(": still here\n\n") >= 3
        assert json.loads(data_of(answer.text)[-1])["code"] == "deadline_exceeded"


async def test_answers_that_were_given_before_are_steered_as_elsewhere(gate: LlmGateway) -> None:
    body = asked(temperature=0)
    outcomes = [(await gate.client.post(RESPONSES, json=body)).headers["x-agentmesh-cache"] for _ in range(2)]
    assert outcomes == ["miss", "hit"]
    again = await gate.client.post(RESPONSES, json=body, headers={"cache-control": "no-cache"})
    assert again.headers["x-agentmesh-cache"] == "miss"
    other = await gate.client.post(
        RESPONSES, json=body | {"input": "else"}, headers={"cache-control": "only-if-cached"}
    )
    assert (other.status_code, other.json()["error"]["code"]) == (404, "not_cached")


async def test_a_priority_that_is_none_is_refused(gate: LlmGateway) -> None:
    answer = await gate.client.post(RESPONSES, json=asked(), headers={"x-agentmesh-priority": "urgent"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-agentmesh-priority")


async def test_only_a_known_key_may_ask(keyed: LlmGateway) -> None:
    answer = await keyed.client.post(RESPONSES, content=b"not read")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


# --- OpenAI's own client, which checks every field


class Reading(BaseModel):
    river: str
    length: int


async def test_the_client_reads_answers_and_streams(keyed: LlmGateway, openai: Any) -> None:
    whole = await openai.responses.create(model="ok", input=HELLO)
    expected = answer_for(keyed.fake.hits[0].body)
    assert whole.output_text.strip() == expected
    assert whole._request_id.startswith("req_")
    async with openai.responses.stream(model="reasoning", input=HELLO) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert (final.output_text, final.usage.total_tokens) == (whole.output_text, whole.usage.total_tokens)


async def test_the_client_calls_tools_and_sends_pictures(keyed: LlmGateway, openai: Any) -> None:
    content = [
        {"type": "input_text", "text": "what is it?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}", "detail": "auto"},
    ]
    turns: list[Any] = [{"role": "user", "content": content}]
    tools = [{**TOOLS[0], "strict": False}]
    async with openai.responses.stream(model="tools", input=turns, tools=tools) as stream:
        final = await stream.get_final_response()
    assert [(c.call_id, c.name, c.arguments) for c in final.output] == [
        ("call_0", "look", '{"number": 0}'),
        ("call_1", "look", '{"number": 1}'),
    ]
    turns += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in final.output]
    turns += [{"type": "function_call_output", "call_id": call.call_id, "output": "7"} for call in final.output]
    after = await openai.responses.create(model="tools", input=turns, tools=tools)
    assert (after.status, after.output[0].type) == ("completed", "message")
    assert keyed.fake.hits[0].body["messages"][0]["content"][1]["image_url"]["url"].endswith(PICTURE)


async def test_the_client_parses_structured_output(openai: Any) -> None:
    whole = await openai.responses.parse(model="offline", input=HELLO, text_format=Reading)
    assert isinstance(whole.output_parsed, Reading)
    async with openai.responses.stream(model="offline", input=HELLO, text_format=Reading) as stream:
        streamed = await stream.get_final_response()
    assert streamed.output_parsed == whole.output_parsed


async def test_the_client_raises_what_is_meant(openai: Any) -> None:
    package = sdk("openai")
    for model, kind, code in (
        ("nope", package.NotFoundError, "model_not_found"),
        ("rate-limited:7", package.RateLimitError, "rate_limit_exceeded"),
        ("too-long", package.BadRequestError, "context_length_exceeded"),
        ("status:500", package.InternalServerError, "provider_failed"),
    ):
        with pytest.raises(kind) as raised:
            await openai.responses.create(model=model, input=HELLO)
        assert raised.value.code == code
    with pytest.raises(package.BadRequestError, match="whole conversation"):
        await openai.responses.create(model="ok", input=HELLO, previous_response_id="resp_1")
    with pytest.raises(package.AuthenticationError):
        await openai.with_options(api_key="wrong").responses.create(model="ok", input=HELLO)
    with pytest.raises(package.APIError, match="broke off"):
        async with openai.responses.stream(model="cut:700", input=HELLO) as stream:
            await stream.get_final_response()
    plain = await openai.responses.create(model="cut:700", input=HELLO, stream=True)
    with pytest.raises(package.APIError, match="broke off"):
        _ = [event async for event in plain]
