"""Clients of OpenAI's and Anthropic's interfaces steer the cache of answers in HTTP's own words."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.llm_gateway import LlmGateway, llm_gateway

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def gate() -> AsyncIterator[LlmGateway]:
    async with llm_gateway() as made:
        yield made


async def ask(gate: LlmGateway, path: str, control: str = "", **fields: Any) -> httpx.Response:
    body = {"model": "ok", "messages": HELLO, "max_tokens": 100, "temperature": 0, **fields}
    return await gate.client.post(path, json=body, headers={"cache-control": control} if control else {})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_each_directive_does_what_http_says(gate: LlmGateway, path: str) -> None:
    refused = await ask(gate, path, "only-if-cached")
    assert refused.status_code == 404
    outcomes = [
        (await ask(gate, path, control)).headers.get("x-agentmesh-cache")
        for control in ("no-store", "", "", "max-age=60, only-if-cached", "No-Cache", "")
    ]
    assert outcomes == [None, "miss", "hit", "hit", "miss", "hit"]
    assert len(gate.fake.hits) == 3


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_a_stream_is_replayed_from_the_cache_in_full_form(gate: LlmGateway, path: str) -> None:
    first = await ask(gate, path, stream=True)
    second = await ask(gate, path, stream=True)
    assert len(gate.fake.hits) == 1
    last = "data: [DONE]" if path.endswith("completions") else "event: message_stop"
    for answer in (first, second):
        assert last in answer.text


async def test_vectors_are_asked_for_once(gate: LlmGateway) -> None:
    for control, calls in (("", 1), ("", 1), ("no-cache", 2), ("no-store", 3)):
        answer = await gate.client.post(
            "/v1/embeddings",
            json={"model": "vectors", "input": ["a", "b"]},
            headers={"cache-control": control} if control else {},
        )
        assert answer.status_code == 200
        assert len(gate.fake.hits) == calls
