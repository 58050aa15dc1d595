"""Who may call what: each real service, each of its methods, each wrong credential."""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc

import agentmesh_llm.app
import agentmesh_router.app
import agentmesh_runner.app
import agentmesh_storage.app
from agentmesh.kit import lifecycle, names, rpc_client
from agentmesh.kit.auth import Keyring, TaskClaims, scope_of
from agentmesh.kit.health import Health
from agentmesh.kit.rpc_server import build_server, listen
from agentmesh.kit.settings import ApiKey, Database, Security, Settings

KEYRING = Keyring("a secret for tests")
API_KEY = "a client's key"
BUILDS: dict[str, lifecycle.Build] = {
    names.ROUTER: agentmesh_router.app.build,
    names.RUNNER: agentmesh_runner.app.build,
    names.LLM: agentmesh_llm.app.build,
    names.STORAGE: agentmesh_storage.app.build,
}
INTERNAL = (names.RUNNER, names.LLM, names.STORAGE)
# Which roles may call which internal service; what else may not is refused.
MAY_CALL = {
    "agentmesh.api.runner.v1.RunnerService": {names.ROUTER},
    "agentmesh.api.llm.v1.LlmService": {names.ROUTER, names.RUNNER, names.GATEWAY, names.OPERATOR},
    "agentmesh.api.llm.v1.KeyService": {names.GATEWAY, names.OPERATOR},
    "agentmesh.api.storage.v1.TaskStoreService": {names.ROUTER},
    "agentmesh.api.storage.v1.ArtifactService": {names.ROUTER, names.RUNNER},
}
# Of a service that a role may call, what it may not.
BUT_NOT = {
    names.RUNNER: {"DeleteArtifact"},
    names.GATEWAY: {"CreateKey", "ListKeys", "RevokeKey"},
}
Metadata = tuple[tuple[str, str], ...]
_TRIES = 20


@dataclass
class Service:
    """A running service and how to call each of its methods with an empty message."""

    built: lifecycle.Built
    channel: grpc.aio.Channel

    @property
    def methods(self) -> list[MethodDescriptor]:
        return [method for descriptor, _, _ in self.built.services for method in descriptor.methods]

    async def refusal(self, method: MethodDescriptor, metadata: Metadata) -> grpc.StatusCode:
        """Call a method and return the code of its answer; OK if it answers or goes on."""
        for _ in range(_TRIES):
            code = await self._refusal(method, metadata)
            # gRPC's client itself says so when its write meets a stream that the answer has ended.
            if code is not grpc.StatusCode.INTERNAL:
                break
        return code

    async def _refusal(self, method: MethodDescriptor, metadata: Metadata) -> grpc.StatusCode:
        path = f"/{method.containing_service.full_name}/{method.name}"
        many = iter([b""]) if method.client_streaming else b""
        sides = ("unary", "stream")
        kind = f"{sides[method.client_streaming]}_{sides[method.server_streaming]}"
        call: Any = getattr(self.channel, kind)(path)(many, metadata=metadata, timeout=10)
        try:
            if not method.server_streaming:
                await call
            elif await call.read() is grpc.aio.EOF:
                code: grpc.StatusCode = await call.code()
                return code
        except grpc.aio.AioRpcError as error:
            return error.code()
        finally:
            call.cancel()
        return grpc.StatusCode.OK


@asynccontextmanager
async def running(
    role: str,
    folder: Path,
    *,
    authentication: bool = False,
    authorization: bool = True,
    scopes: Iterable[str] = ("read", "write", "models"),
) -> AsyncIterator[Service]:
    """Run a service as its own process would; `scopes` are those of the client's key."""
    digest = hashlib.sha256(API_KEY.encode()).hexdigest()
    key = ApiKey.model_validate({"sha256": digest, "tenant": "acme", "scopes": list(scopes)})
    settings = Settings(
        data_dir=folder,
        database=Database(create_tables=True),
        security=Security(authentication=authentication, authorization=authorization, api_keys=(key,)),
    )
    async with AsyncExitStack() as stack:
        built = await BUILDS[role](settings, KEYRING, stack)
        server = build_server(lifecycle.authenticator_of(settings, KEYRING), built.services)
        health = Health([descriptor.full_name for descriptor, _, _ in built.services], {})
        await health.add_to(server)
        await health.refresh()
        address = f"127.0.0.1:{listen(server, '127.0.0.1:0')}"
        await server.start()
        stack.push_async_callback(server.stop, 0)
        channel = await stack.enter_async_context(rpc_client.open_channel(address))
        yield Service(built, channel)


@pytest.fixture(params=INTERNAL)
async def internal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async with running(request.param, tmp_path) as service:
        yield service


def shows(role: str, task_token: str = "", keyring: Keyring = KEYRING) -> Metadata:
    token = ((names.TASK_TOKEN, task_token),) if task_token else ()
    return (*rpc_client.bearer(keyring.role_token(role)), *token)


def task_token(keyring: Keyring = KEYRING, *, left_s: float = 60) -> str:
    return keyring.sign(TaskClaims("acme", "task-1", 1, time.time() + left_s))


def forged_claims() -> str:
    body = task_token().partition(".")[0]
    return f"{body}.{task_token(left_s=61).partition('.')[2]}"


WITHOUT_PROOF: dict[str, Metadata] = {
    "nothing": (),
    "empty": ((names.AUTHORIZATION, ""),),
    "an api key": rpc_client.bearer(API_KEY),
    "a made-up token": rpc_client.bearer("router.00ff"),
    "the token of another mesh": shows(names.ROUTER, keyring=Keyring("another secret")),
    "a role that is none": rpc_client.bearer("admin." + KEYRING.role_token(names.ROUTER).partition(".")[2]),
    "only a task token": ((names.TASK_TOKEN, task_token()),),
}


