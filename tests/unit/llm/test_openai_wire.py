"""OpenAI's chunks become deltas, whatever a server writes into them; what is none is garbage, never half an answer."""

import json
from typing import Any

import pytest

from agentmesh.kit.errors import InvalidRequest, Unavailable
from agentmesh_llm.adapters.openai_errors import event_error, refusal_of
from agentmesh_llm.adapters.openai_wire import ChunkReader, read_usage
from agentmesh_llm.domain import Delta, LogprobsDelta, TextDelta, TokenLogprob, Usage


def read(**choice: Any) -> list[Delta]:
    return ChunkReader().read(json.dumps({"choices": [{"index": 0, **choice}]}).encode())


def test_a_text_and_its_likelihoods_come_together() -> None:
    token = {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": [{"token": "e", "logprob": -2}]}
    deltas = read(delta={"content": "é"}, logprobs={"content": [token], "refusal": None})
    expected = TokenLogprob("é", -0.5, "é".encode(), (TokenLogprob("e", -2.0),))
    assert deltas == [TextDelta("é"), LogprobsDelta((expected,))]


def test_a_refusal_has_likelihoods_too() -> None:
    deltas = read(delta={"refusal": "No."}, logprobs={"content": None, "refusal": [{"token": "No.", "logprob": 0}]})
    assert deltas == [TextDelta("No."), LogprobsDelta((TokenLogprob("No.", 0.0),))]


@pytest.mark.parametrize("nothing", [None, {}, {"content": None}, {"content": []}])
def test_without_likelihoods_there_is_no_delta_for_them(nothing: Any) -> None:
    assert read(delta={"content": "a"}, logprobs=nothing) == [TextDelta("a")]


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [1],
        [{"token": "a"}],
        [{"token": 1, "logprob": 0}],
        [{"token": "a", "logprob": "0"}],
        [{"token": "a", "logprob": True}],
        [{"token": "a", "logprob": 0, "bytes": 10**12}],
        [{"token": "a", "logprob": 0, "bytes": [256]}],
        [{"token": "a", "logprob": 0, "bytes": ["a"]}],
        [{"token": "a", "logprob": 0, "top_logprobs": [{"token": "b"}]}],
    ],
)
def test_likelihoods_that_are_none_are_garbage(wrong: Any) -> None:
    logprobs = {"content": wrong} if wrong else "likely"
    with pytest.raises(Unavailable) as raised:
        read(delta={"content": "a"}, logprobs=logprobs)
    assert raised.value.reason == "PROVIDER_GARBAGE"


def test_usage_tells_what_was_cached_and_thought_and_nothing_that_is_no_count() -> None:
    told = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert read_usage(told) == Usage(9, 5, 4, 2, 3)
    assert read_usage({**told, "prompt_tokens_details": None, "completion_tokens_details": "3"}) == Usage(9, 5)
    assert read_usage({"completion_tokens_details": {"reasoning_tokens": -3}}) == Usage()


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation", "moderation_blocked"])
def test_a_filter_is_known_by_its_code_also_in_mid_answer(code: str) -> None:
    error = {"code": code, "message": "CANARY"}
    assert [refusal_of(error).reason, event_error(error).reason] == ["CONTENT_FILTER"] * 2
    assert "CANARY" not in repr(refusal_of(error).__dict__)


@pytest.mark.parametrize(
    ("error", "field"),
    [
        ({"param": "reasoning_effort"}, "reasoning.effort"),
        ({"param": "max_completion_tokens"}, "sampling.max_output_tokens"),
        ({"param": "CANARY"}, ""),
        ({"param": ["temperature"]}, ""),
        ({"param": None}, ""),
        ("temperature", ""),
        (None, ""),
    ],
)
def test_a_refused_field_is_named_by_our_name_for_it_or_not_at_all(error: Any, field: str) -> None:
    refused = refusal_of(error)
    assert isinstance(refused, InvalidRequest)
    assert [name for name, _ in refused.violations] == ([field] if field else [])


@pytest.mark.parametrize(
    ("param", "field"),
    [
        ("tools[12].function.parameters", "tools[12].parameters"),
        ("tools", "tools"),
        ("response_format", "response_format.schema"),
        (None, "response_format.schema"),
    ],
)
def test_a_schema_that_is_not_taken_is_named(param: Any, field: str) -> None:
    code = "invalid_function_parameters" if str(param).startswith("tools") else "invalid_json_schema"
    assert [name for name, _ in refusal_of({"code": code, "param": param}).violations] == [field]
