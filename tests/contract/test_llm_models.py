"""What holds for every kind of provider, through the service's own door."""

import json
import math
from collections.abc import AsyncIterator

import pytest
from google.protobuf.struct_pb2 import Struct

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from tests.support.fake_openai import usage_for, vector_for
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, ask, llm_service, provider, text_of
from tests.support.llm_ways import WAYS

CHAT = {"offline": "offline", **{way: f"{way}/ok" for way in WAYS}}
BYPASS = pb.CachePolicy(mode=pb.CachePolicy.MODE_BYPASS)
EMBEDDINGS = {"openai_compatible": "vectors", "sdk": "chat-sdk/vectors", "offline": "offline-embedding"}
EXTRA = ("tools", "reasoning", "usage", "floats")


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def llm(fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    vectors = ["vectors", "floats-vectors"]
    openai = provider(fake.base_url, ["ok", *EXTRA], embedding_models=vectors)
    others = [
        provider(fake.base_url, embedding_models=vectors if name == "chat-sdk" else (), name=name, **way.settings)
        for name, way in WAYS.items()
    ]
    async with llm_service(openai, *others) as llm:
        yield llm


@pytest.fixture(params=CHAT)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tool(name: str = "lookup") -> pb.Tool:
    """Describe a tool that takes a number."""
    schema = Struct()
    schema.update(
        {"type": "object", "properties": {"number": {"type": "integer", "minimum": 0}}, "required": ["number"]}
    )
    return pb.Tool(name=name, description="Looks a number up.", parameters=schema)


async def test_a_stream_is_text_then_usage_then_finish(kind: str, llm: LlmCaller) -> None:
    deltas, error = await llm.stream(ask(CHAT[kind]))
    assert error is None
    kinds = [delta.WhichOneof("kind") for delta in deltas]
    assert kinds[-2:] == ["usage", "finish"]
    assert len(kinds) > 3
    assert set(kinds[:-2]) == {"text"}
    finish = deltas[-1].finish
    assert finish.reason == pb.FINISH_REASON_STOP
    assert finish.provider == kind
    assert deltas[-2].usage.llm_calls == 1
    assert deltas[-2].usage.input_tokens > 0
    assert deltas[-2].usage.output_tokens > 0


async def test_a_unary_answer_is_the_stream_folded(kind: str, llm: LlmCaller) -> None:
    deltas, _ = await llm.stream(ask(CHAT[kind]))
    response = await llm.call("Generate", ask(CHAT[kind]))
    assert response.message.parts[0].text == text_of(deltas)
    assert response.message.role == pb.CHAT_ROLE_ASSISTANT
    assert response.usage == deltas[-2].usage
    assert response.finish_reason == deltas[-1].finish.reason
    assert response.model == deltas[-1].finish.model


@pytest.mark.parametrize("kind", EMBEDDINGS)
async def test_embeddings_come_in_order_and_are_repeatable(kind: str, llm: LlmCaller) -> None:
    texts = ["rivers", "the sea", "rivers"]
    one = await llm.call("Embed", pb.EmbedRequest(model=EMBEDDINGS[kind], inputs=texts, dimensions=16))
    again = pb.EmbedRequest(model=EMBEDDINGS[kind], inputs=texts, dimensions=16)
    again.cache.mode = pb.CachePolicy.MODE_BYPASS
    two = await llm.call("Embed", again)
    assert one == two
    assert [len(embedding.values) for embedding in one.embeddings] == [16, 16, 16]
    assert one.embeddings[0] == one.embeddings[2] != one.embeddings[1]
    assert one.usage.input_tokens > 0


@pytest.mark.parametrize("model", ["vectors", "floats-vectors", "chat-sdk/vectors", "chat-sdk/floats-vectors"])
async def test_vectors_are_read_from_base64_and_from_numbers(model: str, llm: LlmCaller) -> None:
    response = await llm.call("Embed", pb.EmbedRequest(model=model, inputs=["a", "b"]))
    assert [list(e.values) for e in response.embeddings] == [vector_for("a", 8), vector_for("b", 8)]


async def test_tools_make_the_round_trip(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask("tools", tools=[tool()], tool_choice=pb.ToolChoice(mode=pb.ToolChoice.MODE_NAMED, name="lookup"))
    response = await llm.call("Generate", asked)
    assert response.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    assert [(c.id, c.name, json.loads(c.arguments)) for c in response.message.tool_calls] == [
        ("call_0", "lookup", {"number": 0}),
        ("call_1", "lookup", {"number": 1}),
    ]
    sent = fake.hits[0].body
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "lookup"}}
    assert sent["tools"][0]["function"]["parameters"]["properties"]["number"] == {"type": "integer", "minimum": 0}

    asked.messages.append(response.message)
    for use in response.message.tool_calls:
        parts = [types_pb2.Part(text="found")]
        asked.messages.append(pb.ChatMessage(role=pb.CHAT_ROLE_TOOL, parts=parts, tool_call_id=use.id))
    answer = await llm.call("Generate", asked)
    assert answer.finish_reason == pb.FINISH_REASON_STOP
    roles = [(m["role"], m.get("tool_call_id")) for m in fake.hits[1].body["messages"]]
    assert roles == [("user", None), ("assistant", None), ("tool", "call_0"), ("tool", "call_1")]
    assert fake.hits[1].body["messages"][1]["tool_calls"][1]["function"]["arguments"] == '{"number": 1}'


