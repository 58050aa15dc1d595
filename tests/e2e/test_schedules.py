"""Schedules over a real mesh: by the client, over HTTP and by the command; and what a restart costs."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentmesh.api.schedule.v1 import schedule_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.client import AsyncClient, Client
from agentmesh.kit.errors import AlreadyExists, InvalidRequest, NotFound
from tests.e2e.test_command import agentmesh
from tests.support.mesh import Mesh


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[AsyncClient]:
    """A client of the mesh."""
    async with AsyncClient(mesh.router) as made:
        yield made


async def made_by(client: AsyncClient, schedule_id: str) -> list[task_pb2.Task]:
    """Return the tasks of a schedule, oldest first."""
    return list((await client.list(schedule_id=schedule_id, page_size=1000)).tasks)[::-1]


async def until(holds: Callable[[list[task_pb2.Task]], bool], client: AsyncClient, schedule_id: str) -> None:
    """Read a schedule's tasks until something holds."""
    async with asyncio.timeout(40):
        while not holds(await made_by(client, schedule_id)):
            await asyncio.sleep(0.1)


def due_of(task: task_pb2.Task) -> int:
    """Return when a firing was due, in milliseconds: its task's id begins with it."""
    return int(task.id.replace("-", "")[:12], 16)


async def test_a_schedule_of_every_second_runs_tasks_until_it_is_paused(client: AsyncClient) -> None:
    schedule = await client.create_schedule(
        "echo", "tick", every_s=1, overlap="allow", name="ticker", labels={"suite": "schedules"}
    )
    await until(lambda tasks: sum(task.result.text == "tick" for task in tasks) >= 3, client, schedule.id)
    paused = await client.pause_schedule(schedule.id)
    assert paused.paused
    assert not paused.HasField("next_time")
    tasks = await made_by(client, schedule.id)
    created = schedule.create_time.ToMilliseconds()
    assert [due_of(task) - created for task in tasks] == [1000 * n for n in range(1, len(tasks) + 1)]
    assert (paused.fired, paused.skipped, paused.missed) == (len(tasks), 0, 0)
    assert paused.last_task_id == tasks[-1].id
    assert {(task.schedule_id, task.spec.labels["suite"]) for task in tasks} == {(schedule.id, "schedules")}
    once = await client.run_schedule(schedule.id, request_id="by hand")
    assert (await client.run_schedule(schedule.id, request_id="by hand")).id == once.id
    assert (await client.result(once.id)).text == "tick"
    resumed = await client.resume_schedule(schedule.id)
    assert resumed.next_time.ToMilliseconds() > paused.last_time.ToMilliseconds()
    await client.delete_schedule(schedule.id)
    with pytest.raises(NotFound):
        await client.schedule(schedule.id)
    assert len(await made_by(client, schedule.id)) >= len(tasks) + 1


async def test_a_canceled_earlier_task_stops_and_the_new_one_runs(client: AsyncClient) -> None:
    schedule = await client.create_schedule("sleeper", "x", every_s=2, overlap="cancel")
    await until(lambda tasks: len(tasks) >= 2, client, schedule.id)
    first = (await made_by(client, schedule.id))[0]
    assert (await client.result(first.id)).state_name == "CANCELED"
    await client.delete_schedule(schedule.id)


async def test_one_request_id_is_one_schedule(client: AsyncClient) -> None:
    first = await client.create_schedule("echo", "x", cron="0 0 1 1 *", request_id="once")
    assert await client.create_schedule("echo", "x", cron="0 0 1 1 *", request_id="once") == first
    with pytest.raises(AlreadyExists):
        await client.create_schedule("echo", "y", cron="0 0 1 1 *", request_id="once")
    await client.delete_schedule(first.id)


