"""A call's key chooses its llm-proxy; when that can't be reached the next is asked, and cancels go where calls went."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import names
from agentmesh.kit.auth import Access, Keyring, TaskClaims
from agentmesh.kit.errors import MeshError, Unavailable, Unreachable
from agentmesh.kit.rpc_server import Call
from agentmesh_runner.adapters.models import GrpcModels
from agentmesh_runner.adapters.proxies import Proxies
from tests.support.serving import serving

KEYRING = Keyring("for tests")
TOKEN = KEYRING.sign(TaskClaims("acme", "task", 1, time.time() + 86_400))
KEYS = [f"task/{number}" for number in range(40)]


class FakeProxy:
    """An llm-proxy that answers with its name, or as it is told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []
        self.canceled: list[str] = []
        self.times: list[float] = []
        self.error: MeshError | None = None
        self.hold = False
        self.address = ""
        self._stop = AsyncExitStack()

    async def stream_generate(
        self, request: pb.StreamGenerateRequest, call: Call
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        self.asked.append(request.request.idempotency_key)
        self.times.append(call.remaining_s(1e9))
        if self.error is not None:
            raise self.error
        yield pb.StreamGenerateResponse(deltas=[pb.Delta(text=self.name)])
        if self.hold:
            await asyncio.Event().wait()

    async def cancel_generate(self, request: pb.CancelGenerateRequest, call: Call) -> pb.CancelGenerateResponse:
        self.canceled.append(request.idempotency_key)
        return pb.CancelGenerateResponse(canceled=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.cancel_generate  # methods of the service that no runner calls

    async def start(self) -> None:
        """Serve."""
        service = pb.DESCRIPTOR.services_by_name["LlmService"]
        access = Access.internal(names.RUNNER)
        self.address = await self._stop.enter_async_context(serving([(service, self, access)], keyring=KEYRING))

    async def die(self) -> None:
        """Stop serving; what is connected is cut."""
        await self._stop.aclose()


class Mesh:
    """Three proxies and what a runner knows of them, with a clock that the test moves."""

    def __init__(self, proxies: Sequence[FakeProxy]) -> None:
        self.time = 1000.0
        self.proxies = proxies
        self.found = {proxy.address for proxy in proxies}
        self.names_fail = False
        self.known = Proxies(["llm:50053"], trust=None, look_up=self.look_up, now=lambda: self.time)
        self.models = GrpcModels(self.known, KEYRING.role_token(names.RUNNER))

    async def ranked(self, key: str) -> list[str]:
        """Return the addresses of proxies in the order in which they would be asked."""
        return [proxy.address for proxy in await self.known.ranked(key)]

    async def look_up(self, address: str) -> set[str]:
        if self.names_fail:
            raise OSError("no name server")
        return set(self.found)

    async def ask(self, key: str, models: GrpcModels | None = None) -> str:
        """Return which proxy answered."""
        answer = [delta.text async for delta in self.generate(key, models)]
        return "".join(answer)

    def generate(
        self, key: str, models: GrpcModels | None = None, timeout_s: float = 20
    ) -> AsyncGenerator[pb.Delta, None]:
        """Ask for an answer."""
        request = pb.GenerateRequest(idempotency_key=key)
        return (models or self.models).generate(request, token=TOKEN, traceparent="", timeout_s=timeout_s)

    def named(self, name: str) -> FakeProxy:
        """Return a proxy."""
        return next(proxy for proxy in self.proxies if proxy.name == name)


@asynccontextmanager
async def three_proxies() -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        proxies = [FakeProxy(name) for name in "abc"]
        for proxy in proxies:
            await proxy.start()
            stack.push_async_callback(proxy.die)
        mesh = Mesh(proxies)
        stack.push_async_callback(mesh.models.aclose)
        yield mesh


async def test_a_key_goes_to_the_same_proxy_from_every_runner_and_keys_spread() -> None:
    async with three_proxies() as mesh:
        other = GrpcModels(Proxies(["llm:1"], trust=None, look_up=mesh.look_up), KEYRING.role_token(names.RUNNER))
        first = [await mesh.ask(key) for key in KEYS]
        assert [await mesh.ask(key, other) for key in KEYS] == first
        assert set(first) == set("abc")
        await other.aclose()


async def test_only_the_keys_of_a_dead_proxy_move_and_each_finds_an_answer() -> None:
    async with three_proxies() as mesh:
        before = {key: await mesh.ask(key) for key in KEYS}
        await mesh.named("a").die()
        after = {key: await mesh.ask(key) for key in KEYS}
        moved = Counter(after[key] for key in KEYS if before[key] == "a")
        assert set(moved) == {"b", "c"}
        assert all(after[key] == before[key] for key in KEYS if before[key] != "a")


async def test_a_proxy_that_was_down_is_asked_last_for_a_while_and_then_again() -> None:
    async with three_proxies() as mesh:
        key = KEYS[0]
        chosen = mesh.named(await mesh.ask(key))
        await chosen.die()
        second = await mesh.ask(key)
        ranked = await mesh.ranked(key)
        assert ranked[0] == mesh.named(second).address
        assert ranked[-1] == chosen.address
        mesh.time += 6
        ranked = await mesh.ranked(key)
        assert ranked[0] == chosen.address


async def test_a_providers_error_is_the_answer_and_asks_nobody_else() -> None:
    async with three_proxies() as mesh:
        for proxy in mesh.proxies:
            proxy.error = Unavailable("the provider is away", reason="PROVIDER_UNAVAILABLE")
        with pytest.raises(Unavailable) as failed:
            await mesh.ask(KEYS[0])
        assert failed.value.reason == "PROVIDER_UNAVAILABLE"
        assert not isinstance(failed.value, Unreachable)
        assert sum(len(proxy.asked) for proxy in mesh.proxies) == 1


async def test_an_answer_that_breaks_off_is_not_begun_again_elsewhere_behind_the_agents_back() -> None:
    async with three_proxies() as mesh:
        for proxy in mesh.proxies:
            proxy.hold = True
        answer = mesh.generate(KEYS[0])
        chosen = mesh.named((await anext(answer)).text)
        await chosen.die()
        with pytest.raises(Unavailable):
            await anext(answer)
        assert sum(len(proxy.asked) for proxy in mesh.proxies) == 1


async def test_a_cancel_goes_where_the_call_went_and_else_where_it_would_go() -> None:
    async with three_proxies() as mesh:
        key = KEYS[0]
        chosen = mesh.named(await mesh.ask(key))
        await mesh.models.cancel(key, token=TOKEN)
        assert chosen.canceled == [key]
        await chosen.die()
        for proxy in mesh.proxies:
            proxy.hold = True
        answer = mesh.models.generate(
            pb.GenerateRequest(idempotency_key=key), token=TOKEN, traceparent="", timeout_s=20
        )
        went = mesh.named((await anext(answer)).text)
        await answer.aclose()
        mesh.time += 60  # so that the first would be chosen again
        await mesh.models.cancel(key, token=TOKEN)
        assert went.canceled == [key]


async def test_with_nobody_there_the_call_fails_as_unavailable() -> None:
    async with three_proxies() as mesh:
        await mesh.ask(KEYS[0])
        for proxy in mesh.proxies:
            await proxy.die()
        with pytest.raises(Unavailable):
            await mesh.ask(KEYS[0])
        await mesh.models.cancel(KEYS[0], token=TOKEN)  # which is no error


async def test_each_try_gets_only_the_time_that_is_left() -> None:
    async with three_proxies() as mesh:
        chosen = mesh.named(await mesh.ask(KEYS[0]))
        await chosen.die()
        (answer,) = [delta.text async for delta in mesh.generate(KEYS[0], timeout_s=7)]
        (left,) = mesh.named(answer).times
        assert left < 8, "gRPC rounds a deadline up"


async def test_proxies_come_and_go_with_what_the_name_stands_for_and_a_failed_look_up_changes_nothing() -> None:
    async with three_proxies() as mesh:
        await mesh.ask(KEYS[0])
        gone = mesh.proxies[0]
        mesh.found.discard(gone.address)
        mesh.names_fail = True
        mesh.time += 6
        await mesh.ask(KEYS[0])
        assert len(await mesh.ranked(KEYS[0])) == 3
        mesh.names_fail = False
        mesh.time += 6
        await mesh.ask(KEYS[0])
        assert gone.address not in await mesh.ranked(KEYS[0])
        answers = {await mesh.ask(key) for key in KEYS}
        assert answers == {proxy.name for proxy in mesh.proxies[1:]}


async def test_a_name_that_is_known_late_is_looked_up_again_at_the_next_call() -> None:
    async with three_proxies() as mesh:
        mesh.names_fail = True
        with pytest.raises(Unavailable) as failed:
            await mesh.ask(KEYS[0])
        assert failed.value.reason == "NO_LLM_PROXY"
        mesh.names_fail = False
        assert await mesh.ask(KEYS[0])
