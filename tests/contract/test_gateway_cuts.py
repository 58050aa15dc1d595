"""An answer that a provider cuts off, wherever, never looks whole to a client, in no vendor's form."""

import asyncio

import pytest

from tests.support import fake_anthropic
from tests.support.cuts import telling_cuts
from tests.support.fake_openai import sse_bytes
from tests.support.llm_gateway import data_of, llm_gateway

HELLO = [{"role": "user", "content": "hello"}]
STEP = 41
AT_ONCE = 16
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("path", "marker"), [("/v1/chat/completions", "[DONE]"), ("/v1/messages", '{"type":"message_stop"}')]
)
async def test_an_answer_that_is_cut_anywhere_never_looks_whole(path: str, marker: str) -> None:
    answer = sse_bytes({"model": "cut", "messages": HELLO})
    whole_at = answer.index(DONE) + len(DONE)
    places = [*telling_cuts(answer[:whole_at], STEP), whole_at]
    async with llm_gateway(models=[f"cut:{place}" for place in places]) as gate:
        for place in places:
            asked = {"model": f"cut:{place}", "max_tokens": 100, "messages": HELLO}
            streamed = await gate.client.post(path, json={**asked, "stream": True})
            *_, last = data_of(streamed.text) if streamed.status_code == 200 else [streamed.text]
            assert (marker in streamed.text) == (place == whole_at), place
            assert ('"error"' in last) == (place < whole_at), place
            folded = await gate.client.post(path, json=asked)
            assert folded.status_code == (200 if place == whole_at else 502), place


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_an_answer_with_thoughts_that_is_cut_anywhere_never_looks_whole(path: str) -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    answer = fake_anthropic.sse_bytes({"model": "thought-cut", "messages": turns})
    whole_at = answer.rindex(b"}\n\n") + 3
    places = [*telling_cuts(answer[:whole_at], STEP), whole_at]
    async with llm_gateway(models=[f"thought-cut:{place}" for place in places], kind="anthropic") as gate:

        async def check(place: int) -> None:
            asked = {"model": f"thought-cut:{place}", "max_tokens": 100, "messages": HELLO, "stream": True}
            streamed = await gate.client.post(path, json=asked)
            *_, last = data_of(streamed.text) if streamed.status_code == 200 else [streamed.text]
            marked = "[DONE]" in streamed.text or '{"type":"message_stop"}' in streamed.text
            assert (marked, '"error"' in last) == (place == whole_at, place < whole_at), place

        for start in range(0, len(places), AT_ONCE):
            await asyncio.gather(*map(check, places[start : start + AT_ONCE]))
