"""The fake provider can be trusted: as a process too, it says what it did and ends when it is told to."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp

from tests.support.fake_openai import answer_for
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import ask, llm_service, provider

ROOT = Path(__file__).parents[2]


async def test_as_a_process_it_prints_its_address_and_logs_every_open_and_close(tmp_path: Path) -> None:
    log = tmp_path / "hits.jsonl"
    command = [sys.executable, "-m", "tests.support.fake_provider", "--port", "0", "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["event"] == "ready"
            async with llm_service(provider(ready["base_url"], ["ok", "status:500"])) as llm:
                await llm.stream(ask())
                await llm.stream(ask("status:500"))
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    opened = [(line["hit"], line["model"]) for line in lines if line["event"] == "open"]
    closed = {line["hit"]: line["how"] for line in lines if line["event"] == "close"}
    assert opened == [(1, "ok"), (2, "status:500")]
    assert closed == {1: "done", 2: "refused"}


async def test_it_answers_without_a_stream_too() -> None:
    body = {"model": "ok", "messages": [{"role": "user", "content": "hi"}]}
    async with FakeProvider() as fake, aiohttp.ClientSession() as session:
        async with session.post(f"{fake.base_url}/chat/completions", json=body) as response:
            answer = await response.json()
        assert answer["choices"][0]["message"]["content"] == answer_for(body)
        async with session.get(f"{fake.base_url}/models") as response:
            assert (await response.json())["data"][0]["id"] == "ok"
