"""What `agentmesh up` starts again, and when it does not; and a service whose dependencies nobody asks."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.mesh import Mesh
from tests.support.ports import free_ports, give_back

AGENT = """
from agentmesh.sdk import TaskContext, agent

@agent("greeter", description="Greets.", inline=True)
async def greeter(ctx: TaskContext) -> str:
    return "{word}"
"""


def reloading(mesh: Mesh) -> list[str]:
    return [event["service"] for event in mesh.events if event["event"] == "reloading"]


def test_hot_reload_and_api_reload_start_again_what_a_change_touches(tmp_path: Path) -> None:
    agents, file = tmp_path / "agents.py", tmp_path / "mesh.yaml"
    agents.write_text(AGENT.format(word="hello"))
    development = {"hot_reload": True, "database": {"create_tables": True}, "api": {"reload": True}}
    file.write_text(json.dumps({"environment": "development", "development": development}))
    reload = {"AGENTMESH_HOT_RELOAD": "true", "AGENTMESH_API__RELOAD": "true"}
    arguments = ["--agents", str(agents), "--config", str(file)]
    with Mesh(tmp_path / "data", environment=reload, arguments=arguments) as mesh:
        agents.write_text(AGENT.format(word="good morning"))
        mesh.wait_for(lambda: mesh.restarts("runner") == 1, 20)
        assert reloading(mesh) == ["runner"]
        file.write_text(file.read_text() + "\n")
        mesh.wait_for(lambda: mesh.restarts("gateway") == 1, 20)
        assert reloading(mesh) == ["runner", "gateway"]


def test_nothing_is_started_again_for_a_change_where_reloading_is_off(tmp_path: Path) -> None:
    agents = tmp_path / "agents.py"
    agents.write_text(AGENT.format(word="hello"))
    with Mesh(tmp_path / "data", arguments=["--agents", str(agents)]) as mesh:
        agents.write_text(AGENT.format(word="good morning"))
        time.sleep(1.5)  # three looks of the watcher that is not there
        assert not reloading(mesh)


@pytest.mark.parametrize("on", [True, False])
def test_a_service_that_dies_is_started_again_only_if_auto_restart_is_on(tmp_path: Path, on: bool) -> None:
    with Mesh(tmp_path / "data", environment={"AGENTMESH_AUTO_RESTART": str(on).lower()}) as mesh:
        os.kill(mesh.pid_of("llm"), signal.SIGKILL)
        if on:
            mesh.wait_for(lambda: mesh.restarts("llm") == 1, 20)
            return
        assert mesh.wait(20) == 1
        assert "llm ended with code -9" in mesh.errors()


@pytest.mark.parametrize("on", [True, False])
def test_dependencies_are_asked_and_what_alerts_need_is_measured_only_if_monitoring_says_so(
    tmp_path: Path, on: bool
) -> None:
    port = free_ports()
    variables = {
        "AGENTMESH_DATA_DIR": str(tmp_path),
        "AGENTMESH_LOGGING__CONSOLE": "false",
        "AGENTMESH_SERVICES__ROUTER__ADDRESS": "127.0.0.1:1",
        "AGENTMESH_SERVICES__GATEWAY__METRICS_PORT": str(port + 1),
        "AGENTMESH_SERVICES__GATEWAY__HEALTH_PORT": str(port + 2),
        "AGENTMESH_MONITORING__HEALTH_CHECKS": str(on).lower(),
        "AGENTMESH_MONITORING__ALERTS": str(on).lower(),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "agentmesh", "serve", "gateway", "--port", str(port)], env={**os.environ, **variables}
    )
    try:
        assert _status(f"http://127.0.0.1:{port}/health/ready") == (503 if on else 200)
        with grpc.insecure_channel(f"127.0.0.1:{port + 2}") as channel:
            statuses = health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest(), timeout=10).statuses
        serving = health_pb2.HealthCheckResponse.SERVING
        assert (statuses[""].status == serving) is not on
        assert ("dependency.router" in statuses) is on
        with urllib.request.urlopen(f"http://127.0.0.1:{port + 1}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        assert ("agentmesh_disk_bytes 0.0" in page) is not on
        assert ("agentmesh_memory_limit_bytes 0.0" in page) is not on
    finally:
        process.kill()
        process.wait()
        give_back(port)


def test_a_storage_that_waits_for_its_database_still_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    variables = {
        "AGENTMESH_DATA_DIR": str(tmp_path),
        "AGENTMESH_SERVICES__STORAGE__METRICS_PORT": "0",
        "DATABASE_URL": "postgresql://mesh@127.0.0.1:1/mesh",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "agentmesh", "serve", "storage", "--port", "0"],
        env={**os.environ, **variables},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        while "database_not_reached" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        process.stderr.close()
    finally:
        process.kill()
        process.wait()


def _status(url: str) -> int:
    end = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