async def test_the_pieces_of_tool_calls_are_streamed_with_id_and_name_once(llm: LlmCaller) -> None:
    deltas, _ = await llm.stream(ask("tools", tools=[tool()]))
    pieces = [delta.tool_call for delta in deltas if delta.HasField("tool_call")]
    assert [piece.id for piece in pieces if piece.id] == ["call_0", "call_1"]
    assert "".join(piece.arguments for piece in pieces if piece.index == 1) == '{"number": 1}'


async def test_reasoning_is_apart_from_the_answer(llm: LlmCaller) -> None:
    response = await llm.call("Generate", ask("reasoning"))
    assert response.reasoning == "Hm, so be it."
    assert "Hm" not in response.message.parts[0].text


async def test_usage_is_the_providers_own_count(llm: LlmCaller, fake: FakeProvider) -> None:
    response = await llm.call("Generate", ask("usage"))
    expected = usage_for(fake.hits[0].body)
    assert response.usage.input_tokens == expected["prompt_tokens"]
    assert response.usage.output_tokens == expected["completion_tokens"]
    assert response.usage.cached_input_tokens == expected["prompt_tokens_details"]["cached_tokens"] > 0


async def test_everything_asked_for_reaches_the_provider(llm: LlmCaller, fake: FakeProvider) -> None:
    schema = Struct()
    schema.update({"type": "object"})
    asked = ask(
        "ok",
        response_format=pb.ResponseFormat(name="thing", schema=schema, strict=True),
        sampling=pb.Sampling(temperature=0.0, top_p=0.5, max_output_tokens=7, stop=["END"], seed=3),
    )
    asked.messages[0].parts.extend(
        [
            types_pb2.Part(raw=b"\x89PNG", media_type="image/png"),
            types_pb2.Part(url="https://example.invalid/a.jpg", media_type="image/jpeg"),
            types_pb2.Part(raw=b"RIFF", media_type="audio/wav"),
            types_pb2.Part(raw=b"%PDF", media_type="application/pdf", filename="a.pdf"),
            types_pb2.Part(raw="é".encode(), media_type="text/plain"),
        ]
    )
    await llm.call("Generate", asked)
    sent = fake.hits[0].body
    content = sent["messages"][0]["content"]
    assert content[1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}
    assert content[2] == {"type": "image_url", "image_url": {"url": "https://example.invalid/a.jpg"}}
    assert content[3] == {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    assert content[4]["file"] == {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}
    assert content[5] == {"type": "text", "text": "é"}
    expected = {"temperature": 0.0, "top_p": 0.5, "max_tokens": 7, "stop": ["END"], "seed": 3, "stream": True}
    assert {key: sent[key] for key in expected} == expected
    assert sent["response_format"]["json_schema"] == {
        "name": "thing",
        "schema": {"type": "object"},
        "strict": True,
    }


async def test_the_offline_model_says_what_it_is_and_uses_only_the_prompts_words(llm: LlmCaller) -> None:
    prompt = "Rivers carry water. Lakes hold water. Nobody knows. Rivers end in lakes."
    response = await llm.call("Generate", ask("offline", prompt))
    text = response.message.parts[0].text
    assert text.startswith("Offline model:")
    assert text.removeprefix("Offline model: ") in prompt


async def test_the_offline_model_keeps_to_its_bounds(llm: LlmCaller) -> None:
    prompt = " ".join(f"Sentence number {n} speaks of rivers." for n in range(50))
    short = await llm.call("Generate", ask("offline", prompt, sampling=pb.Sampling(max_output_tokens=9)))
    assert short.finish_reason == pb.FINISH_REASON_LENGTH
    assert short.usage.output_tokens <= 9
    stopped = await llm.call("Generate", ask("offline", prompt, sampling=pb.Sampling(stop=["rivers"])))
    assert stopped.finish_reason == pb.FINISH_REASON_STOP
    assert "rivers" not in stopped.message.parts[0].text
    seeded = [
        await llm.call("Generate", ask("offline", prompt, sampling=pb.Sampling(seed=seed), cache=BYPASS))
        for seed in (1, 1, 30)
    ]
    assert seeded[0] == seeded[1]
    assert seeded[0] != seeded[2]


async def test_the_offline_model_calls_a_tool_that_must_be_called(llm: LlmCaller) -> None:
    asked = ask("offline", tools=[tool()], tool_choice=pb.ToolChoice(mode=pb.ToolChoice.MODE_REQUIRED))
    response = await llm.call("Generate", asked)
    assert response.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    assert json.loads(response.message.tool_calls[0].arguments) == {"number": 0}


async def test_offline_vectors_have_length_one_and_are_near_for_shared_words(llm: LlmCaller) -> None:
    texts = ["the river ends in the sea", "the river is in the sea", "quarterly revenue"]
    response = await llm.call("Embed", pb.EmbedRequest(model="offline-embedding", inputs=texts))
    a, b, c = (list(embedding.values) for embedding in response.embeddings)
    assert math.isclose(sum(x * x for x in a), 1, rel_tol=1e-5)
    near, far = (sum(x * y for x, y in zip(a, other, strict=True)) for other in (b, c))
    assert near > 0.5 > far
