"""What the llm-proxy counts: every call in the conventions' names, and nothing under a label that a client made up."""

from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.errors import MeshError
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import ask, llm_service, provider
from tests.support.metrics import metric

MADE_UP = "made-up-by-a-client"


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


async def test_a_call_is_counted_with_its_time_its_first_word_and_its_tokens(fake: FakeProvider) -> None:
    place = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "counted", "gen_ai_request_model": "ok"}
    async with llm_service(provider(fake.base_url, name="counted")) as llm:
        answer = await llm.call("Generate", ask("ok"))

    assert metric("llm_api_calls_total", provider="counted", model="ok", status="success") == 1
    assert metric("gen_ai_client_operation_duration_seconds_count", **place, error_type="") == 1
    assert metric("gen_ai_client_operation_time_to_first_chunk_seconds_count", **place) == 1
    for kind, tokens in (("input", answer.usage.input_tokens), ("output", answer.usage.output_tokens)):
        assert tokens > 0
        assert metric("gen_ai_client_token_usage_sum", **place, gen_ai_token_type=kind) == tokens
        assert metric("agentmesh_llm_tokens_total", provider="counted", model="ok", kind=kind) == tokens


async def test_a_call_that_fails_is_counted_under_its_code(fake: FakeProvider) -> None:
    async with llm_service(provider(fake.base_url, ["status:500"], name="failing")) as llm:
        with pytest.raises(MeshError):
            await llm.call("Generate", ask("status:500"))

    place = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "failing", "gen_ai_request_model": "status:500"}
    assert metric("gen_ai_client_operation_duration_seconds_count", **place, error_type="unavailable") == 1
    assert metric("gen_ai_client_operation_time_to_first_chunk_seconds_count", **place) == 0


async def test_nothing_that_a_client_makes_up_becomes_a_label(fake: FakeProvider) -> None:
    served = provider(fake.base_url, embedding_models=["vectors"])
    async with llm_service(served) as llm:
        for number in range(3):
            with pytest.raises(MeshError):
                await llm.call("Generate", ask(f"{MADE_UP}-{number}"))
            with pytest.raises(MeshError):
                await llm.call("Generate", ask("ok", fallbacks=[f"{MADE_UP}-{number}"]))
            with pytest.raises(MeshError):
                await llm.call("Embed", pb.EmbedRequest(model=f"{MADE_UP}-{number}", inputs=["a"]))
            tenant = f"{MADE_UP}-{number}"
            await llm.call("Generate", ask("ok", idempotency_key=tenant, prompt_cache_key=tenant), tenant=tenant)
            await llm.call("Embed", pb.EmbedRequest(model="vectors", inputs=[tenant]), tenant=tenant)

    labels = {value for metric in REGISTRY.collect() for sample in metric.samples for value in sample.labels.values()}
    assert "ok" in labels
    assert not [label for label in labels if MADE_UP in label]