@pytest.mark.parametrize("metadata", WITHOUT_PROOF.values(), ids=WITHOUT_PROOF.keys())
async def test_an_internal_service_refuses_whoever_does_not_prove_a_role(internal: Service, metadata: Metadata) -> None:
    for method in internal.methods:
        code = await internal.refusal(method, metadata)
        assert code is grpc.StatusCode.UNAUTHENTICATED, method.full_name


async def test_an_internal_service_refuses_every_role_that_has_no_business_there(internal: Service) -> None:
    for method in internal.methods:
        for role in {*names.ROLES, names.OPERATOR} - MAY_CALL[method.containing_service.full_name]:
            code = await internal.refusal(method, shows(role, task_token()))
            assert code is grpc.StatusCode.PERMISSION_DENIED, (method.full_name, role)


BAD_TASK_TOKENS: dict[str, Callable[[], str]] = {
    "none": lambda: "",
    "expired": lambda: task_token(left_s=-1),
    "signed by another mesh": lambda: task_token(Keyring("another secret")),
    "claims of one and signature of another": forged_claims,
    "garbage": lambda: "x",
    "unsigned": lambda: task_token().partition(".")[0] + ".",
}


@pytest.mark.parametrize("make", BAD_TASK_TOKENS.values(), ids=BAD_TASK_TOKENS.keys())
async def test_a_runner_without_a_good_task_token_is_refused(internal: Service, make: Callable[[], str]) -> None:
    for method in internal.methods:
        if names.RUNNER in MAY_CALL[method.containing_service.full_name]:
            code = await internal.refusal(method, shows(names.RUNNER, make()))
            assert code is grpc.StatusCode.UNAUTHENTICATED, method.full_name


async def test_whoever_may_call_gets_past_the_door(internal: Service) -> None:
    closed = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    for method in internal.methods:
        if method.server_streaming:
            continue  # some of them never end
        for role in MAY_CALL[method.containing_service.full_name]:
            code = await internal.refusal(method, shows(role, task_token()))
            refused = code in closed
            assert refused == (method.name in BUT_NOT.get(role, ())), (method.full_name, role)


async def test_an_attempt_may_not_delete_artifacts(tmp_path: Path) -> None:
    async with running(names.STORAGE, tmp_path) as storage:
        (delete,) = [method for method in storage.methods if method.name == "DeleteArtifact"]
        code = await storage.refusal(delete, shows(names.RUNNER, task_token()))
        assert code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("role", BUILDS)
async def test_health_is_open_to_everyone(role: str, tmp_path: Path) -> None:
    async with running(role, tmp_path, authentication=True) as service:
        stub: Any = health_pb2_grpc.HealthStub(service.channel)
        for name in ("", *{method.containing_service.full_name for method in service.methods}):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_public_methods_demand_a_known_key_where_authentication_is_on(tmp_path: Path) -> None:
    wrong: tuple[Metadata, ...] = ((), rpc_client.bearer("another key"), shows(names.ROUTER), shows(names.GATEWAY))
    async with running(names.ROUTER, tmp_path, authentication=True) as router:
        assert len(router.methods) > 10
        for method in router.methods:
            for metadata in wrong:
                code = await router.refusal(method, metadata)
                assert code is grpc.StatusCode.UNAUTHENTICATED, method.full_name
        (known,) = [method for method in router.methods if method.name == "ListAgents"]
        assert await router.refusal(known, rpc_client.bearer(API_KEY)) is grpc.StatusCode.OK


SEEING = {
    *("GetTask", "ListTasks", "WatchTask", "GetAgent", "ListAgents"),
    *("GetArtifact", "ListArtifacts", "ReadArtifact"),
    *("GetSchedule", "ListSchedules"),
}


async def test_a_key_opens_the_methods_of_its_scopes_and_no_others(tmp_path: Path) -> None:
    async with running(names.ROUTER, tmp_path, authentication=True, scopes=["models"]) as router:
        for method in router.methods:
            assert scope_of(method.name) == ("read" if method.name in SEEING else "write")
            assert await router.refusal(method, rpc_client.bearer(API_KEY)) is grpc.StatusCode.PERMISSION_DENIED
    for scopes, seen, submitted in (
        (["read"], grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED),
        (["write"], grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        async with running(names.ROUTER, tmp_path, authentication=True, scopes=scopes) as router:
            methods = {method.name: method for method in router.methods}
            assert await router.refusal(methods["ListAgents"], rpc_client.bearer(API_KEY)) is seen
            assert await router.refusal(methods["SubmitTask"], rpc_client.bearer(API_KEY)) is submitted


async def test_scopes_mean_nothing_where_authorization_is_off(tmp_path: Path) -> None:
    async with running(names.ROUTER, tmp_path, authentication=True, authorization=False, scopes=["models"]) as router:
        (known,) = [method for method in router.methods if method.name == "ListAgents"]
        assert await router.refusal(known, rpc_client.bearer(API_KEY)) is grpc.StatusCode.OK


async def test_public_methods_need_no_key_where_authentication_is_off(tmp_path: Path) -> None:
    async with running(names.ROUTER, tmp_path) as router:
        (known,) = [method for method in router.methods if method.name == "ListAgents"]
        assert await router.refusal(known, ()) is grpc.StatusCode.OK
