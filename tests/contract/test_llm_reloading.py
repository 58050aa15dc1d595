"""A configuration that changes is taken over whole while calls go on; one that is wrong changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentmesh.api.llm.v1 import key_service_pb2_grpc
from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.llm.v1 import llm_service_pb2_grpc as rpc
from agentmesh.kit import config
from agentmesh.kit.auth import Keyring
from agentmesh.kit.errors import NotFound, ResourceExhausted, Unavailable
from agentmesh.kit.rpc_client import open_channel
from agentmesh_llm.app import build
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, ask
from tests.support.serving import serving


@dataclass
class Configured:
    """A service that runs on a file."""

    llm: LlmCaller
    file: Path

    def write(self, **llm: Any) -> None:
        """Put other settings of `llm` into the file, in one step as editors and ConfigMaps do."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(yaml.safe_dump({"environment": "development", "development": {"llm": llm}}))
        fresh.replace(self.file)

    async def models(self) -> list[str]:
        answer = await self.llm.call("ListModels", pb.ListModelsRequest())
        return [model.id for model in answer.models]

    async def until_there_is(self, model: str) -> None:
        async with asyncio.timeout(15):
            while model not in await self.models():
                await asyncio.sleep(0.05)


def described(fake: FakeProvider, *models: str, name: str = "fake") -> dict[str, Any]:
    return {"name": name, "base_url": fake.base_url, "models": list(models), "embedding_models": []}


@asynccontextmanager
async def configured(folder: Path, **llm: Any) -> AsyncIterator[Configured]:
    file = folder / "mesh.yaml"
    made = Configured(None, file)  # type: ignore[arg-type]
    made.write(**llm)
    settings = config.load(file, environ={}, overrides={"data_dir": str(folder)})
    keyring = Keyring("a secret for tests")
    async with AsyncExitStack() as stack:
        built = await build(settings, keyring, stack)
        address = await stack.enter_async_context(serving(built.services, keyring=keyring))
        channel = await stack.enter_async_context(open_channel(address))
        keys = key_service_pb2_grpc.KeyServiceStub(channel)
        made.llm = LlmCaller(rpc.LlmServiceStub(channel), keys, keyring, address=address)
        yield made


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    """A provider that counts its calls."""
    async with FakeProvider() as fake:
        yield fake


async def test_models_prices_and_limits_of_a_changed_file_are_used_without_a_restart(
    fake: FakeProvider, tmp_path: Path
) -> None:
    async with configured(tmp_path, providers=[described(fake, "ok")]) as mesh:
        assert (await mesh.llm.call("Generate", ask())).usage.cost_nano_usd == 0
        mesh.write(
            providers=[described(fake, "ok", "usage")],
            aliases=[{"name": "fast", "models": ["usage"]}],
            prices=[{"models": "*", "input_usd": 1}],
            spending={"default": {"requests_per_minute": 2}},
        )
        await mesh.until_there_is("fast")
        assert (await mesh.llm.call("Generate", ask())).usage.cost_nano_usd > 0
        assert await mesh.llm.call("Generate", ask("fast"))
        with pytest.raises(ResourceExhausted):
            await mesh.llm.call("Generate", ask())


@pytest.mark.parametrize(
    "broken",
    [
        "environment: development\ndevelopment:\n  llm:\n    providers: [{name: fake, models: [ok]}]\n",
        "environment: development\ndevelopment:\n  llm: [unclosed\n",
        "",
    ],
)
async def test_a_file_that_is_wrong_leaves_the_last_good_one_in_use(
    broken: str, fake: FakeProvider, tmp_path: Path
) -> None:
    async with configured(tmp_path, providers=[described(fake, "ok")]) as mesh:
        refused = _refused()
        mesh.file.write_text(broken)
        async with asyncio.timeout(15):
            while _refused() == refused:
                await asyncio.sleep(0.05)
        assert "ok" in await mesh.models()
        assert await mesh.llm.call("Generate", ask())
        mesh.write(providers=[described(fake, "usage")])
        await mesh.until_there_is("usage")
        with pytest.raises(NotFound):
            await mesh.llm.call("Generate", ask("ok"))


async def test_a_stream_at_a_provider_that_is_taken_out_goes_on_to_its_end(fake: FakeProvider, tmp_path: Path) -> None:
    served = described(fake, "slow:300", name="old")
    async with FakeProvider() as other, configured(tmp_path, providers=[served]) as mesh:
        reading = asyncio.create_task(mesh.llm.stream(ask("slow:300", "Rivers. " * 20)))
        async with asyncio.timeout(10):
            while not fake.hits:
                await asyncio.sleep(0.01)
        mesh.write(providers=[described(other, "ok", name="new")])
        await mesh.until_there_is("ok")
        assert "slow:300" not in await mesh.models()
        assert not reading.done()
        deltas, error = await reading
        assert error is None
        assert deltas[-1].HasField("finish")
        assert await mesh.llm.call("Generate", ask())
        assert [hit.model for hit in other.hits] == ["ok"]


async def test_what_is_known_of_a_provider_stays_known_if_only_prices_change(
    fake: FakeProvider, tmp_path: Path
) -> None:
    served = [described(fake, "rate-limited:30", "ok")]
    async with configured(tmp_path, providers=served) as mesh:
        for _ in range(2):
            with pytest.raises(ResourceExhausted):
                await mesh.llm.call("Generate", ask("rate-limited:30"))
        assert len(fake.hits) == 1
        mesh.write(
            providers=served, aliases=[{"name": "sign", "models": ["ok"]}], prices=[{"models": "*", "input_usd": 1}]
        )
        await mesh.until_there_is("sign")
        with pytest.raises((ResourceExhausted, Unavailable)):
            await mesh.llm.call("Generate", ask("rate-limited:30"))
        assert len(fake.hits) == 1
        assert (await mesh.llm.call("Generate", ask())).usage.cost_nano_usd > 0


def _refused() -> float:
    from agentmesh_llm.reloading import _reloads

    value: float = _reloads.labels("refused")._value.get()
    return value
