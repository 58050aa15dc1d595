"""Any process of the mesh may be killed at any time: the task ends, and a resumed reader sees each event once."""

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.mesh import Mesh
from tests.support.reading import Log, echo, read_through, until_seen

COMPLETED = 3


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One mesh for the tests of this file; each kill is healed before the next test."""
    with Mesh(tmp_path_factory.mktemp("mesh")) as running:
        yield running


async def _kill_while_reading(mesh: Mesh, service: str, spec_count: int, **parameters: object) -> Log:
    seen: asyncio.Queue[int] = asyncio.Queue()
    spec = echo(count=spec_count, delay_ms=20, **parameters)
    reading = asyncio.create_task(read_through(mesh.router, spec, str(uuid.uuid4()), seen=seen))
    await until_seen(reading, seen, spec_count // 3)
    await asyncio.to_thread(mesh.kill, service)
    return await asyncio.wait_for(reading, 40)


@pytest.mark.parametrize("service", ["runner", "router", "storage", "llm"])
async def test_a_killed_service_costs_no_event_and_doubles_none(mesh: Mesh, service: str) -> None:
    log = await _kill_while_reading(mesh, service, 60)
    assert log.state == COMPLETED
    assert log.messages() == ["hello"] * 60


async def test_killing_the_router_starts_no_second_attempt(mesh: Mesh) -> None:
    log = await _kill_while_reading(mesh, "router", 60)
    assert log.reconnects > 0
    assert log.attempts == [1]
    assert log.messages(folded=False) == ["hello"] * 60


async def test_a_killed_storage_starts_no_second_attempt(mesh: Mesh) -> None:
    log = await _kill_while_reading(mesh, "storage", 60)
    assert log.attempts == [1]


async def test_journaled_messages_are_said_once_even_unfolded(mesh: Mesh) -> None:
    log = await _kill_while_reading(mesh, "runner", 60, steps=True)
    assert log.attempts == [1, 2]
    assert log.messages(folded=False) == ["hello"] * 60


async def test_a_killed_runner_is_folded_to_one_telling(mesh: Mesh) -> None:
    log = await _kill_while_reading(mesh, "runner", 60)
    assert log.attempts == [1, 2]
    assert len(log.messages(folded=False)) > 60
    assert log.messages() == ["hello"] * 60


def test_killing_the_supervisor_leaves_no_process(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    mesh.start()
    family = mesh.processes()
    assert len(family) >= 6
    os.kill(mesh.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=10)
    mesh.close()
    assert alive == []


def test_sigterm_drains_and_exits_0(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    mesh.start()
    family = mesh.processes()
    code = mesh.stop()
    _, alive = psutil.wait_procs(family, timeout=5)
    mesh.close()
    assert code == 0
    assert alive == []


def test_a_second_mesh_on_the_same_data_folder_is_refused(mesh: Mesh) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "agentmesh", "up", "--data-dir", str(mesh.data_dir), "--ports-from", "32100"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert "in use by another mesh" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_port_in_use_is_named(mesh: Mesh, tmp_path: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "agentmesh", "up", "--data-dir", str(tmp_path), "--ports-from", str(mesh.first_port)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert "port is in use" in second.stderr
    assert "--ports-from" in second.stderr
