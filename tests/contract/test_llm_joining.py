"""Calls with one idempotency key are one call at the provider, whatever happens to their callers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.errors import AlreadyExists, InvalidRequest
from tests.support.fake_openai import answer_for
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, ask, llm_service, provider, read, text_of

MODELS = ("ok", "slow:30", "slow:80", "stall:2", "status:500", "long:3000", "no-done")


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def llm(fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    async with llm_service(provider(fake.base_url, MODELS), join_grace_s=0.6) as llm:
        yield llm


def finish_of(deltas: list[pb.Delta]) -> pb.Finish:
    """Return the end of a whole answer."""
    assert deltas[-1].HasField("finish")
    return deltas[-1].finish


async def test_two_callers_with_one_key_are_one_hit_with_one_answer(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask("slow:30", idempotency_key="k")
    (one, _), (two, _) = await asyncio.gather(llm.stream(asked), llm.stream(asked))
    assert len(fake.hits) == 1
    assert text_of(one) == text_of(two) == " " + answer_for(fake.hits[0].body)
    assert sorted([finish_of(one).joined, finish_of(two).joined]) == [False, True]


async def test_a_second_caller_gets_the_whole_answer_of_a_call_whose_caller_died(
    llm: LlmCaller, fake: FakeProvider
) -> None:
    asked = ask("slow:30", idempotency_key="k")
    first = llm.open(asked)
    await first.read()
    first.cancel()
    await asyncio.sleep(0.05)
    response = await llm.call("Generate", asked)
    assert response.joined
    assert response.message.parts[0].text == " " + answer_for(fake.hits[0].body)
    assert len(fake.hits) == 1
    assert fake.hits[0].how == "done"


async def test_a_joiner_with_more_time_outlives_the_first_callers_deadline(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask("slow:80", idempotency_key="k")
    first = asyncio.create_task(llm.stream(asked, timeout_s=0.4))
    await asyncio.sleep(0.1)
    deltas, error = await llm.stream(asked)
    assert error is None
    assert finish_of(deltas).joined
    assert (await first)[1] is not None
    assert len(fake.hits) == 1


async def test_a_finished_answer_is_joined_until_the_grace_is_over(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask("ok", idempotency_key="k")
    first = await llm.call("Generate", asked)
    second = await llm.call("Generate", asked)
    assert (first.joined, second.joined) == (False, True)
    assert second.usage == first.usage
    assert len(fake.hits) == 1
    await asyncio.sleep(0.7)
    third = await llm.call("Generate", asked)
    assert not third.joined
    assert len(fake.hits) == 2


async def test_a_call_without_callers_ends_when_the_grace_is_over(llm: LlmCaller, fake: FakeProvider) -> None:
    call = llm.open(ask("stall:2", idempotency_key="k"))
    await call.read()
    call.cancel()
    await asyncio.sleep(0.3)
    assert not fake.hits[0].closed.is_set()
    await asyncio.wait_for(fake.hits[0].closed.wait(), 2)
    assert fake.hits[0].how == "client_gone"


async def test_a_key_with_another_body_is_refused(llm: LlmCaller, fake: FakeProvider) -> None:
    await llm.call("Generate", ask("ok", idempotency_key="k"))
    with pytest.raises(AlreadyExists) as raised:
        await llm.call("Generate", ask("ok", "something else", idempotency_key="k"))
    assert raised.value.reason == "IDEMPOTENCY_KEY_REUSED"
    assert len(fake.hits) == 1


async def test_another_tenant_does_not_join(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask("ok", idempotency_key="k")
    await llm.call("Generate", asked, tenant="acme")
    other = await llm.call("Generate", asked, tenant="globex")
    assert not other.joined
    assert len(fake.hits) == 2


@pytest.mark.parametrize("model", ["status:500", "no-done"])
async def test_a_failed_call_is_not_joined(model: str, llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask(model, idempotency_key="k")
    assert (await llm.stream(asked))[1] is not None
    assert (await llm.stream(asked))[1] is not None
    assert len(fake.hits) == 2


async def test_calls_without_a_key_never_join(llm: LlmCaller, fake: FakeProvider) -> None:
    await asyncio.gather(llm.stream(ask()), llm.stream(ask()))
    assert len(fake.hits) == 2


async def test_an_answer_over_its_bound_goes_on_for_its_caller_and_is_not_joined(fake: FakeProvider) -> None:
    asked = ask("long:3000", idempotency_key="k")
    async with llm_service(provider(fake.base_url, MODELS), join_max_bytes=4096) as llm:
        deltas, error = await llm.stream(asked)
        assert error is None
        assert text_of(deltas) == "".join(f"{number} " for number in range(3000))
        again, _ = await llm.stream(asked)
        assert not finish_of(again).joined
    assert len(fake.hits) == 2


async def test_a_slow_reader_gets_every_piece(llm: LlmCaller) -> None:
    call = llm.open(ask("long:3000"))
    await asyncio.sleep(0.2)
    deltas, error = await read(call)
    assert error is None
    assert text_of(deltas) == "".join(f"{number} " for number in range(3000))


async def test_a_key_may_have_256_characters(llm: LlmCaller) -> None:
    await llm.call("Generate", ask(idempotency_key="k" * 256))
    with pytest.raises(InvalidRequest) as raised:
        await llm.call("Generate", ask(idempotency_key="k" * 257))
    assert raised.value.violations[0][0] == "idempotency_key"
