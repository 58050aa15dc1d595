"""What the Compose file brings up works: its services as processes, with PostgreSQL and Redis, in its order."""

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agentmesh.client import Client
from agentmesh.kit import names
from tests.deploy.topology import Topology
from tests.support.postgres import Postgres
from tests.support.redis import RedisServer

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def topology(
    tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, redis_server: RedisServer
) -> Iterator[Topology]:
    """As after `docker compose up --scale agent-runner=2`."""
    folder = tmp_path_factory.mktemp("compose")
    with Topology(
        folder, database=postgres.new_database(), redis=redis_server.url(), replicas={"agent-runner": 2}
    ) as up:
        yield up


def test_services_start_after_what_they_wait_for(topology: Topology) -> None:
    order = topology.order
    assert order[0] == "migrate"
    assert order.index("storage") < order.index("agent-runner") < order.index("router") < order.index("gateway")
    (gateway,) = topology.containers["gateway"]
    gateway.daemon.until(lambda: topology.is_healthy(gateway), timeout_s=30)


def test_migrating_again_changes_nothing(topology: Topology) -> None:
    again = topology.run(topology.containers["migrate"][0], ["migrate", "up"])
    assert again.returncode == 0
    assert "done" not in again.stdout


def test_tasks_run_on_every_replica_of_the_runner(topology: Topology) -> None:
    with Client(topology.address("router"), token=topology.client_key) as client, ThreadPoolExecutor(4) as pool:
        ran = set(pool.map(_runner_of, [client] * 12))
    assert {name.rpartition(":")[2] for name in ran} == {str(one.port) for one in topology.containers["agent-runner"]}


def test_the_gateway_asks_for_the_clients_key_and_runs_tasks_and_models(topology: Topology) -> None:
    task = {"spec": {"agent": "echo", "prompt": "over HTTP"}}
    with pytest.raises(urllib.error.HTTPError, match="401"):
        _post(topology, "/v1/tasks", task, key="")
    assert _post(topology, "/v1/tasks", task, key=topology.client_key)["task"]["spec"] == task["spec"]
    turns = {"model": "offline", "messages": [{"role": "user", "content": "Rivers carry water."}]}
    answer = _post(topology, "/v1/chat/completions", turns, key=topology.client_key)
    assert "Rivers" in answer["choices"][0]["message"]["content"]


def test_a_replica_that_leaves_is_missed_by_nobody(topology: Topology) -> None:
    first, second = topology.containers["agent-runner"]
    with Client(topology.address("router"), token=topology.client_key) as client, ThreadPoolExecutor(4) as pool:
        running = [pool.submit(client.run, "echo", "slow", parameters={"count": 20, "delay_ms": 50}) for _ in range(4)]
        assert first.daemon.end(signal.SIGTERM, timeout_s=45) == 0
        assert {task.result(timeout=60).state_name for task in running} == {"COMPLETED"}
        assert _runner_of(client).endswith(str(second.port))


def test_everything_stops_within_its_grace_period_and_has_sent_its_traces(topology: Topology) -> None:
    assert set(topology.down().values()) == {0}
    assert {name.rpartition("agentmesh-")[2] for name in topology.traced} == set(names.ROLES)


def _runner_of(client: Client) -> str:
    """Run a task and return the runner that it ran on."""
    started = [event for event in client.stream("echo", "hi") if event.name == "attempt_started"]
    return str(started[-1].event.attempt_started.runner)


def _post(topology: Topology, path: str, body: object, *, key: str) -> Any:
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(
        f"http://{topology.address('gateway')}{path}", json.dumps(body).encode(), headers, method="POST"
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)
