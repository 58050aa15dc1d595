"""A client over HTTP says that nobody waits for an answer, and its call goes when no other one waits."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from agentmesh.kit import names
from tests.support.llm_gateway import LlmGateway, llm_gateway
from tests.support.metrics import metric

IN_FLIGHT = 20  # what a provider's connections carry by default
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


@pytest.fixture
async def gate() -> AsyncIterator[LlmGateway]:
    """A gateway whose provider has all the calls that it takes."""
    async with llm_gateway(models=["held"]) as gate:
        busy = [asyncio.create_task(ask(gate, f"busy {number}")) for number in range(IN_FLIGHT)]
        async with asyncio.timeout(10):
            while len(gate.fake.hits) < IN_FLIGHT:
                await asyncio.sleep(0.005)
        yield gate
        gate.fake.let_go.set()
        await asyncio.gather(*busy)


async def ask(
    gate: LlmGateway, prompt: str, path: str = CHAT, headers: Mapping[str, str] | None = None, **fields: Any
) -> int:
    """Ask for an answer; return the status."""
    body = {"model": "held", "max_tokens": 9, "messages": [{"role": "user", "content": prompt}], **fields}
    return (await gate.client.post(path, json=body, headers=headers)).status_code


def waiting(priority: str) -> float:
    """Return how many calls of a priority wait."""
    return metric(names.LLM_WAITING, provider="fake", priority=priority)


@pytest.mark.parametrize(
    ("path", "header", "fields", "priority"),
    [
        (CHAT, "background", {}, "background"),
        (MESSAGES, "Background", {}, "background"),
        (CHAT, None, {"service_tier": "flex"}, "background"),
        (CHAT, "interactive", {"service_tier": "flex"}, "interactive"),
        (CHAT, None, {"service_tier": "auto"}, "interactive"),
        (MESSAGES, None, {"service_tier": "auto"}, "interactive"),
    ],
)
async def test_a_call_waits_as_what_its_client_says_it_is(
    gate: LlmGateway, path: str, header: str | None, fields: dict[str, Any], priority: str
) -> None:
    headers = {"x-agentmesh-priority": header} if header else None
    task = asyncio.create_task(ask(gate, "mine", path, headers, **fields))
    async with asyncio.timeout(10):
        while waiting("background") + waiting("interactive") < 1:
            await asyncio.sleep(0.005)
    assert waiting(priority) == 1
    gate.fake.let_go.set()
    assert await task == 200


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_priority_that_is_none_is_refused(gate: LlmGateway, path: str) -> None:
    assert await ask(gate, "mine", path, {"x-agentmesh-priority": "urgent"}) == 400
