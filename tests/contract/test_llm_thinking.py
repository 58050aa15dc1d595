"""What Anthropic's wire carries beyond text: thoughts that come back, effort, marks for its cache, strict tools."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.answers import fold
from agentmesh.kit.errors import InvalidRequest
from tests.support.fake_anthropic_rules import REDACTED, SIGNATURE, marks_of
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, ask, llm_service, provider
from tests.support.llm_ways import WAYS

EFFORT = pb.Reasoning.Effort
MODE = pb.Reasoning.Mode
MODELS = ("ok", "tools", "reasoning")
THOUGHTS = [pb.Thought(text="Hm, so be it.", signature=SIGNATURE), pb.Thought(redacted=REDACTED)]


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture(params=["anthropic", "anthropic-sdk"])
async def llm(request: pytest.FixtureRequest, fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    async with llm_service(provider(fake.base_url, MODELS, **WAYS[request.param].settings)) as llm:
        yield llm


def tool(**fields: Any) -> pb.Tool:
    schema = Struct()
    schema.update({"type": "object", "properties": {"number": {"type": "integer"}}})
    return pb.Tool(name="lookup", parameters=schema, **fields)


@pytest.mark.parametrize(
    ("reasoning", "thinking", "effort"),
    [
        (pb.Reasoning(), None, None),
        (pb.Reasoning(mode=MODE.MODE_ON), {"type": "adaptive"}, None),
        (pb.Reasoning(mode=MODE.MODE_OFF, effort=EFFORT.EFFORT_HIGH), {"type": "disabled"}, "high"),
        (pb.Reasoning(mode=MODE.MODE_HABIT, effort=EFFORT.EFFORT_HIGH), None, "high"),
        (pb.Reasoning(shown=True), {"type": "adaptive", "display": "summarized"}, None),
        (pb.Reasoning(effort=EFFORT.EFFORT_NONE, max_tokens=2000), {"type": "disabled"}, None),
        (pb.Reasoning(effort=EFFORT.EFFORT_MINIMAL), {"type": "adaptive"}, "low"),
        (pb.Reasoning(effort=EFFORT.EFFORT_MAX, shown=True), {"type": "adaptive", "display": "summarized"}, "max"),
        (pb.Reasoning(max_tokens=2000), {"type": "enabled", "budget_tokens": 2000}, None),
        (
            pb.Reasoning(effort=EFFORT.EFFORT_LOW, max_tokens=2000, shown=False),
            {"type": "enabled", "budget_tokens": 2000, "display": "omitted"},
            "low",
        ),
    ],
)
async def test_the_api_is_told_how_much_to_think(
    reasoning: pb.Reasoning, thinking: Any, effort: str | None, llm: LlmCaller, fake: FakeProvider
) -> None:
    await llm.call("Generate", ask(reasoning=reasoning))
    sent = fake.hits[0].body
    assert (sent.get("thinking"), sent.get("output_config", {}).get("effort")) == (thinking, effort)
    assert sent["max_tokens"] == 32_000


async def test_nothing_is_said_of_thinking_unless_it_is_asked(llm: LlmCaller, fake: FakeProvider) -> None:
    await llm.call("Generate", ask(tools=[tool()]))
    assert not fake.hits[0].body.keys() & {"thinking", "output_config", "top_k"}
    assert set(fake.hits[0].body["tools"][0]) == {"name", "input_schema"}
    assert fake.hits[0].body["tool_choice"] == {"type": "auto"}


async def test_a_model_that_must_call_a_tool_has_the_effort_only(llm: LlmCaller, fake: FakeProvider) -> None:
    choice = pb.ToolChoice(mode=pb.ToolChoice.MODE_REQUIRED)
    reasoning = pb.Reasoning(effort=EFFORT.EFFORT_HIGH)
    await llm.call("Generate", ask("tools", tools=[tool()], tool_choice=choice, reasoning=reasoning))
    assert "thinking" not in fake.hits[0].body
    assert fake.hits[0].body["output_config"] == {"effort": "high"}
    for explicit in (pb.Reasoning(mode=MODE.MODE_ON), pb.Reasoning(max_tokens=2000)):
        with pytest.raises(InvalidRequest) as raised:
            await llm.call("Generate", ask("tools", tools=[tool()], tool_choice=choice, reasoning=explicit))
        assert [name for name, _ in raised.value.violations] == ["tool_choice.mode"]
    assert len(fake.hits) == 1


async def test_a_budget_leaves_room_for_the_answer(llm: LlmCaller, fake: FakeProvider) -> None:
    await llm.call("Generate", ask(reasoning=pb.Reasoning(max_tokens=40_000)))
    assert fake.hits[0].body["max_tokens"] > 40_000
    for budget, longest in ((2000, 2000), (1000, 0)):
        asked = ask(reasoning=pb.Reasoning(max_tokens=budget), sampling=pb.Sampling(max_output_tokens=longest))
        with pytest.raises(InvalidRequest) as raised:
            await llm.call("Generate", asked)
        assert [name for name, _ in raised.value.violations] == ["reasoning.max_tokens"]
    assert len(fake.hits) == 1


@pytest.mark.parametrize("reasoning", [pb.Reasoning(max_tokens=2000), pb.Reasoning(effort=EFFORT.EFFORT_LOW)])
async def test_thoughts_go_round_with_the_calls_of_tools(
    reasoning: pb.Reasoning, llm: LlmCaller, fake: FakeProvider
) -> None:
    asked = ask("tools", tools=[tool()], reasoning=reasoning)
    answer = await llm.call("Generate", asked)
    assert list(answer.message.thoughts) == THOUGHTS
    assert answer.reasoning == "Hm, so be it."
    assert answer.usage.reasoning_tokens == 2
    asked.messages.append(answer.message)
    for use in answer.message.tool_calls:
        asked.messages.append(
            pb.ChatMessage(role=pb.CHAT_ROLE_TOOL, tool_call_id=use.id, parts=[types_pb2.Part(text="7")])
        )
    # The fake refuses a turn with calls that doesn't begin with its own thoughts, as the API does.
    after = await llm.call("Generate", asked)
    assert after.finish_reason == pb.FINISH_REASON_STOP
    kinds = [block["type"] for block in fake.hits[1].body["messages"][1]["content"]]
    assert kinds == ["thinking", "redacted_thinking", "text", "tool_use", "tool_use"]


async def test_a_thought_that_is_no_longer_known_is_left_out(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask()
    others = [pb.Thought(text="another provider's"), pb.Thought(redacted="another provider's", id="rs_1")]
    thoughts = [*others, *THOUGHTS]
    said = [types_pb2.Part(text="hello")]
    asked.messages.append(pb.ChatMessage(role=pb.CHAT_ROLE_ASSISTANT, parts=said, thoughts=thoughts))
    asked.messages.add(role=pb.CHAT_ROLE_USER).parts.add(text="go on")
    await llm.call("Generate", asked)
    assert fake.hits[0].body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm, so be it.", "signature": SIGNATURE},
        {"type": "redacted_thinking", "data": REDACTED},
        {"type": "text", "text": "hello"},
    ]


async def test_thoughts_that_are_not_shown_can_still_go_back(llm: LlmCaller) -> None:
    answer = await llm.call("Generate", ask(reasoning=pb.Reasoning(shown=False)))
    assert answer.reasoning == ""
    assert list(answer.message.thoughts) == [pb.Thought(signature=SIGNATURE), pb.Thought(redacted=REDACTED)]


async def test_thoughts_are_streamed_cached_and_replayed_as_they_were(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask("reasoning", sampling=pb.Sampling(seed=1))
    deltas, error = await llm.stream(asked)
    assert error is None
    kinds = [delta.WhichOneof("kind") for delta in deltas]
    assert kinds[:5] == ["reasoning", "reasoning", "thought", "thought", "text"]
    replayed, _ = await llm.stream(asked)
    assert [delta.WhichOneof("kind") for delta in replayed][:4] == ["reasoning", "thought", "thought", "text"]
    whole = await llm.call("Generate", asked)
    assert (whole.cache, len(fake.hits)) == (pb.CACHE_OUTCOME_HIT, 1)
    for answer in (fold(deltas), fold(replayed), whole):
        assert list(answer.message.thoughts) == THOUGHTS
        assert answer.reasoning == "Hm, so be it."


async def test_marks_for_the_providers_cache_are_where_they_were_put(llm: LlmCaller, fake: FakeProvider) -> None:
    hour, minute = Duration(seconds=3600), Duration(seconds=60)
    asked = ask("tools", tools=[tool(), pb.Tool(name="last", cache_breakpoint=pb.CacheBreakpoint(ttl=hour))])
    orders = pb.ChatMessage(role=pb.CHAT_ROLE_SYSTEM, cache_breakpoints=[pb.CacheBreakpoint(part=0, ttl=minute)])
    orders.parts.add(text="Be brief.")
    orders.parts.add(text="Be kind.")
    asked.messages.insert(0, orders)
    asked.messages[1].parts.add(text="second")
    asked.messages[1].cache_breakpoints.add(part=1)
    call = pb.ToolUse(id="t", name="lookup", arguments="{}")
    said = pb.ChatMessage(role=pb.CHAT_ROLE_ASSISTANT, parts=[types_pb2.Part(text="so")], tool_calls=[call])
    result = pb.ChatMessage(role=pb.CHAT_ROLE_TOOL, parts=[types_pb2.Part(text="7")], tool_call_id="t")
    asked.messages.extend([said, result])
    asked.messages[2].cache_breakpoints.add(part=1)  # after the calls
    await llm.call("Generate", asked)
    sent = fake.hits[0].body
    short, long, usual = ({"type": "ephemeral", "ttl": "5m"}, {"type": "ephemeral", "ttl": "1h"}, {"type": "ephemeral"})
    assert [block.get("cache_control") for block in sent["system"]] == [short, None]
    assert [one.get("cache_control") for one in sent["tools"]] == [None, long]
    assert [block.get("cache_control") for block in sent["messages"][0]["content"]] == [None, usual]
    assert [block.get("cache_control") for block in sent["messages"][1]["content"]] == [None, usual]
    assert len(marks_of(sent)) == 4
    asked.messages[3].cache_breakpoints.add(part=0)
    asked.messages[2].ClearField("cache_breakpoints")
    await llm.call("Generate", asked)
    [block] = fake.hits[1].body["messages"][2]["content"]
    assert (block["type"], block["cache_control"]) == ("tool_result", usual)


async def test_what_went_into_the_providers_cache_is_counted(llm: LlmCaller, fake: FakeProvider) -> None:
    answer = await llm.call("Generate", ask())
    assert answer.usage.cache_write_tokens == 3
    assert answer.usage.input_tokens > answer.usage.cached_input_tokens + 3


async def test_one_call_at_a_time_strict_tools_and_the_k_likeliest(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask("tools", tools=[tool(strict=True)], parallel_tool_calls=False, sampling=pb.Sampling(top_k=5))
    answer = await llm.call("Generate", asked)
    assert [json.loads(call.arguments) for call in answer.message.tool_calls] == [{"number": 0}]
    sent = fake.hits[0].body
    assert (sent["top_k"], sent["tool_choice"]) == (5, {"type": "auto", "disable_parallel_tool_use": True})
    assert sent["tools"][0]["strict"] is True
    assert sent["tools"][0]["input_schema"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"top_logprobs": 0}, "top_logprobs"),
        ({"sampling": pb.Sampling(frequency_penalty=1)}, "sampling.frequency_penalty"),
        ({"sampling": pb.Sampling(presence_penalty=-1)}, "sampling.presence_penalty"),
    ],
)
async def test_what_the_api_has_no_form_for_is_refused_by_its_name(
    fields: dict[str, Any], field: str, llm: LlmCaller, fake: FakeProvider
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await llm.call("Generate", ask(**fields))
    assert raised.value.reason == "UNSUPPORTED_FIELD"
    assert [name for name, _ in raised.value.violations] == [field]
    assert fake.hits == []


@pytest.mark.parametrize("name", ["temperature", "top_k"])
async def test_what_thinking_forbids_is_named_by_our_name_for_it(name: str, llm: LlmCaller) -> None:
    sampling = pb.Sampling(temperature=0.5) if name == "temperature" else pb.Sampling(top_k=3)
    with pytest.raises(InvalidRequest) as raised:
        await llm.call("Generate", ask(reasoning=pb.Reasoning(mode=MODE.MODE_ON), sampling=sampling))
    assert raised.value.violations == ((f"sampling.{name}", "the model doesn't take this"),)
