"""OpenAI's Responses JSON to messages of the contract and back, without a network."""

import json
from typing import Any

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.answers import fold
from agentmesh.kit.errors import InvalidRequest, ResourceExhausted, Unavailable
from agentmesh_gateway import openai_response_problems
from agentmesh_gateway.json_bodies import validated
from agentmesh_gateway.openai_response_answers import response_of
from agentmesh_gateway.openai_response_events import ResponseEvents
from agentmesh_gateway.openai_responses import ResponsesRequest, only_honoured, to_generate
from tests.support.llm_gateway import data_of

CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "c1",
    "name": "look",
    "arguments": "{}",
    "status": "completed",
}
KEPT = {"encrypted_content": "x"}
THOUGHT = pb.Thought(text="Hm.", signature="s", redacted="r", id="rs_far")


def request(**fields: Any) -> ResponsesRequest:
    return validated(ResponsesRequest, only_honoured({"model": "m", "input": "hello", **fields}))


def generate(**fields: Any) -> pb.GenerateRequest:
    return to_generate(request(**fields))


def refused(**fields: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as raised:
        generate(**fields)
    return [field for field, _ in raised.value.violations]


def events(*deltas: pb.Delta, error: Exception | None = None, **fields: Any) -> list[dict[str, Any]]:
    form = ResponseEvents(request(**fields))
    written = form.opening() + b"".join(map(form.piece, deltas))
    written += form.error(error) if error else form.ending()  # type: ignore[arg-type]
    return [json.loads(data) for data in data_of(written.decode())]


def text(said: str) -> pb.Delta:
    return pb.Delta(text=said)


def call(index: int, arguments: str, **first: str) -> pb.Delta:
    return pb.Delta(tool_call=pb.ToolCallDelta(index=index, arguments=arguments, **first))


def finish(reason: "pb.FinishReason.ValueType" = pb.FINISH_REASON_STOP) -> pb.Delta:
    return pb.Delta(finish=pb.Finish(reason=reason))


# --- what is asked


def test_a_plain_question_says_nothing_that_was_not_asked() -> None:
    assert generate() == pb.GenerateRequest(
        model="m",
        messages=[pb.ChatMessage(role=pb.CHAT_ROLE_USER, parts=[types_pb2.Part(text="hello")])],
        sampling=pb.Sampling(),
    )


def test_what_the_assistant_says_in_a_row_is_one_message() -> None:
    items = [
        {"role": "user", "content": "look"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "a"}],
            "encrypted_content": "x",
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        CALL,
        {**CALL, "call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        {"role": "assistant", "content": "Found."},
    ]
    asked = generate(instructions="be brief", input=items)
    roles = [pb.ChatRole.Name(message.role).removeprefix("CHAT_ROLE_") for message in asked.messages]
    assert roles == ["SYSTEM", "USER", "ASSISTANT", "TOOL", "TOOL", "ASSISTANT"]
    said = asked.messages[2]
    assert list(said.thoughts) == [pb.Thought(text="a", redacted="x", id="rs_1")]
    assert said.parts[0].text == "I look."
    assert [use.id for use in said.tool_calls] == ["c1", "c2"]
    assert [(m.tool_call_id, m.parts[0].text) for m in asked.messages[3:5]] == [("c1", "1"), ("c2", "2")]


def test_thoughts_between_calls_keep_their_places() -> None:
    def thought(text: str) -> dict[str, Any]:
        return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}

    said = [thought("a"), CALL, thought("b"), {"role": "assistant", "content": "So."}, {**CALL, "call_id": "c2"}]
    first, second = generate(input=said).messages
    assert ([t.text for t in first.thoughts], [use.id for use in first.tool_calls]) == (["a"], ["c1"])
    assert ([t.text for t in second.thoughts], [use.id for use in second.tool_calls]) == (["b"], ["c2"])
    assert second.parts[0].text == "So."


def test_thoughts_without_words_or_calls_are_no_turn() -> None:
    lone = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    asked = generate(input=[lone, {"role": "user", "content": "go on"}, {**lone, "encrypted_content": None}])
    assert [message.role for message in asked.messages] == [pb.CHAT_ROLE_USER]


def test_a_thought_without_proof_is_its_words() -> None:
    plain = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "a"}]}
    asked = generate(input=[plain, {**plain, "summary": []}, {"role": "assistant", "content": "So."}])
    assert list(asked.messages[0].thoughts) == [pb.Thought(text="a")]


