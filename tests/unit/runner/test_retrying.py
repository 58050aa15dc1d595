"""When a model is asked again, and how often at most."""

import itertools
from collections.abc import AsyncGenerator

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.errors import InvalidRequest, MeshError, Unavailable
from agentmesh_runner.retrying import RetryBudget, RetryingModels

WORD = pb.Delta(text="word")


class Provider:
    """Fails as it is told, call by call; then answers."""

    def __init__(self, *failures: MeshError, after_a_word: bool = False) -> None:
        self._failures = iter(failures)
        self._after_a_word = after_a_word
        self.calls = 0

    async def generate(
        self, request: pb.GenerateRequest, *, token: str, traceparent: str, timeout_s: float
    ) -> AsyncGenerator[pb.Delta, None]:
        self.calls += 1
        failure = next(self._failures, None)
        if failure is None or self._after_a_word:
            yield WORD
        if failure is not None:
            raise failure

    async def cancel(self, idempotency_key: str, *, token: str) -> None:
        raise AssertionError(idempotency_key)


async def ask(
    provider: Provider, budget: RetryBudget, *, timeout_s: float = 60.0
) -> tuple[list[pb.Delta], list[float]]:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    models = RetryingModels(provider, budget, sleep=sleep, jitter=lambda: 1.0)
    stream = models.generate(pb.GenerateRequest(), token="t", traceparent="", timeout_s=timeout_s)
    return [delta async for delta in stream], waits


def gone() -> Unavailable:
    return Unavailable("the provider is gone", reason="PROVIDER_UNAVAILABLE")


async def test_a_call_that_fails_before_its_first_word_is_made_again_with_growing_waits() -> None:
    provider = Provider(gone(), gone())
    assert await ask(provider, RetryBudget(1.0)) == ([WORD], [0.5, 1.0])
    assert provider.calls == 3


async def test_the_third_failure_is_the_answer() -> None:
    provider = Provider(*(gone() for _ in range(3)))
    with pytest.raises(Unavailable):
        await ask(provider, RetryBudget(1.0))
    assert provider.calls == 3


async def test_a_call_that_has_said_something_is_never_made_again() -> None:
    provider = Provider(gone(), after_a_word=True)
    with pytest.raises(Unavailable):
        await ask(provider, RetryBudget(1.0))
    assert provider.calls == 1


async def test_what_will_not_pass_is_not_asked_again() -> None:
    provider = Provider(InvalidRequest("too long", reason="CONTEXT_LENGTH"))
    with pytest.raises(InvalidRequest):
        await ask(provider, RetryBudget(1.0))
    assert provider.calls == 1


async def test_a_wait_that_would_outlast_the_call_is_not_begun() -> None:
    provider = Provider(gone())
    with pytest.raises(Unavailable):
        await ask(provider, RetryBudget(1.0), timeout_s=0.4)
    assert provider.calls == 1


async def test_in_an_outage_calls_share_one_budget_of_retries() -> None:
    provider, budget = Provider(*itertools.repeat(gone(), 10_000)), RetryBudget(0.1)
    for _ in range(100):
        with pytest.raises(Unavailable):
            await ask(provider, budget)
    assert 100 < provider.calls <= 112


async def test_good_times_save_up_no_more_than_ten() -> None:
    budget = RetryBudget(1.0)
    for _ in range(100):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == 10
