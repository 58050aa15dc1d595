"""Whatever a provider does, on each way to it, the caller gets a whole answer or an error that says what happened."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.errors import (
    Canceled,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    ResourceExhausted,
    Unavailable,
    WrongState,
)
from tests.support.cuts import telling_cuts
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import API_KEY, LlmCaller, ask, llm_service, provider, text_of
from tests.support.llm_ways import WAYS, Way

FAULTS = {
    "no-done": (Unavailable, "STREAM_INTERRUPTED"),
    "no-reason": (Unavailable, "STREAM_INTERRUPTED"),
    "stall:0": (Unavailable, "PROVIDER_STALLED"),
    "stall:3": (Unavailable, "PROVIDER_STALLED"),
    "garbage": (Unavailable, "PROVIDER_GARBAGE"),
    "html": (Unavailable, "PROVIDER_GARBAGE"),
    "error-event": (Unavailable, "PROVIDER_FAILED"),
    "status:500": (Unavailable, "PROVIDER_FAILED"),
    "status:503": (Unavailable, "PROVIDER_FAILED"),
    "status:529": (Unavailable, "PROVIDER_FAILED"),
    "status:302": (Unavailable, "PROVIDER_FAILED"),
    "status:401": (WrongState, "PROVIDER_CREDENTIAL"),
    "status:403": (WrongState, "PROVIDER_CREDENTIAL"),
    "status:404": (NotFound, "MODEL_NOT_FOUND"),
    "status:400": (InvalidRequest, "PROVIDER_REFUSED"),
    "flood:70000": (InvalidRequest, "PROVIDER_REFUSED"),
    "too-long": (InvalidRequest, "CONTEXT_LENGTH"),
    "rate-limited:7": (ResourceExhausted, "PROVIDER_RATE_LIMITED"),
    "rate-limited-date:30": (ResourceExhausted, "PROVIDER_RATE_LIMITED"),
}
KEYS = {"openai_compatible": ("Authorization", f"Bearer {API_KEY}"), "anthropic": ("x-api-key", API_KEY)}


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture
async def llm(way: Way, fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    models = ("ok", "slow:50", "late-end:100", "status:500", *FAULTS)
    async with llm_service(provider(fake.base_url, dict.fromkeys(models), **way.settings, idle_timeout_s=0.5)) as llm:
        yield llm


@pytest.mark.parametrize("model", FAULTS)
async def test_a_fault_is_named_and_says_nothing_that_was_said(model: str, llm: LlmCaller) -> None:
    kind, reason = FAULTS[model]
    deltas, error = await llm.stream(ask(model))
    assert (type(error), error and error.reason) == (kind, reason)
    assert not any(delta.HasField("finish") for delta in deltas)
    with pytest.raises(kind) as raised:
        await llm.call("Generate", ask(model))
    assert raised.value.reason == reason
    assert "CANARY" not in repr(raised.value.__dict__)


@pytest.mark.parametrize("model", FAULTS)
async def test_no_status_on_the_wire_holds_a_prompt_a_key_or_the_providers_text(model: str, llm: LlmCaller) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await llm.stub.Generate(ask(model), metadata=llm.metadata("acme"), timeout=10)
    sink = repr(raised.value) + repr(raised.value.trailing_metadata())
    assert "CANARY" not in sink


async def test_every_fault_hits_the_provider_once(llm: LlmCaller, fake: FakeProvider) -> None:
    await llm.stream(ask("status:500"))
    assert len(fake.hits) == 1


async def test_a_rate_limit_says_when_to_come_back(llm: LlmCaller) -> None:
    _, seconds = await llm.stream(ask("rate-limited:7"))
    _, date = await llm.stream(ask("rate-limited-date:30"))
    assert seconds
    assert seconds.retry_after_s == 7
    assert date
    assert date.retry_after_s is not None
    assert 27 <= date.retry_after_s <= 30


async def test_what_came_before_a_stall_is_delivered(way: Way, llm: LlmCaller, fake: FakeProvider) -> None:
    deltas, error = await llm.stream(ask("stall:3"))
    assert isinstance(error, Unavailable)
    assert text_of(deltas)
    assert (" " + way.fake.answer_for(fake.hits[0].body)).startswith(text_of(deltas))


async def test_a_provider_that_is_not_there_is_unreachable(way: Way) -> None:
    async with FakeProvider() as gone:
        address = gone.base_url
    async with llm_service(provider(address, **way.settings)) as llm:
        _, error = await llm.stream(ask())
    assert error
    assert error.reason == "PROVIDER_UNREACHABLE"


@pytest.mark.parametrize("how", ["cut", "thought-cut", "reset"])
async def test_a_stream_cut_at_any_byte_is_never_a_success(how: str, way: Way, fake: FakeProvider) -> None:
    model = "reasoning" if how == "thought-cut" else "ok"
    async with llm_service(provider(fake.base_url, [model], **way.settings)) as llm:
        deltas, _ = await llm.stream(ask(model, "short"))
    answer, body = text_of(deltas), fake.hits[0].body
    whole = way.fake.sse_bytes(body)
    # How connections break is a library's own matter, and thoughts come as words do: no need for every byte.
    every_byte = how == "cut" and way.transport == "http"
    models = [f"{how}:{offset}" for offset in (range(len(whole)) if every_byte else telling_cuts(whole, 7))]
    uncut = f"{'cut' if how == 'reset' else how}:{len(whole)}"
    assert answer == " " + way.fake.answer_for(body)
    async with llm_service(provider(fake.base_url, [*models, uncut], per_host=50, **way.settings)) as llm:

        async def check(model: str) -> None:
            deltas, error = await llm.stream(ask(model, "short"))
            assert isinstance(error, Unavailable), model
            assert error.reason in ("STREAM_INTERRUPTED", "PROVIDER_UNREACHABLE"), model
            assert not any(delta.HasField("finish") for delta in deltas), model
            assert answer.startswith(text_of(deltas)), model

        for start in range(0, len(models), 32):
            await asyncio.gather(*map(check, models[start : start + 32]))
        # The same bytes, uncut, are one: the offsets above end right before success.
        deltas, error = await llm.stream(ask(uncut, "short"))
        assert error is None
        assert text_of(deltas) == answer


async def test_a_client_that_leaves_closes_the_providers_socket(llm: LlmCaller, fake: FakeProvider) -> None:
    call = llm.open(ask("slow:50"))
    await call.read()
    left = time.monotonic()
    call.cancel()
    await asyncio.wait_for(fake.hits[0].closed.wait(), 5)
    assert fake.hits[0].how == "client_gone"
    assert time.monotonic() - left < 1


async def test_cancel_generate_closes_the_providers_socket_and_tells_the_reader(
    llm: LlmCaller, fake: FakeProvider
) -> None:
    answers = aiter(llm.open(ask("slow:50", idempotency_key="k")))
    await anext(answers)
    other = await llm.call("CancelGenerate", pb.CancelGenerateRequest(idempotency_key="k"), tenant="other")
    assert not other.canceled
    answer = await llm.call("CancelGenerate", pb.CancelGenerateRequest(idempotency_key="k"))
    assert answer.canceled
    await asyncio.wait_for(fake.hits[0].closed.wait(), 1)
    assert fake.hits[0].how == "client_gone"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in answers:
            pass
    assert raised.value.code() is Canceled.code
    again = await llm.call("CancelGenerate", pb.CancelGenerateRequest(idempotency_key="k"))
    assert not again.canceled


@pytest.mark.parametrize("key", ["", "k"])
async def test_a_deadline_closes_the_providers_socket(key: str, way: Way, fake: FakeProvider) -> None:
    async with llm_service(provider(fake.base_url, ["stall:2"], **way.settings)) as llm:
        started = time.monotonic()
        _, error = await llm.stream(ask("stall:2", idempotency_key=key), timeout_s=0.3)
        assert isinstance(error, DeadlineExceeded)
        await asyncio.wait_for(fake.hits[0].closed.wait(), 5)
        assert fake.hits[0].how == "client_gone"
        assert time.monotonic() - started < 0.8


async def test_a_unary_call_is_bounded_even_without_a_deadline(fake: FakeProvider) -> None:
    async with llm_service(provider(fake.base_url, ["stall:2"], total_timeout_s=0.2)) as llm:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await llm.stub.Generate(ask("stall:2"), metadata=llm.metadata("acme"))
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_answer_is_whole_at_its_marker_and_its_connection_is_used_again(
    llm: LlmCaller, fake: FakeProvider
) -> None:
    peers = set()
    for _ in range(3):
        _, error = await llm.stream(ask("late-end:100"))
        assert error is None
        assert not fake.hits[-1].closed.is_set()
        await fake.hits[-1].closed.wait()
        assert fake.hits[-1].how == "done"
        await asyncio.sleep(0.05)
        peers.add(fake.hits[-1].peer)
    assert len(peers) == 1


async def test_the_provider_gets_the_key_and_nothing_of_the_environment(
    way: Way, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(name, "CANARY-ENVIRONMENT")
    for name in ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"):
        monkeypatch.setenv(name, "x-canary: CANARY-ENVIRONMENT\nauthorization: CANARY-ENVIRONMENT")
    async with llm_service(provider(fake.base_url, **way.settings)) as llm:
        _, error = await llm.stream(ask())
    assert error is None
    header, value = KEYS[way.kind]
    headers = {name.lower(): told for name, told in fake.hits[0].headers.items()}
    assert headers[header.lower()] == value
    assert repr(headers).count(API_KEY) == 1
    assert "CANARY-ENVIRONMENT" not in repr(headers)


async def test_an_error_does_not_stop_the_next_call(llm: LlmCaller) -> None:
    for model in ("status:500", "garbage", "ok"):
        _, error = await llm.stream(ask(model))
    assert error is None