def test_a_thought_comes_back_as_it_was_given() -> None:
    answer = pb.GenerateResponse(message=pb.ChatMessage(thoughts=[THOUGHT], parts=[types_pb2.Part(text="So.")]))
    output = response_of(answer, request())["output"]
    assert output[0]["summary"] == [{"type": "summary_text", "text": "Hm."}]
    back = generate(input=[*output, {"role": "user", "content": "go on"}])
    assert list(back.messages[0].thoughts) == [THOUGHT]
    spoiled = {**output[0], "encrypted_content": output[0]["encrypted_content"] + "!"}
    assert refused(input=[spoiled]) == ["input[0].encrypted_content"]


def test_every_steering_field_is_understood() -> None:
    asked = generate(
        tools=[{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
        reasoning={"effort": "high", "summary": "auto"},
        include=["reasoning.encrypted_content", "message.output_text.logprobs"],
        top_logprobs=2,
        max_output_tokens=9,
        temperature=0,
        top_p=0.5,
        prompt_cache_key="k",
    )
    [tool] = asked.tools
    assert (tool.name, tool.description, tool.parameters["type"], tool.strict) == ("f", "d", "object", True)
    assert (asked.tool_choice.mode, asked.tool_choice.name) == (pb.ToolChoice.MODE_NAMED, "f")
    assert asked.HasField("parallel_tool_calls")
    assert not asked.parallel_tool_calls
    wanted = asked.response_format
    assert (wanted.name, wanted.schema["type"], wanted.strict) == ("n", "object", True)
    assert asked.reasoning == pb.Reasoning(effort=pb.Reasoning.EFFORT_HIGH, shown=True)
    assert asked.top_logprobs == 2
    assert asked.sampling == pb.Sampling(max_output_tokens=9, temperature=0, top_p=0.5)
    assert asked.prompt_cache_key == "k"


def test_what_was_not_said_is_left_to_the_provider() -> None:
    asked = generate(tools=[{"type": "function", "name": "f"}], include=["message.output_text.logprobs"])
    assert not asked.tools[0].HasField("strict")
    assert not asked.HasField("parallel_tool_calls")
    assert not asked.HasField("reasoning")
    assert (asked.HasField("top_logprobs"), asked.top_logprobs) == (True, 0)
    assert not generate().HasField("top_logprobs")
    anything = generate(text={"format": {"type": "json_object"}})
    assert anything.HasField("response_format")
    assert not anything.response_format.HasField("schema")


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ([{"type": "input_image", "image_url": "data:image/png;base64,§"}], "input[0].content[0].input_image"),
        ([{"type": "input_image", "file_id": "f"}], "input[0].content[0].input_image"),
        ([{"type": "input_image"}], "input[0].content[0].input_image"),
        ([{"type": "input_file", "file_id": "f"}], "input[0].content[0].input_file"),
        ([{"type": "input_file", "file_url": "file:///x"}], "input[0].content[0].input_file"),
        ([{"type": "input_file"}], "input[0].content[0].input_file"),
        ([{"type": "input_audio"}], "input[0].content[0].input_audio"),
        ([{"type": "input_text"}], "input[0].content[0].input_text"),
        ([{"type": "reasoning_text", "text": "x"}], "input[0].content[0].reasoning_text"),
        ([{"type": "video"}], "input[0].content[0].type"),
        ([], "input[0].content"),
        (7, "input[0].content"),
    ],
)
def test_a_part_that_cannot_be_read_is_named(content: Any, path: str) -> None:
    assert path in refused(input=[{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "input[0].type"),
        ({"type": "computer_call"}, "input[0].type"),
        ({"content": "x"}, "input[0].role"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "input[0].call_id"),
        ({"type": "function_call", "call_id": "c"}, "input[0].name"),
        ({"type": "function_call_output", "call_id": "c"}, "input[0].output"),
    ],
)
def test_an_item_that_cannot_be_read_is_named(item: Any, path: str) -> None:
    assert refused(input=[item]) == [path]


