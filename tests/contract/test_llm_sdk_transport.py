"""What only the vendors' libraries as a transport can get wrong: what they add, need, read from elsewhere and hold."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from pydantic import ValidationError

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.config import ConfigError
from agentmesh.kit.errors import Unavailable
from agentmesh.kit.model_settings import Provider
from agentmesh_llm.domain import Delta, Finish, Message, Question, Role, TextPart
from agentmesh_llm.ports import Provider as Port
from agentmesh_llm.routing.offering import open_provider
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import ask, llm_service, provider
from tests.support.llm_ways import WAYS, Way

SDKS = {"openai_compatible": "openai", "anthropic": "anthropic"}


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture(params=["chat-sdk", "responses-sdk", "anthropic-sdk"])
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


async def test_the_library_sends_what_our_own_connections_send(way: Way, fake: FakeProvider) -> None:
    for transport in ("http", "sdk"):
        async with llm_service(provider(fake.base_url, **{**way.settings, "transport": transport})) as llm:
            _, error = await llm.stream(ask(sampling=pb.Sampling(temperature=0.5)))
            assert error is None
    ours, theirs = fake.hits
    assert (theirs.path, theirs.body) == (ours.path, ours.body)
    our_headers, their_headers = ({name.lower(): value for name, value in hit.headers.items()} for hit in fake.hits)
    added = their_headers.keys() - our_headers.keys()
    assert all(name == "connection" or name.startswith("x-stainless-") for name in added), added
    assert "x-stainless-lang" in added
    assert their_headers["accept-encoding"] == "identity"


async def test_it_never_asks_again(way: Way, fake: FakeProvider) -> None:
    models = ["status:500", "status:408", "status:409", "rate-limited:0"]
    async with llm_service(provider(fake.base_url, models, **way.settings)) as llm:
        for model in models:
            await llm.stream(ask(model))
    assert [hit.model for hit in fake.hits] == models


async def test_a_server_without_a_key_gets_none(fake: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "CANARY-ENVIRONMENT")
    keyless = provider(fake.base_url, transport="sdk").model_copy(update={"api_key": None})
    async with llm_service(keyless) as llm:
        _, error = await llm.stream(ask())
    assert error is None
    assert "authorization" not in {name.lower() for name in fake.hits[0].headers}


async def answered(port: Port, model: str) -> list[Delta]:
    """Return what a provider says, asked without the service in front of it, which lets fewer calls through."""
    question = Question(model, (Message(Role.USER, (TextPart("hi"),)),))
    return [delta async for deltas in port.stream(question) for delta in deltas]


async def test_no_more_connections_are_open_than_the_pool_has(way: Way, fake: FakeProvider) -> None:
    port = open_provider(provider(fake.base_url, per_host=2, **way.settings))
    answers = await asyncio.gather(*(answered(port, "slow:5") for _ in range(6)))
    await port.aclose()
    assert all(isinstance(answer[-1], Finish) for answer in answers)
    assert len({hit.peer for hit in fake.hits}) == 2


async def test_nobody_waits_for_a_connection_longer_than_for_words(way: Way, fake: FakeProvider) -> None:
    port = open_provider(provider(fake.base_url, per_host=1, idle_timeout_s=0.3, **way.settings))
    first = asyncio.create_task(answered(port, "slow:150"))
    async with asyncio.timeout(5):
        while not fake.hits:
            await asyncio.sleep(0.01)
    with pytest.raises(Unavailable) as raised:
        await answered(port, "ok")
    assert raised.value.reason == "PROVIDER_STALLED"
    assert isinstance((await first)[-1], Finish)
    await port.aclose()
    assert len(fake.hits) == 1


async def test_what_is_asked_is_logged_by_no_library(
    way: Way, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    package = SDKS[way.kind]
    caplog.set_level(logging.DEBUG)
    for name in (package, "httpx2", "httpcore2"):
        caplog.set_level(logging.DEBUG, logger=name)
    async with llm_service(provider(fake.base_url, ["ok", "status:400"], **way.settings)) as llm:
        await llm.stream(ask())
        await llm.stream(ask("status:400"))
    said = [record for record in caplog.records if record.name.startswith((package, "httpx", "httpcore"))]
    assert not said
    assert "CANARY" not in caplog.text


@pytest.mark.parametrize("kind", SDKS)
def test_a_library_that_is_missing_is_named_with_the_way_to_get_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = SDKS[kind]
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"agentmesh_llm.adapters.{package}_sdk", raising=False)
    served = provider("http://127.0.0.1:9/v1", kind=kind, transport="sdk", name="mine")  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as raised:
        open_provider(served)
    [error] = raised.value.errors
    assert error.startswith(f"llm.providers: mine has transport sdk, which needs the package {package}")
    assert "pip install 'agentmesh[sdk]'" in error


def test_no_library_is_imported_for_our_own_connections() -> None:
    program = (
        "import sys\n"
        "from agentmesh.kit.model_settings import Provider\n"
        "from agentmesh_llm.routing.offering import open_provider\n"
        "for kind in ('openai_compatible', 'anthropic'):\n"
        "    open_provider(Provider(name='a', kind=kind, base_url='http://127.0.0.1:9/v1', models='m'))\n"
        "print(*{'openai', 'anthropic', 'httpx', 'httpx2'} & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"kind": "anthropic", "api": "responses"}, "is for kind openai_compatible only, not for anthropic"),
        ({"kind": "offline", "api": "responses"}, "is for kind openai_compatible only, not for offline"),
        ({"kind": "offline", "transport": "sdk"}, "is for servers only: kind offline needs no network"),
        ({"base_url": "http://127.0.0.1:9/v1", "transport": "grpc"}, "Input should be 'http' or 'sdk'"),
    ],
)
def test_a_way_that_is_none_is_refused_when_the_configuration_is_read(fields: dict[str, str], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Provider.model_validate({"name": "p", "models": ["m"], **fields})