async def test_every_wrong_field_is_named_with_those_of_the_task(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await client.create_schedule(
            "echo", "", cron="61 * * * *", catch_up_s=-1, priority=11, start_time=datetime(2030, 1, 1, tzinfo=UTC)
        )
    assert [field for field, _ in refused.value.violations] == [
        "spec.catch_up",
        "spec.task.start_time",
        "spec.cron",
        "spec.task.prompt",
        "spec.task.priority",
    ]
    with pytest.raises(InvalidRequest) as refused:
        await client.create_schedule("echo", "x", cron="0 0 * * *", parameters={"count": "many"})
    assert refused.value.reason == "PARAMETERS_INVALID"
    assert [field for field, _ in refused.value.violations] == ["spec.task.parameters.count"]
    with pytest.raises(InvalidRequest) as refused:
        await client.create_schedule("nobody", "x", every_s=0.5)
    assert [field for field, _ in refused.value.violations] == ["spec.interval", "spec.task.agent"]


@pytest.mark.parametrize("schedule_id", ["", "x", "../x", "019bb3c4-0000-7000-8000-000000000000"])
async def test_a_schedule_that_is_not_there_is_not_found(client: AsyncClient, schedule_id: str) -> None:
    for method in (client.schedule, client.pause_schedule, client.resume_schedule, client.run_schedule):
        with pytest.raises(NotFound):
            await method(schedule_id)
    with pytest.raises(NotFound):
        await client.delete_schedule(schedule_id)


def test_the_client_without_asyncio_has_the_same_calls(mesh: Mesh) -> None:
    with Client(mesh.router) as client:
        schedule = client.create_schedule("echo", "x", cron="0 9 * * *", time_zone="Europe/Berlin", catch_up_s=0)
        assert client.schedule(schedule.id) == schedule
        assert schedule.id in [one.id for one in client.schedules(page_size=1000).schedules]
        assert client.pause_schedule(schedule.id).paused
        assert not client.resume_schedule(schedule.id).paused
        task = client.run_schedule(schedule.id)
        assert [one.id for one in client.list(schedule_id=schedule.id).tasks] == [task.id]
        client.delete_schedule(schedule.id)
        with pytest.raises(NotFound):
            client.delete_schedule(schedule.id)


def test_schedules_work_over_http(mesh: Mesh) -> None:
    with httpx.Client(base_url=f"http://{mesh.address('gateway')}", timeout=20) as http:
        task = {"agent": "echo", "prompt": "over http"}
        spec = {
            "name": "by curl",
            "cron": "*/5 * * * *",
            "timeZone": "UTC",
            "overlap": "OVERLAP_POLICY_QUEUE",
            "task": task,
        }
        made = http.post("/v1/schedules", json={"spec": spec})
        assert made.status_code == 200, made.text
        schedule = made.json()["schedule"]
        path = f"/v1/schedules/{schedule['id']}"
        assert http.get(path).json()["schedule"] == schedule
        assert schedule in http.get("/v1/schedules", params={"pageSize": 1000}).json()["schedules"]
        assert http.post(f"{path}:pause", json={}).json()["schedule"]["paused"]
        assert "paused" not in http.post(f"{path}:pause", json={"resume": True}).json()["schedule"]
        ran = http.post(f"{path}:run", json={"requestId": "r"}).json()["task"]
        listed = http.get("/v1/tasks", params={"scheduleId": schedule["id"]}).json()["tasks"]
        assert [one["id"] for one in listed] == [ran["id"]]
        assert http.delete(path).json() == {}
        assert http.get(path).status_code == 404
        assert http.delete(path).status_code == 404
        wrong = http.post("/v1/schedules", json={"spec": {"cron": "x", "task": task}}).json()["error"]
        assert "spec.cron" in json.dumps(wrong)
        assert http.get("/v1/schedules", params={"pageToken": "x"}).status_code == 400
        paths = http.get("/openapi.json").json()["paths"]
        assert set(paths["/v1/schedules"]) == {"get", "post"}
        assert set(paths["/v1/schedules/{schedule_id}"]) == {"get", "delete"}


# -- the command --------------------------------------------------------------------------------------------


def done(mesh: Mesh, *arguments: str) -> Any:
    """Run `agentmesh schedules … --json` and return what it says."""
    ran = agentmesh(mesh, "schedules", *arguments, "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_the_command_makes_shows_steers_and_deletes_a_schedule(mesh: Mesh) -> None:
    created = agentmesh(
        mesh, "schedules", "create", "echo", "good morning", "--cron", "0 9 * * MON-FRI",
        "--time-zone", "Europe/Berlin", "--overlap", "queue", "--catch-up", "1h", "--name", "morning",
        "--param", "count=1", "--label", "team=a",
    )  # fmt: skip
    assert created.returncode == 0, created.stderr
    schedule_id = created.stdout.strip()
    assert f"agentmesh schedules show {schedule_id}" in created.stderr
    spec = done(mesh, "show", schedule_id)["spec"]
    assert (spec["catchUp"], spec["task"]["parameters"], spec["task"]["labels"]) == (
        "3600s",
        {"count": 1},
        {"team": "a"},
    )
    shown = agentmesh(mesh, "schedules", "show", schedule_id).stdout
    assert "0 9 * * MON-FRI (Europe/Berlin)" in shown
    assert sum(" 09:00:00 CE" in line for line in shown.splitlines()) == 5
    listed = agentmesh(mesh, "schedules", "list").stdout
    assert any(schedule_id in line and "morning" in line for line in listed.splitlines())
    assert done(mesh, "pause", schedule_id)["paused"]
    assert "paused" in agentmesh(mesh, "schedules", "list").stdout
    assert "paused" not in done(mesh, "resume", schedule_id)
    task = agentmesh(mesh, "schedules", "run", schedule_id).stdout.strip()
    assert task in agentmesh(mesh, "tasks", "list", "--schedule", schedule_id).stdout
    assert f"schedule:     {schedule_id}" in agentmesh(mesh, "tasks", "get", task).stdout
    assert agentmesh(mesh, "schedules", "delete", schedule_id).stdout == f"{schedule_id} deleted\n"
    gone = agentmesh(mesh, "schedules", "show", schedule_id)
    assert (gone.returncode, "no such schedule" in gone.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "echo", "x"), "--cron or --every"),
        (("create", "echo", "x", "--cron", "* * * * *", "--every", "1m"), "--cron or --every"),
        (("create", "echo", "x", "--every", "soon"), "is no duration"),
        (("create", "echo", "x", "--every", "0.5s"), "spec.interval"),
        (("create", "echo", "x", "--cron", "nonsense"), "spec.cron"),
        (("create", "echo", "x", "--cron", "0 0 * * *", "--time-zone", "Mars"), "spec.time_zone"),
        (("create", "echo", "x", "--cron", "0 0 * * *", "--overlap", "maybe"), "--overlap"),
        (("create", "nobody", "x", "--cron", "0 0 * * *"), "spec.task.agent"),
        (("create", "echo", "x", "--every", "1m", "--until", "2020-01-01"), "spec.end_time"),
        (("show",), "Missing argument"),
    ],
)
def test_what_is_wrong_is_exit_2_and_named(mesh: Mesh, arguments: tuple[str, ...], said: str) -> None:
    ran = agentmesh(mesh, "schedules", *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


# -- restarts -----------------------------------------------------------------------------------------------


async def test_no_firing_is_doubled_or_lost_when_storage_is_killed(tmp_path: Path) -> None:
    with Mesh(tmp_path) as mesh:
        async with AsyncClient(mesh.router) as client:
            schedule = await client.create_schedule("echo", "tick", every_s=1, overlap="allow", catch_up_s=60)
            for kill in range(2):
                await until(lambda tasks, least=2 * kill + 2: len(tasks) >= least, client, schedule.id)  # type: ignore[misc]
                await asyncio.to_thread(mesh.kill, "storage")
            killed_ms = time.time_ns() // 1_000_000
            await until(lambda tasks: bool(tasks) and due_of(tasks[-1]) > killed_ms, client, schedule.id)
            ended = await client.pause_schedule(schedule.id)
            tasks = await made_by(client, schedule.id)
            created = schedule.create_time.ToMilliseconds()
            assert [due_of(task) for task in tasks] == [created + 1000 * n for n in range(1, len(tasks) + 1)]
            assert counts(ended) == (len(tasks), 0, 0)
            for task in tasks:
                assert (await client.result(task.id)).text == "tick"


def counts(schedule: pb.Schedule) -> tuple[int, int, int]:
    """Return what a schedule has fired, skipped and missed."""
    return schedule.fired, schedule.skipped, schedule.missed
