"""The mesh as generic gRPC tools see it: nothing but an address, and reflection for the rest."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.go_tools import go_tool
from tests.support.mesh import Mesh

# The first test pays for the build of grpcurl.
pytestmark = pytest.mark.timeout(300)

PUBLIC = {
    "agentmesh.api.artifact.v1.ArtifactService",
    "agentmesh.api.schedule.v1.ScheduleService",
    "agentmesh.api.task.v1.TaskService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
TASKS = "agentmesh.api.task.v1.TaskService"


@dataclass
class Answer:
    """What a tool printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The JSON objects on stdout."""
        found: list[dict[str, Any]] = []
        rest = self.out.lstrip()
        while rest:
            message, end = json.JSONDecoder().raw_decode(rest)
            found.append(message)
            rest = rest[end:].lstrip()
        return found


def run(*command: str | Path) -> Answer:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=30, check=False)
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh that nobody kills."""
    with Mesh(tmp_path_factory.mktemp("mesh")) as running:
        yield running


@pytest.fixture(scope="module")
def grpcurl() -> Path:
    return go_tool("github.com/fullstorydev/grpcurl/cmd/grpcurl", "v1.9.3")


@pytest.fixture(scope="module")
def buf() -> Path:
    return Path(sys.executable).parent / "buf"


def _request(**parameters: int) -> str:
    return json.dumps({"spec": {"agent": "echo", "prompt": "hello", "parameters": parameters}})


def test_grpcurl_lists_the_public_services_and_no_others(mesh: Mesh, grpcurl: Path) -> None:
    assert set(run(grpcurl, "-plaintext", mesh.router, "list").out.split()) == PUBLIC


def test_grpcurl_describes_methods_with_their_http_routes(mesh: Mesh, grpcurl: Path) -> None:
    described = run(grpcurl, "-plaintext", mesh.router, "describe", TASKS).out
    assert "rpc StreamTask ( .agentmesh.api.task.v1.StreamTaskRequest )" in described
    assert 'option (.google.api.http) = { post: "/v1/tasks", body: "*" };' in described


def test_grpcurl_streams_a_task_and_gets_it(mesh: Mesh, grpcurl: Path) -> None:
    streamed = run(grpcurl, "-plaintext", "-d", _request(count=3), mesh.router, f"{TASKS}/StreamTask")
    chunks = [chunk for message in streamed.messages for chunk in message["chunks"]]
    events = [event for chunk in chunks for event in chunk["events"]]
    assert [event["message"]["parts"] for event in events if "message" in event] == [[{"text": "hello"}]] * 3
    assert events[-1]["state_changed"]["state"] == "TASK_STATE_COMPLETED"
    body = json.dumps({"task_id": chunks[0]["task_id"]})
    (got,) = run(grpcurl, "-plaintext", "-d", body, mesh.router, f"{TASKS}/GetTask").messages
    assert got["task"]["state"] == "TASK_STATE_COMPLETED"
    assert got["task"]["last_sequence"] == str(len(events))


def test_grpcurl_shows_what_is_wrong_with_a_request(mesh: Mesh, grpcurl: Path) -> None:
    body = json.dumps({"spec": {"agent": "nobody", "prompt": "hello", "priority": 99}})
    refused = run(grpcurl, "-plaintext", "-d", body, mesh.router, f"{TASKS}/SubmitTask")
    assert refused.code != 0
    assert "Code: InvalidArgument" in refused.err
    assert '"@type": "type.googleapis.com/google.rpc.ErrorInfo"' in refused.err
    assert '"field": "spec.priority"' in refused.err


@pytest.mark.parametrize("service", ["router", "runner", "llm", "storage"])
def test_grpcurl_gets_health_of_every_service_without_a_credential(mesh: Mesh, grpcurl: Path, service: str) -> None:
    answer = run(grpcurl, "-plaintext", mesh.address(service), "grpc.health.v1.Health/Check")
    assert answer.messages == [{"status": "SERVING"}]


def test_health_knows_a_service_by_its_name(mesh: Mesh, grpcurl: Path) -> None:
    health = "grpc.health.v1.Health/Check"
    named = run(grpcurl, "-plaintext", "-d", json.dumps({"service": TASKS}), mesh.router, health)
    assert named.messages == [{"status": "SERVING"}]
    unknown = run(grpcurl, "-plaintext", "-d", '{"service": "nothing"}', mesh.router, health)
    assert "Code: NotFound" in unknown.err


@pytest.mark.parametrize(
    ("service", "method"),
    [
        ("storage", "agentmesh.api.storage.v1.TaskStoreService/ListTasks"),
        ("storage", "agentmesh.api.storage.v1.ArtifactService/GetArtifact"),
        ("runner", "agentmesh.api.runner.v1.RunnerService/ListAgents"),
        ("llm", "agentmesh.api.llm.v1.LlmService/ListModels"),
    ],
)
@pytest.mark.parametrize("headers", [(), ("-H", "authorization: Bearer guessed")])
def test_internal_services_refuse_whoever_is_not_of_the_mesh(
    mesh: Mesh, grpcurl: Path, service: str, method: str, headers: tuple[str, ...]
) -> None:
    refused = run(grpcurl, "-plaintext", *headers, mesh.address(service), method)
    assert refused.code != 0
    assert refused.out == ""
    assert "Code: Unauthenticated" in refused.err


def test_buf_curl_lists_services_and_runs_a_task(mesh: Mesh, buf: Path) -> None:
    plain = ("--protocol", "grpc", "--http2-prior-knowledge")
    listed = run(buf, "curl", *plain, "--list-services", f"http://{mesh.router}")
    assert set(listed.out.split()) == PUBLIC
    streamed = run(buf, "curl", *plain, "-d", _request(count=2), f"http://{mesh.router}/{TASKS}/StreamTask")
    events = [event for message in streamed.messages for chunk in message["chunks"] for event in chunk["events"]]
    assert sum("message" in event for event in events) == 2
    assert events[-1]["stateChanged"]["state"] == "TASK_STATE_COMPLETED"


def test_buf_curl_shows_the_code_and_details_of_an_error(mesh: Mesh, buf: Path) -> None:
    plain = ("--protocol", "grpc", "--http2-prior-knowledge")
    refused = run(buf, "curl", *plain, "-d", '{"taskId": "nothing"}', f"http://{mesh.router}/{TASKS}/GetTask")
    assert refused.code != 0
    error = json.loads(refused.err)
    assert error["code"] == "not_found"
    assert error["details"][0]["type"] == "google.rpc.ErrorInfo"
