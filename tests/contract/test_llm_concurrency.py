"""A provider gets only as many calls at a time as it takes; the others wait in a line that is bounded and fair."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import names
from agentmesh.kit.errors import DeadlineExceeded, MeshError, ResourceExhausted
from agentmesh.kit.model_settings import ModelAlias, ProviderPool
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, ask, llm_service, provider
from tests.support.metrics import metric

BACKGROUND = pb.PRIORITY_BACKGROUND


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    """A provider whose model `held` answers when it is told to."""
    async with FakeProvider() as fake:
        yield fake


def waiting(name: str = "fake") -> int:
    """Return how many calls wait for a provider."""
    return int(sum(metric(names.LLM_WAITING, provider=name, priority=of) for of in ("interactive", "background")))


async def until(holds: Any) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def begin(llm: LlmCaller, prompt: str, *, tenant: str = "acme", **fields: Any) -> "asyncio.Task[Any]":
    """Start a call, and return when it waits or has come to the provider."""
    timeout_s = fields.pop("timeout_s", None)
    before = waiting() + metric(names.LLM_IN_FLIGHT, provider="fake")
    call = llm.call("Generate", ask("held", prompt, **fields), tenant=tenant, timeout_s=timeout_s)
    task = asyncio.create_task(call)
    await until(lambda: waiting() + metric(names.LLM_IN_FLIGHT, provider="fake") > before)
    return task


def asked(fake: FakeProvider) -> list[str]:
    """Return the prompts in the order in which they came."""
    return [hit.body["messages"][0]["content"] for hit in fake.hits]


async def test_no_more_calls_are_in_flight_than_the_provider_takes(fake: FakeProvider) -> None:
    async with llm_service(provider(fake.base_url, ["held"], max_in_flight=3)) as llm:
        tasks = [await begin(llm, str(number)) for number in range(8)]
        await until(lambda: len(fake.hits) == 3)
        assert waiting() == 5
        assert metric(names.LLM_IN_FLIGHT_LIMIT, provider="fake") == 3
        fake.let_go.set()
        await asyncio.gather(*tasks)
        assert (waiting(), len(fake.hits)) == (0, 8)


async def test_interactive_calls_and_quiet_tenants_do_not_wait_for_somebodys_thousand(fake: FakeProvider) -> None:
    async with llm_service(provider(fake.base_url, ["held"], max_in_flight=1)) as llm:
        tasks = [await begin(llm, "first")]
        tasks += [await begin(llm, f"noisy {n}", tenant="noisy", priority=BACKGROUND) for n in range(4)]
        tasks.append(await begin(llm, "quiet", tenant="quiet", priority=BACKGROUND))
        tasks.append(await begin(llm, "interactive", tenant="noisy"))
        fake.let_go.set()
        await asyncio.gather(*tasks)
    assert asked(fake) == ["first", "interactive", "noisy 0", "quiet", "noisy 1", "noisy 2", "noisy 3"]


async def test_a_full_line_refuses_and_says_when_to_come_back(fake: FakeProvider) -> None:
    async with llm_service(provider(fake.base_url, ["held"], max_in_flight=1, max_waiting=2)) as llm:
        tasks = [await begin(llm, str(number)) for number in range(3)]
        with pytest.raises(ResourceExhausted) as raised:
            await llm.call("Generate", ask("held", "one too many"))
        assert raised.value.reason == names.QUEUE_FULL
        assert raised.value.retry_after_s
        fake.let_go.set()
        await asyncio.gather(*tasks)
    assert "one too many" not in asked(fake)


async def test_a_call_waits_no_longer_than_its_time_and_one_that_is_canceled_not_at_all(fake: FakeProvider) -> None:
    async with llm_service(provider(fake.base_url, ["held"], max_in_flight=1)) as llm:
        first = await begin(llm, "first")
        hasty = await begin(llm, "hasty", timeout_s=0.2)
        left = await begin(llm, "left")
        left.cancel()
        with pytest.raises(DeadlineExceeded):
            await hasty
        await until(lambda: not waiting())
        fake.let_go.set()
        await first
        await llm.call("Generate", ask("held", "next"))
    assert asked(fake) == ["first", "next"]


@pytest.mark.parametrize("alias", [{"models": ("fake/held", "free/ok")}, {"models": ("fake/held",)}])
async def test_a_place_with_room_is_asked_before_anybody_waits(fake: FakeProvider, alias: dict[str, Any]) -> None:
    full = provider(fake.base_url, ["held"], max_in_flight=1)
    free = provider(fake.base_url, ["ok"], name="free")
    best = ModelAlias(name="best", fallbacks=("free/ok",), **alias)
    async with llm_service(full, free, aliases=(best,)) as llm:
        first = await begin(llm, "first")
        answer = await llm.call("Generate", ask("best"))
        assert answer.provider == "free"
        fake.let_go.set()
        await first


async def test_who_waits_for_a_place_that_asks_for_patience_hears_of_it_at_once(fake: FakeProvider) -> None:
    models = ["stall:1", "held-then-429:30"]
    async with llm_service(provider(fake.base_url, models, max_in_flight=2)) as llm:
        endless = llm.open(ask("stall:1"))
        await until(lambda: fake.hits)
        first = asyncio.create_task(llm.call("Generate", ask("held-then-429:30")))
        await until(lambda: len(fake.hits) == 2)
        calls = [llm.call("Generate", ask("held-then-429:30", str(number))) for number in range(3)]
        tasks = [asyncio.create_task(call) for call in calls]
        await until(lambda: waiting() == 3)
        fake.let_go.set()
        async with asyncio.timeout(10):  # less than the endless call has
            outcomes = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert len(fake.hits) == 2
        endless.cancel()
        for outcome in outcomes:
            assert isinstance(outcome, ResourceExhausted)
            assert outcome.reason == "PROVIDER_RATE_LIMITED"


@pytest.mark.parametrize("bad", [("rate-limited:5", "rate-limited:6"), ("status:503",) * 2, ("status:529",) * 2])
async def test_a_provider_that_has_too_much_to_do_gets_fewer_calls_at_a_time(
    fake: FakeProvider, bad: tuple[str, str]
) -> None:
    async with llm_service(provider(fake.base_url, [*bad, "ok"], max_in_flight=8, min_in_flight=3)) as llm:
        for model, expected in zip(bad, (4, 3), strict=True):
            with pytest.raises(MeshError):
                await llm.call("Generate", ask(model))
            assert metric(names.LLM_IN_FLIGHT_LIMIT, provider="fake") == expected
        for _ in range(4):
            await llm.call("Generate", ask("ok"))
        assert metric(names.LLM_IN_FLIGHT_LIMIT, provider="fake") == 4


def test_calls_that_no_connection_would_carry_are_not_configured() -> None:
    with pytest.raises(ValueError, match="at most per_host"):
        ProviderPool(per_host=10, max_in_flight=11)
