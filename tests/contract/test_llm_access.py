"""Who may ask for models, which requests are refused before a provider is asked, what is known of models."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit import names
from agentmesh.kit.errors import InvalidRequest, NotFound
from agentmesh.kit.model_settings import Provider
from agentmesh.kit.rpc_client import bearer
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import PROMPT, LlmCaller, ask, llm_service, provider
from tests.support.metrics import metric


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def llm(fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    async with llm_service(provider(fake.base_url, ["ok"], embedding_models=["vectors"])) as llm:
        yield llm


@pytest.mark.parametrize(
    "metadata",
    [[], bearer("runner.0000"), "runner without a task token"],
    ids=["no token", "a forged token", "a runner without a task token"],
)
async def test_a_caller_without_its_credentials_is_unauthenticated(
    metadata: Any, llm: LlmCaller, fake: FakeProvider
) -> None:
    if isinstance(metadata, str):
        metadata = bearer(llm.keyring.role_token(names.RUNNER))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await llm.stub.Generate(ask(), metadata=metadata, timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert fake.hits == []


async def test_storage_may_not_ask(llm: LlmCaller) -> None:
    metadata = bearer(llm.keyring.role_token(names.STORAGE))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await llm.stub.Generate(ask(), metadata=metadata, timeout=5)
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("role", [names.ROUTER, names.GATEWAY])
async def test_router_and_gateway_ask_for_the_default_tenant(role: str, llm: LlmCaller) -> None:
    metadata = bearer(llm.keyring.role_token(role))
    asked = ask(idempotency_key="k")
    await llm.stub.Generate(asked, metadata=metadata, timeout=5)
    response = await llm.call("Generate", asked, tenant=names.DEFAULT_TENANT)
    assert response.joined


def wrong(**fields: Any) -> pb.GenerateRequest:
    """Write a request that is right but for these fields."""
    asked = ask()
    for name, value in fields.items():
        asked.ClearField(name)  # type: ignore[arg-type]
        if isinstance(value, list):
            getattr(asked, name).extend(value)
        else:
            getattr(asked, name).CopyFrom(value)
    return asked


USER = pb.CHAT_ROLE_USER
TEXT = types_pb2.Part(text="hello")
WRONG = {
    "messages": wrong(messages=[]),
    "messages[0].role": wrong(messages=[pb.ChatMessage(parts=[TEXT])]),
    "messages[0].parts": wrong(messages=[pb.ChatMessage(role=USER)]),
    "messages[0].parts[0]": wrong(messages=[pb.ChatMessage(role=USER, parts=[types_pb2.Part()])]),
    "messages[0].parts[0].media_type": wrong(messages=[pb.ChatMessage(role=USER, parts=[types_pb2.Part(raw=b"x")])]),
    "messages[0].parts[0].url": wrong(
        messages=[pb.ChatMessage(role=USER, parts=[types_pb2.Part(url="file:///x", media_type="image/png")])]
    ),
    "messages[0].tool_call_id": wrong(messages=[pb.ChatMessage(role=pb.CHAT_ROLE_TOOL, parts=[TEXT])]),
    "tools[1].name": wrong(tools=[pb.Tool(name="a"), pb.Tool(name="a")]),
    "tools": wrong(tool_choice=pb.ToolChoice(mode=pb.ToolChoice.MODE_REQUIRED)),
    "tool_choice.name": wrong(tool_choice=pb.ToolChoice(mode=pb.ToolChoice.MODE_NAMED, name="b")),
    "sampling.temperature": wrong(sampling=pb.Sampling(temperature=2.5)),
    "sampling.top_p": wrong(sampling=pb.Sampling(top_p=float("nan"))),
    "sampling.max_output_tokens": wrong(sampling=pb.Sampling(max_output_tokens=-1)),
    "sampling.stop": wrong(sampling=pb.Sampling(stop=list("abcde"))),
}


@pytest.mark.parametrize("path", WRONG)
async def test_a_wrong_field_is_refused_by_its_path_before_a_provider_is_asked(
    path: str, llm: LlmCaller, fake: FakeProvider
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await llm.call("Generate", WRONG[path])
    assert [field for field, _ in raised.value.violations] == [path]
    assert fake.hits == []


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("inputs", pb.EmbedRequest()),
        ("inputs", pb.EmbedRequest(inputs=["x"] * 2049)),
        ("inputs[1]", pb.EmbedRequest(inputs=["x", ""])),
        ("dimensions", pb.EmbedRequest(inputs=["x"], dimensions=-1)),
        ("inputs", pb.EmbedRequest(inputs=["x"] * 2048, dimensions=3072)),
        ("model", pb.EmbedRequest(model="ok", inputs=["x"])),
    ],
)
async def test_texts_that_cannot_be_embedded_are_refused(
    path: str, request_: pb.EmbedRequest, llm: LlmCaller, fake: FakeProvider
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await llm.call("Embed", request_)
    assert [field for field, _ in raised.value.violations] == [path]
    assert fake.hits == []


async def test_a_model_that_is_not_configured_is_not_found(llm: LlmCaller, fake: FakeProvider) -> None:
    for method, message in (
        ("Generate", ask("gpt-nope")),
        ("Embed", pb.EmbedRequest(model="gpt-nope", inputs=["x"])),
        ("CountTokens", pb.CountTokensRequest(model="gpt-nope", messages=ask().messages)),
        ("GetModel", pb.GetModelRequest(model="gpt-nope")),
    ):
        with pytest.raises(NotFound) as raised:
            await llm.call(method, message)
        assert raised.value.reason == "MODEL_NOT_FOUND"
    assert fake.hits == []


async def test_models_are_listed_with_their_defaults(llm: LlmCaller) -> None:
    listed = await llm.call("ListModels", pb.ListModelsRequest())
    assert {(m.id, m.provider, m.is_default, m.embeddings, m.reranks) for m in listed.models} == {
        ("ok", "fake", True, False, False),
        ("vectors", "fake", True, True, False),
        ("offline", "offline", False, False, False),
        ("offline-embedding", "offline", False, True, False),
        ("offline-rerank", "offline", True, False, True),
    }
    for model in listed.models:
        got = await llm.call("GetModel", pb.GetModelRequest(model=model.id))
        assert got.model == model


async def test_of_two_providers_with_one_model_the_first_has_it_and_the_long_name_finds_the_other() -> None:
    async with FakeProvider() as one, FakeProvider() as two:
        second = Provider(name="second", base_url=two.base_url, models=("ok",))
        async with llm_service(provider(one.base_url, ["ok"]), second) as llm:
            listed = await llm.call("ListModels", pb.ListModelsRequest())
            assert [m.id for m in listed.models if not m.embeddings and not m.reranks] == ["ok", "second/ok", "offline"]
            await llm.call("Generate", ask("ok"))
            assert (len(one.hits), len(two.hits)) == (1, 0)
            await llm.call("Generate", ask("second/ok"))
            assert (len(one.hits), len(two.hits)) == (1, 1)
            assert two.hits[0].model == "ok"
            assert "Authorization" not in two.hits[0].headers


async def test_no_model_named_means_the_default_one(llm: LlmCaller, fake: FakeProvider) -> None:
    assert (await llm.call("Generate", ask(""))).provider == "fake"
    await llm.call("Embed", pb.EmbedRequest(inputs=["x"]))
    assert [hit.model for hit in fake.hits] == ["ok", "vectors"]


async def test_tokens_are_counted_as_an_estimate_without_asking_anybody(llm: LlmCaller, fake: FakeProvider) -> None:
    counted = await llm.call("CountTokens", pb.CountTokensRequest(messages=ask("", "Hi, world!").messages))
    # Two words and two signs, four for the message, three for the answer.
    assert (counted.input_tokens, counted.estimated) == (11, True)
    assert fake.hits == []


async def test_calls_tokens_and_joins_are_counted(llm: LlmCaller) -> None:
    labels = {"provider": "fake", "model": "ok"}
    before = [
        metric(names.LLM_CALLS_TOTAL, **labels, status="success"),
        metric(names.LLM_TOKENS_TOTAL, **labels, kind="input"),
        metric(names.LLM_JOINED_TOTAL),
    ]
    for _ in range(2):
        response = await llm.call("Generate", ask(idempotency_key="k"))
    after = [
        metric(names.LLM_CALLS_TOTAL, **labels, status="success"),
        metric(names.LLM_TOKENS_TOTAL, **labels, kind="input"),
        metric(names.LLM_JOINED_TOTAL),
    ]
    increase = [b - a for a, b in zip(before, after, strict=True)]
    assert increase == [1, response.usage.input_tokens, 1]
    assert response.usage.input_tokens == len(PROMPT.split())


@pytest.mark.parametrize("how", ["canceled", "cut"])
async def test_what_an_answer_that_did_not_come_to_its_end_has_cost_is_counted_as_an_estimate(
    how: str, fake: FakeProvider
) -> None:
    model = "slow:100" if how == "canceled" else "no-done"
    kinds = ("input_estimated", "output_estimated", "input", "output")

    def tokens() -> dict[str, float]:
        labels = {"provider": "fake", "model": model}
        return {k: metric(names.LLM_TOKENS_TOTAL, **labels, kind=k) for k in kinds}

    before = tokens()
    async with llm_service(provider(fake.base_url, [model])) as llm:
        if how == "canceled":
            stream = llm.open(ask(model))
            await stream.read()
            stream.cancel()
            async with asyncio.timeout(5):
                await fake.hits[0].closed.wait()
        else:
            await llm.stream(ask(model))
    after = tokens()
    assert after["input_estimated"] - before["input_estimated"] == -(-len(PROMPT) // 4)
    assert after["output_estimated"] > before["output_estimated"]
    assert (after["input"], after["output"]) == (before["input"], before["output"])


def test_a_service_with_only_the_offline_model_loads_no_http_client() -> None:
    code = """
import asyncio, sys
from contextlib import AsyncExitStack
from agentmesh.kit.auth import Keyring
from agentmesh.kit.settings import Settings
from agentmesh_llm.app import build

async def main():
    async with AsyncExitStack() as stack:
        await build(Settings(), Keyring("s"), stack)

asyncio.run(main())
print(sorted({"aiohttp", "orjson", "openai", "anthropic", "opentelemetry"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
