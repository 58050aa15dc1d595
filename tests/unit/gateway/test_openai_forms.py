"""OpenAI's JSON to messages of the contract and back, without a network."""

import base64
import json
import struct
from typing import Any

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.errors import InvalidRequest, ResourceExhausted, Unavailable
from agentmesh_gateway import openai_problems
from agentmesh_gateway.json_bodies import validated
from agentmesh_gateway.openai_answers import Chunks, completion_of
from agentmesh_gateway.openai_chat import ChatCompletionRequest, only_honoured, to_generate
from agentmesh_gateway.openai_embeddings import EmbeddingsRequest, embeddings_of
from tests.support.llm_gateway import data_of

HELLO = [{"role": "user", "content": "hello"}]


def generate(**fields: Any) -> pb.GenerateRequest:
    tree = {"model": "m", "messages": HELLO, **fields}
    return to_generate(validated(ChatCompletionRequest, only_honoured(tree)))


def refused(**fields: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as raised:
        generate(**fields)
    return [field for field, _ in raised.value.violations]


def chunks(*deltas: pb.Delta, usage: bool = False) -> list[Any]:
    form = Chunks("m", include_usage=usage)
    written = form.opening() + b"".join(map(form.piece, deltas)) + form.ending()
    return [data if data == "[DONE]" else json.loads(data) for data in data_of(written.decode())]


FINISH = pb.Delta(finish=pb.Finish(reason=pb.FINISH_REASON_STOP))


def test_a_plain_question_says_nothing_that_was_not_asked() -> None:
    assert generate() == pb.GenerateRequest(
        model="m",
        messages=[pb.ChatMessage(role=pb.CHAT_ROLE_USER, parts=[types_pb2.Part(text="hello")])],
        sampling=pb.Sampling(),
    )


def test_zero_is_not_the_same_as_nothing() -> None:
    sampling = generate(temperature=0, seed=0, top_p=0).sampling
    assert all(sampling.HasField(name) for name in ("temperature", "seed", "top_p"))
    assert not generate(temperature=None).sampling.HasField("temperature")


@pytest.mark.parametrize(
    ("choice", "mode", "name"),
    [
        ("auto", pb.ToolChoice.MODE_AUTO, ""),
        ("none", pb.ToolChoice.MODE_NONE, ""),
        ("required", pb.ToolChoice.MODE_REQUIRED, ""),
        ({"type": "function", "function": {"name": "f"}}, pb.ToolChoice.MODE_NAMED, "f"),
    ],
)
def test_every_choice_of_tools_is_understood(choice: Any, mode: Any, name: str) -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "strict": True}}]
    asked = generate(tools=tools, tool_choice=choice)
    assert (asked.tool_choice.mode, asked.tool_choice.name) == (mode, name)
    assert (asked.tools[0].name, asked.tools[0].description) == ("f", "d")


def test_the_newer_name_of_the_longest_answer_wins() -> None:
    assert generate(max_tokens=3).sampling.max_output_tokens == 3
    assert generate(max_tokens=3, max_completion_tokens=4).sampling.max_output_tokens == 4


def test_json_is_asked_for_with_and_without_a_schema() -> None:
    assert not generate(response_format={"type": "text"}).HasField("response_format")
    anything = generate(response_format={"type": "json_object"})
    assert anything.HasField("response_format")
    assert not anything.response_format.HasField("schema")
    named = {"name": "n", "schema": {"type": "object"}, "strict": True}
    wanted = generate(response_format={"type": "json_schema", "json_schema": named}).response_format
    assert (wanted.name, wanted.strict, wanted.schema["type"]) == ("n", True, "object")


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,§"}}], "messages[0].content[0].image_url"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png,raw"}}], "messages[0].content[0].image_url"),
        ([{"type": "image_url"}], "messages[0].content[0].image_url"),
        (
            [{"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}],
            "messages[0].content[0].input_audio",
        ),
        ([{"type": "file", "file": {"file_id": "f"}}], "messages[0].content[0].file"),
        ([{"type": "text"}], "messages[0].content[0].text"),
        ([{"type": "video"}], "messages[0].content[0].type"),
        (7, "messages[0].content"),
    ],
)
def test_a_part_that_cannot_be_read_is_named(content: Any, path: str) -> None:
    assert path in refused(messages=[{"role": "user", "content": content}])


def test_numbers_are_not_read_from_texts_and_schemas_are_bounded_in_depth() -> None:
    assert refused(max_tokens="5") == ["max_tokens"]
    assert refused(seed=2**63) == ["seed"]
    assert refused(max_tokens=2**31) == ["max_tokens"]
    schema: dict[str, Any] = {}
    for _ in range(40):
        schema = {"items": schema}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert refused(tools=[tool]) == ["tools[0].function.parameters"]