def test_numbers_are_not_read_from_texts_and_schemas_are_bounded_in_depth() -> None:
    assert refused(max_output_tokens="5") == ["max_output_tokens"]
    assert refused(top_logprobs=21) == ["top_logprobs"]
    schema: dict[str, Any] = {}
    for _ in range(40):
        schema = {"items": schema}
    assert refused(tools=[{"type": "function", "name": "f", "parameters": schema}]) == ["tools[0].parameters"]
    format_ = {"type": "json_schema", "name": "n", "schema": schema}
    assert refused(text={"format": format_}) == ["text.format.schema"]


def test_a_refusal_never_repeats_what_was_sent() -> None:
    with pytest.raises(InvalidRequest) as raised:
        generate(temperature="CANARY", input=[{"role": "CANARY", "content": 1}], tool_choice="CANARY")
    assert "CANARY" not in json.dumps(openai_response_problems.body_of(raised.value))


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("messages[1].parts[2].url", "input"),
        ("sampling.max_output_tokens", "max_output_tokens"),
        ("response_format.schema", "text.format.schema"),
        ("tools[1].name", "tools[1].name"),
        ("tool_choice.name", "tool_choice.name"),
    ],
)
def test_the_contracts_names_become_the_apis(field: str, param: str) -> None:
    error = InvalidRequest("the request has wrong fields", violations=[(field, "is wrong")])
    told = openai_response_problems.body_of(error)["error"]
    assert told["param"] == param
    assert param in told["message"]


# --- what is answered


def test_a_stream_tells_each_item_from_its_beginning_to_its_end() -> None:
    deltas = [
        pb.Delta(reasoning="Hm, "),
        pb.Delta(reasoning="so."),
        pb.Delta(thought=pb.Thought(signature="s")),
        text("I "),
        text("look."),
        call(0, "", id="c1", name="look"),
        call(0, "{}"),
        pb.Delta(usage=types_pb2.Usage(input_tokens=5, output_tokens=2, cached_input_tokens=3, reasoning_tokens=1)),
        finish(pb.FINISH_REASON_TOOL_CALLS),
    ]
    said = events(*deltas)
    assert [event["sequence_number"] for event in said] == list(range(len(said)))
    assert [event["type"].removeprefix("response.") for event in said] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    last = said[-1]["response"]
    assert [item for event in said if event["type"] == "response.output_item.done" for item in [event["item"]]] == last[
        "output"
    ]
    assert {event["response"]["id"] for event in said if "response" in event} == {last["id"]}
    assert [item["status"] for item in last["output"]] == ["completed"] * 3
    assert last["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 7,
    }


def test_a_stream_and_a_whole_answer_say_the_same() -> None:
    deltas = [
        pb.Delta(reasoning="Hm."),
        pb.Delta(thought=THOUGHT),
        pb.Delta(logprobs=pb.Logprobs(tokens=[pb.TokenLogprob(token="So.", logprob=-0.5)])),
        text("So."),
        call(0, "{}", id="c1", name="look"),
        pb.Delta(usage=types_pb2.Usage(input_tokens=1, output_tokens=1)),
        finish(pb.FINISH_REASON_TOOL_CALLS),
    ]
    streamed = events(*deltas)[-1]["response"]
    whole = response_of(fold(deltas), request())
    for item in (*streamed["output"], *whole["output"]):
        del item["id"]
    times = ("id", "created_at", "completed_at")
    assert {k: v for k, v in streamed.items() if k not in times} == {k: v for k, v in whole.items() if k not in times}
    assert whole["output"][1]["content"][0]["logprobs"] == [
        {"token": "So.", "bytes": [83, 111, 46], "logprob": -0.5, "top_logprobs": []}
    ]


def likely(token: str) -> pb.Delta:
    return pb.Delta(logprobs=pb.Logprobs(tokens=[pb.TokenLogprob(token=token, logprob=-0.5)]))


@pytest.mark.parametrize(
    "deltas",
    [
        [text("a"), likely("a"), text("b"), likely("b")],
        [text("a"), likely("a"), text("b"), likely("b"), call(0, "{}", name="f")],
    ],
)
def test_words_come_with_how_likely_they_were(deltas: list[pb.Delta]) -> None:
    said = events(*deltas, finish(), include=["message.output_text.logprobs"])
    grown = [e for e in said if e["type"] == "response.output_text.delta"]
    assert [(e["delta"], [one["token"] for one in e["logprobs"]]) for e in grown] == [("a", ["a"]), ("b", ["b"])]
    [done] = [e for e in said if e["type"] == "response.output_text.done"]
    assert (done["text"], [one["token"] for one in done["logprobs"]]) == ("ab", ["a", "b"])


