"""Each call to a provider is a span of its caller's trace, however it ends, and says nothing that it must not."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.errors import MeshError
from agentmesh.kit.settings import Monitoring
from tests.support.fake_collector import FakeCollector, attributes_of
from tests.support.fake_openai import answer_for
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import API_KEY, PROMPT, ask, llm_service, provider, text_of
from tests.support.metrics import metric
from tests.support.ports import free_ports

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def collector() -> AsyncIterator[FakeCollector]:
    async with FakeCollector() as collector:
        yield collector


def _on(collector: FakeCollector, **fields: Any) -> dict[str, Any]:
    return {"monitoring": Monitoring(tracing=True, otlp_endpoint=collector.endpoint, **fields)}


async def test_a_call_is_a_span_of_its_callers_trace_in_the_conventions_words(
    fake: FakeProvider, collector: FakeCollector
) -> None:
    async with llm_service(provider(fake.base_url), settings=_on(collector)) as llm:
        llm.traceparent = TRACEPARENT
        await llm.call("Generate", ask("ok"))

    [span] = await collector.wait_for(1)
    assert (span.name, span.kind) == ("chat ok", Span.SPAN_KIND_CLIENT)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert len(span.span_id) == 8
    assert span.span_id.hex() != PARENT
    assert 0 < span.start_time_unix_nano < span.end_time_unix_nano
    assert span.status.code == Status.STATUS_CODE_UNSET
    attributes = attributes_of(span)
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == attributes["agentmesh.provider"] == "fake"
    assert (attributes["gen_ai.request.model"], attributes["gen_ai.response.model"]) == ("ok", "fake-1")
    assert attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert attributes["gen_ai.usage.input_tokens"] > 0
    assert attributes["gen_ai.usage.output_tokens"] > 0
    assert attributes["server.address"] == "127.0.0.1"
    assert (attributes["agentmesh.tenant"], attributes["agentmesh.task.id"]) == ("acme", "task-1")
    assert "error.type" not in attributes
    assert collector.resources[0]["service.name"] == "llm"


async def test_a_batch_of_texts_is_a_span_too(fake: FakeProvider, collector: FakeCollector) -> None:
    served = provider(fake.base_url, embedding_models=["vectors"])
    async with llm_service(served, settings=_on(collector)) as llm:
        llm.traceparent = TRACEPARENT
        await llm.call("Embed", pb.EmbedRequest(model="vectors", inputs=["a", "b"]))

    [span] = await collector.wait_for(1)
    assert (span.name, span.trace_id.hex()) == ("embeddings vectors", TRACE)
    assert attributes_of(span)["gen_ai.usage.input_tokens"] == 2


async def test_a_batch_for_several_callers_begins_a_trace_and_is_linked_with_each_of_theirs(
    fake: FakeProvider, collector: FakeCollector
) -> None:
    traces = [f"00-{number:032x}-{number:016x}-01" for number in (1, 2, 3)]
    served = provider(fake.base_url, embedding_models=["slow-vectors:200"])
    async with llm_service(served, settings=_on(collector)) as llm:
        asked = []
        for number, traceparent in enumerate(traces):
            llm.traceparent = traceparent
            request = pb.EmbedRequest(model="slow-vectors:200", inputs=[f"{number}"])
            asked.append(asyncio.create_task(llm.call("Embed", request)))
            await asyncio.sleep(0)  # the call takes its metadata with it
        await asyncio.gather(*asked)

    spans = await collector.wait_until(lambda spans: any(span.links for span in spans))
    [batch] = [span for span in spans if span.links]
    linked = [f"00-{link.trace_id.hex()}-{link.span_id.hex()}-01" for link in batch.links]
    assert set(linked) < set(traces)
    assert len(linked) > 1
    assert not batch.parent_span_id
    assert batch.trace_id.hex() not in {trace[3:35] for trace in traces}


@pytest.mark.parametrize(
    ("model", "error_type"),
    [
        ("cut:300", "STREAM_INTERRUPTED"),
        ("reset:300", "STREAM_INTERRUPTED"),
        ("status:500", "PROVIDER_FAILED"),
        ("rate-limited:7", "PROVIDER_RATE_LIMITED"),
        ("error-event", "PROVIDER_FAILED"),
    ],
)
async def test_a_call_that_fails_ends_its_span_with_the_reason(
    fake: FakeProvider, collector: FakeCollector, model: str, error_type: str
) -> None:
    async with llm_service(provider(fake.base_url, [model]), settings=_on(collector)) as llm:
        with pytest.raises(MeshError):
            await llm.call("Generate", ask(model))

    [span] = await collector.wait_for(1)
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes_of(span)["error.type"] == error_type


async def test_a_caller_that_leaves_ends_the_span(fake: FakeProvider, collector: FakeCollector) -> None:
    async with llm_service(provider(fake.base_url, ["stall:3"]), settings=_on(collector)) as llm:
        call = llm.open(ask("stall:3"))
        await call.read()
        call.cancel()
        await asyncio.wait_for(fake.hits[0].closed.wait(), 10)

    [span] = await collector.wait_for(1)
    attributes = attributes_of(span)
    assert attributes["error.type"] == "cancelled"
    assert attributes["agentmesh.usage.estimated"]


async def test_a_call_that_the_services_end_cuts_off_has_its_span(fake: FakeProvider, collector: FakeCollector) -> None:
    async with llm_service(provider(fake.base_url, ["stall:3"]), settings=_on(collector)) as llm:
        await llm.open(ask("stall:3")).read()

    [span] = await collector.wait_for(1)
    assert attributes_of(span)["agentmesh.status"] == "cancelled"


async def test_a_fallback_is_a_span_of_its_own(fake: FakeProvider, collector: FakeCollector) -> None:
    async with llm_service(provider(fake.base_url, ["status:503", "ok"]), settings=_on(collector)) as llm:
        llm.traceparent = TRACEPARENT
        await llm.call("Generate", ask("status:503", fallbacks=["ok"]))

    spans = await collector.wait_for(2)
    assert [span.name for span in spans] == ["chat status:503", "chat ok"]
    assert {span.parent_span_id.hex() for span in spans} == {PARENT}


async def test_neither_prompts_nor_answers_nor_keys_are_in_spans(fake: FakeProvider, collector: FakeCollector) -> None:
    async with llm_service(provider(fake.base_url), settings=_on(collector)) as llm:
        deltas, _ = await llm.stream(ask("ok"))

    [span] = await collector.wait_for(1)
    written = span.SerializeToString()
    for secret in (PROMPT, "CANARY", API_KEY, text_of(deltas)):
        assert secret.encode() not in written


async def test_content_that_the_operator_asks_for_is_recorded_up_to_a_bound(
    fake: FakeProvider, collector: FakeCollector
) -> None:
    models = ["ok", "long:5000"]
    async with llm_service(provider(fake.base_url, models), settings=_on(collector, record_content=True)) as llm:
        await llm.call("Generate", ask("ok", "Why is the sea salty?"))
        await llm.call("Generate", ask("long:5000", "x" * 100_000))

    short, long = (_content(span) for span in await collector.wait_for(2))
    asked = [{"role": "user", "content": "Why is the sea salty?"}]
    assert short["gen_ai.input.messages"] == [
        {"role": "user", "parts": [{"type": "text", "content": "Why is the sea salty?"}]}
    ]
    [answer] = short["gen_ai.output.messages"]
    assert answer["parts"][0]["content"].strip() == answer_for({"messages": asked})
    assert long["gen_ai.input.messages"][0]["parts"][0]["content"] == "x" * 16_000
    assert len(long["gen_ai.output.messages"][0]["parts"][0]["content"]) == 16_000


def _content(span: Span) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in attributes_of(span).items() if name.endswith(".messages")}


@pytest.mark.parametrize("transport", ["http", "sdk"])
@pytest.mark.parametrize("told", [False, True])
async def test_a_provider_hears_of_the_trace_only_if_the_operator_wants_that(
    fake: FakeProvider, collector: FakeCollector, told: bool, transport: Literal["http", "sdk"]
) -> None:
    served = provider(fake.base_url, embedding_models=["vectors"], transport=transport)
    served = served.model_copy(update={"send_traceparent": told})
    async with llm_service(served, settings=_on(collector)) as llm:
        llm.traceparent = TRACEPARENT
        await llm.call("Generate", ask("ok"))
        await llm.call("Embed", pb.EmbedRequest(model="vectors", inputs=["a"]))

    spans = await collector.wait_for(2)
    headers = [hit.headers.get("traceparent") for hit in fake.hits]
    assert headers == [f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01" if told else None for span in spans]


@pytest.mark.parametrize(("flags", "ratio"), [("00", 1.0), ("01", 0.0)])
async def test_a_trace_that_is_not_sampled_is_not_recorded(
    fake: FakeProvider, collector: FakeCollector, flags: str, ratio: float
) -> None:
    async with llm_service(provider(fake.base_url), settings=_on(collector, sampling_ratio=ratio)) as llm:
        llm.traceparent = f"00-{TRACE}-{PARENT}-{flags}"
        await llm.call("Generate", ask("ok"))

    assert not collector.spans


async def test_the_ratio_leaves_the_same_traces_in_everywhere(fake: FakeProvider, collector: FakeCollector) -> None:
    low, high = "1" * 32, "f" * 32
    async with llm_service(provider(fake.base_url), settings=_on(collector, sampling_ratio=0.5)) as llm:
        for trace in (low, high):
            llm.traceparent = f"00-{trace}-{PARENT}-01"
            await llm.call("Generate", ask("ok"))

    assert _traces(await collector.wait_for(1)) == [low]


async def test_the_ratio_leaves_some_of_the_traces_in_that_begin_here(
    fake: FakeProvider, collector: FakeCollector
) -> None:
    async with llm_service(provider(fake.base_url), settings=_on(collector, sampling_ratio=0.5)) as llm:
        for _ in range(40):
            await llm.call("Generate", ask("ok"))

    traces = _traces(await collector.wait_for(1))
    assert len(set(traces)) == len(traces) < 40
    assert all(int(trace[16:], 16) < 2**63 for trace in traces)  # so does any other service tell


def _traces(spans: Sequence[Span]) -> list[str]:
    return [span.trace_id.hex() for span in spans]


async def test_a_collector_that_is_away_costs_spans_and_nothing_else(fake: FakeProvider) -> None:
    nobody = f"http://127.0.0.1:{free_ports()}"
    away = {"monitoring": Monitoring(tracing=True, otlp_endpoint=nobody, span_queue=3)}
    lost = _lost("queue_full")
    async with llm_service(provider(fake.base_url), settings=away) as llm:
        for _ in range(10):
            await llm.call("Generate", ask("ok"))

    assert _lost("queue_full") - lost >= 7


def _lost(reason: str) -> float:
    return metric("agentmesh_spans_dropped_total", reason=reason)