def test_a_refusal_never_repeats_what_was_sent() -> None:
    with pytest.raises(InvalidRequest) as raised:
        generate(temperature="CANARY", messages=[{"role": "CANARY", "content": 1}], tool_choice="CANARY")
    assert "CANARY" not in json.dumps(openai_problems.body_of(raised.value))


def test_an_answer_without_words_has_an_empty_text() -> None:
    message = completion_of(pb.GenerateResponse(), "m")["choices"][0]["message"]
    assert message["content"] == ""
    assert "tool_calls" not in message


def test_a_call_without_an_id_gets_one() -> None:
    answer = pb.GenerateResponse(message=pb.ChatMessage(tool_calls=[pb.ToolUse(name="f", arguments="{}")]))
    [call] = completion_of(answer, "m")["choices"][0]["message"]["tool_calls"]
    assert call["id"].startswith("call_")


def test_calls_may_come_mixed_and_each_is_introduced_once() -> None:
    pieces = [(0, "a", "f", ""), (1, "b", "g", ""), (0, "", "", "{"), (1, "", "", "["), (0, "", "", "}")]
    deltas = [
        pb.Delta(tool_call=pb.ToolCallDelta(index=index, id=call_id, name=name, arguments=arguments))
        for index, call_id, name, arguments in pieces
    ]
    said = [c["choices"][0]["delta"]["tool_calls"][0] for c in chunks(*deltas, FINISH)[1:-2]]
    assert [piece.get("id") for piece in said] == ["a", "b", None, None, None]
    assert [piece["index"] for piece in said] == [0, 1, 0, 1, 0]


def test_a_text_that_waits_for_its_likelihoods_is_never_lost() -> None:
    likely = pb.Delta(logprobs=pb.Logprobs(tokens=[pb.TokenLogprob(token="b", logprob=-0.5, utf8=b"b")]))
    form = Chunks("m", include_usage=False, logprobs=True)
    deltas = (pb.Delta(text="a"), pb.Delta(text="b"), likely, likely, pb.Delta(text="c"))
    written = b"".join(map(form.piece, deltas)) + form.error(Unavailable("broke off"))
    *told, error = [json.loads(data) for data in data_of(written.decode())]
    choices = [chunk["choices"][0] for chunk in told]
    assert [(one["delta"]["content"], one["logprobs"] is None) for one in choices] == [
        ("a", True),
        ("b", False),
        ("", False),
        ("c", True),
    ]
    assert choices[1]["logprobs"]["content"] == [{"token": "b", "logprob": -0.5, "bytes": [98], "top_logprobs": []}]
    assert "error" in error
    finished = b"".join(map(Chunks("m", include_usage=False, logprobs=True).piece, (pb.Delta(text="d"), FINISH)))
    assert '"content":"d"' in finished.decode().replace(" ", "")


def test_usage_is_told_once_and_only_when_asked_for() -> None:
    spent = pb.Delta(usage=types_pb2.Usage(input_tokens=5, output_tokens=2, cached_input_tokens=3))
    *_, last, done = chunks(spent, FINISH, usage=True)
    assert (last["choices"], done) == ([], "[DONE]")
    assert last["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert all("usage" not in chunk for chunk in chunks(spent, FINISH)[:-1])


def test_a_chunk_is_one_line_for_every_reader() -> None:
    form = Chunks("m", include_usage=False)
    written = form.piece(pb.Delta(text="a\nb\u2028c\x85d")).decode()
    assert len(written.strip().splitlines()) == 1
    assert json.loads(data_of(written)[0])["choices"][0]["delta"]["content"] == "a\nb\u2028c\x85d"


def test_base64_holds_little_endian_floats() -> None:
    answer = pb.EmbedResponse(embeddings=[pb.Embedding(values=[1.0, -0.5])])
    request = EmbeddingsRequest(model="m", input=["x"], encoding_format="base64")
    assert base64.b64decode(embeddings_of(answer, request)["data"][0]["embedding"]) == struct.pack("<2f", 1.0, -0.5)


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("sampling.max_output_tokens", "max_tokens"),
        ("sampling.stop", "stop"),
        ("inputs[3]", "input[3]"),
        ("messages[1].parts[2].url", "messages[1].content[2].url"),
        ("tools[1].name", "tools[1].function.name"),
    ],
)
def test_the_contracts_names_become_openais(field: str, param: str) -> None:
    error = openai_problems.body_of(InvalidRequest("the request has wrong fields", violations=[(field, "is wrong")]))
    assert error["error"]["param"] == param
    assert param in error["error"]["message"]


def test_a_hint_when_to_come_back_is_kept() -> None:
    answer = openai_problems.response_of(ResourceExhausted("full", retry_after_s=2.2), "req_1")
    assert (answer.status_code, answer.headers["retry-after"], answer.headers["x-request-id"]) == (429, "3", "req_1")
    gone = openai_problems.response_of(Unavailable("gone"), "req_1")
    assert (gone.status_code, gone.headers["x-should-retry"]) == (503, "true")