@pytest.mark.parametrize("last", [call(0, "{}", name="f"), pb.Delta(reasoning="Hm."), None])
def test_words_of_which_nothing_is_told_come_all_the_same(last: pb.Delta | None) -> None:
    deltas = [text("a"), text("b"), *([last] if last else [])]
    for said in (
        events(*deltas, finish(), top_logprobs=1),
        events(*deltas, top_logprobs=1, error=Unavailable("broke")),
    ):
        assert "".join(e["delta"] for e in said if e["type"] == "response.output_text.delta") == "ab"
        assert said[-2 if said[-1]["type"] == "error" else -1]["response"]["output"][0]["content"][0]["text"] == "ab"
        assert [e["sequence_number"] for e in said] == list(range(len(said)))


def test_calls_may_come_mixed_and_each_is_introduced_once() -> None:
    deltas = [
        call(0, "", id="a", name="f"),
        call(1, "", id="b", name="g"),
        call(0, "{"),
        call(1, "["),
        call(0, "}"),
        call(1, "]"),
        finish(),
    ]
    said = events(*deltas)
    assert [e["item"]["call_id"] for e in said if e["type"] == "response.output_item.added"] == ["a", "b"]
    done = [e for e in said if e["type"] == "response.function_call_arguments.done"]
    assert [(e["output_index"], e["name"], e["arguments"]) for e in done] == [(0, "f", "{}"), (1, "g", "[]")]


def test_a_call_without_an_id_gets_one() -> None:
    answer = pb.GenerateResponse(message=pb.ChatMessage(tool_calls=[pb.ToolUse(name="f", arguments="{}")]))
    assert response_of(answer, request())["output"][0]["call_id"].startswith("call_")
    added = events(call(0, "{}", name="f"), finish())[2]["item"]
    assert added["call_id"].startswith("call_")


@pytest.mark.parametrize(
    ("reason", "told"),
    [(pb.FINISH_REASON_LENGTH, "max_output_tokens"), (pb.FINISH_REASON_CONTENT_FILTER, "content_filter")],
)
def test_an_answer_that_was_cut_short_is_incomplete(reason: "pb.FinishReason.ValueType", told: str) -> None:
    last = events(text("So"), finish(reason))[-1]
    assert last["type"] == "response.incomplete"
    answer = pb.GenerateResponse(message=pb.ChatMessage(parts=[types_pb2.Part(text="So")]), finish_reason=reason)
    for response in (last["response"], response_of(answer, request())):
        assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": told})
        assert (response["output"][-1]["status"], response["completed_at"]) == ("incomplete", None)


def test_an_answer_that_breaks_off_fails_with_what_there_is_of_it() -> None:
    broken = Unavailable("the provider's answer broke off", reason="STREAM_INTERRUPTED")
    *_, failed, error = events(pb.Delta(reasoning="Hm."), text("So"), error=broken)
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": "server_error", "message": "the provider's answer broke off"}
    assert [item["status"] for item in failed["response"]["output"]] == ["completed", "incomplete"]
    assert (error["type"], error["code"], error["param"]) == ("error", "stream_interrupted", None)
    assert error["error"]["message"] == error["message"] == "the provider's answer broke off"
    assert error["sequence_number"] == failed["sequence_number"] + 1
    *_, limited, _ = events(error=ResourceExhausted("full"))
    assert limited["response"]["error"]["code"] == "rate_limit_exceeded"


def test_what_was_asked_is_told_again_and_nothing_is_stored() -> None:
    tool = {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}
    asked = {
        "instructions": "be brief",
        "store": True,
        "metadata": {"a": "b"},
        "tools": [tool],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "max_output_tokens": 7,
    }
    told = response_of(pb.GenerateResponse(), request(**asked))
    assert {name: told[name] for name in asked} == {**asked, "store": False}
    assert response_of(pb.GenerateResponse(), request())["tool_choice"] == "auto"


def test_an_event_is_one_line_for_every_reader() -> None:
    form = ResponseEvents(request())
    said = form.piece(text("a\nb\u2028c\x85d")).decode()
    assert len([line for line in said.split("\n") if line]) == 2 * said.count("event: ")
    assert json.loads(data_of(said)[-1])["delta"] == "a\nb\u2028c\x85d"
