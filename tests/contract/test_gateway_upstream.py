"""A router that is gone costs nobody a read, and a change is never asked for twice."""

import pytest
from google.protobuf.message import Message

from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.kit.auth import Authenticator, Keyring
from agentmesh.kit.errors import Unavailable
from agentmesh.kit.rpc_server import build_server, listen
from agentmesh_gateway.upstream import Upstream
from tests.unit.gateway.fake_router import FakeArtifacts, FakeTasks, services_of

METHODS = pb.DESCRIPTOR.services_by_name["TaskService"].methods_by_name


async def test_reads_go_to_another_router_when_one_is_gone_and_changes_do_not() -> None:
    tasks = FakeTasks(), FakeTasks()
    servers = [
        build_server(Authenticator(Keyring("s"), anonymous=True), services_of(one, FakeArtifacts())) for one in tasks
    ]
    addresses = [f"127.0.0.1:{listen(server, '127.0.0.1:0')}" for server in servers]
    for server in servers:
        await server.start()
    reading, changing = (Upstream(addresses, trust=None, max_channels=8) for _ in range(2))

    async def call(upstream: Upstream, name: str, request: Message) -> Message:
        answer: Message = await upstream.unary(METHODS[name], request, timeout_s=5, metadata=())
        return answer

    for upstream in (reading, changing):
        await call(upstream, "ListAgents", pb.ListAgentsRequest())
    await servers[0].stop(None)  # the one that is asked first
    for _ in range(20):
        await call(reading, "ListAgents", pb.ListAgentsRequest())
    with pytest.raises(Unavailable):
        await call(changing, "CancelTask", pb.CancelTaskRequest(task_id="t"))
    assert not [request for request in tasks[1].requests if isinstance(request, pb.CancelTaskRequest)]
    await servers[1].stop(None)
    with pytest.raises(Unavailable):
        await call(reading, "ListAgents", pb.ListAgentsRequest())
    for upstream in (reading, changing):
        await upstream.aclose()
