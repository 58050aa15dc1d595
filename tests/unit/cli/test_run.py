"""`agentmesh run` and `tasks`: what is printed where, and the exit code, against a scripted mesh."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentmesh.api.task.v1 import events_pb2
from agentmesh.cli.agents import agents
from agentmesh.cli.following import exit_code_for
from agentmesh.cli.run import run
from agentmesh.cli.tasks import tasks
from agentmesh.kit.errors import Unavailable
from tests.support.fake_mesh import FakeMesh, mesh_at, state


async def invoke(command: object, *arguments: str, stdin: str | None = None) -> Result:
    """Run a command in a thread, beside the mesh."""
    runner = CliRunner()
    return await asyncio.to_thread(runner.invoke, command, arguments, stdin)  # type: ignore[arg-type]


@pytest.fixture
def mesh() -> FakeMesh:
    """A scripted mesh."""
    return FakeMesh()


@pytest.fixture
async def address(mesh: FakeMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Serve the mesh; the working directory is a fresh folder."""
    monkeypatch.chdir(tmp_path)
    async with mesh_at(mesh) as found:
        yield found


async def test_answer_is_alone_on_standard_output(address: str) -> None:
    result = await invoke(run, "echo", "hello", "--address", address)
    assert (result.exit_code, result.stdout) == (0, "hello\n")
    assert "hello 0\nhello 1\nhello 2" in result.stderr


async def test_json_prints_one_event_a_line_with_its_place(address: str) -> None:
    result = await invoke(run, "echo", "hello", "--json", "--address", address)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["sequence"] for line in lines] == ["1", "2", "3", "4", "5", "6"]
    assert lines[0]["stateChanged"]["state"] == "TASK_STATE_SUBMITTED"
    assert lines[-1]["stateChanged"]["result"]["text"] == "hello"
    assert {line["taskId"] for line in lines} == {lines[0]["taskId"]}
    assert {line["attempt"] for line in lines} == {1}


async def test_broken_stream_is_resumed_without_a_word(address: str, mesh: FakeMesh) -> None:
    mesh.break_after = [2, 1, 0]
    result = await invoke(run, "echo", "hello", "--json", "--address", address)
    assert result.exit_code == 0
    assert [json.loads(line)["sequence"] for line in result.stdout.splitlines()] == list("123456")


async def test_prompt_comes_from_standard_input(address: str) -> None:
    result = await invoke(run, "echo", "-", "--address", address, stdin="from a pipe")
    assert result.stdout == "from a pipe\n"


async def test_detach_prints_the_id_of_a_durable_task(address: str, mesh: FakeMesh) -> None:
    result = await invoke(run, "echo", "hello", "--detach", "--address", address)
    assert (result.exit_code, [result.stdout.strip()]) == (0, list(mesh.logs))


async def test_refusal_names_the_field_and_what_to_do(address: str) -> None:
    result = await invoke(run, "unknown", "hello", "--address", address)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "spec.agent: is not known" in result.stderr


async def test_unreachable_mesh_says_how_to_start_one() -> None:
    result = await invoke(agents, "--address", "127.0.0.1:1")
    assert result.exit_code == 3
    assert "agentmesh up" in result.stderr


async def test_bad_address_and_bad_parameter_are_usage_errors() -> None:
    assert (await invoke(agents, "--address", "nowhere")).exit_code == 2
    assert (await invoke(run, "echo", "x", "--param", "count")).exit_code == 2


@pytest.mark.parametrize(
    ("name", "code"),
    [("COMPLETED", 0), ("FAILED", 1), ("REJECTED", 1), ("CANCELED", 4), ("INPUT_REQUIRED", 5)],
)
def test_exit_code_follows_from_the_state(name: str, code: int) -> None:
    assert exit_code_for(events_pb2.TaskState.Value(f"TASK_STATE_{name}")) == code


async def test_failed_task_exits_with_1_and_says_why(address: str, mesh: FakeMesh) -> None:
    await invoke(run, "echo", "x", "--detach", "--address", address)
    task_id = next(iter(mesh.logs))
    failed = state(events_pb2.TASK_STATE_FAILED)
    failed.state_changed.error.message = "no attempts are left"
    mesh.logs[task_id][-1] = failed
    result = await invoke(tasks, "watch", task_id, "--address", address)
    assert result.exit_code == 1
    assert "no attempts are left" in result.stderr
    assert f"agentmesh tasks retry {task_id}" in result.stderr


async def test_superseded_attempt_is_said_to_be_taken_back(address: str, mesh: FakeMesh) -> None:
    await invoke(run, "echo", "x", "--detach", "--address", address)
    log = next(iter(mesh.logs.values()))
    again = events_pb2.TaskEvent(attempt_started=events_pb2.AttemptStarted(attempt=2, supersedes_after_sequence=1))
    log.insert(4, again)
    result = await invoke(tasks, "watch", next(iter(mesh.logs)), "--address", address)
    assert "3 of its events are taken back" in result.stderr


async def test_lists_are_json_for_scripts_and_tables_for_people(address: str) -> None:
    listed = json.loads((await invoke(agents, "--json", "--address", address)).stdout)
    assert [agent["name"] for agent in listed["agents"]] == ["echo", "other"]
    assert "echo" in (await invoke(agents, "--address", address)).stdout
    assert json.loads((await invoke(tasks, "list", "--json", "--address", address)).stdout) == {}


async def test_mesh_that_lacks_a_part_is_unreachable_with_other_advice(address: str, mesh: FakeMesh) -> None:
    mesh.refuse_first = [Unavailable("storage can't be reached", retry_after_s=100)]
    result = await invoke(agents, "--address", address)
    assert result.exit_code == 3
    assert "agentmesh doctor" in result.stderr


async def test_interrupt_without_a_terminal_detaches_and_names_the_task(address: str, mesh: FakeMesh) -> None:
    mesh.stall = True
    arguments = [sys.executable, "-m", "agentmesh", "run", "echo", "hi", "--address", address]
    process = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | PYTHONPATH
    )
    async with asyncio.timeout(20):
        assert process.stderr is not None
        await asyncio.to_thread(process.stderr.readline)
        process.send_signal(signal.SIGINT)
        output, errors = await asyncio.to_thread(process.communicate)
    assert (process.returncode, output) == (130, b"")
    assert f"agentmesh tasks watch {next(iter(mesh.logs))}".encode() in errors
    assert mesh.canceled == []


@pytest.mark.skipif(os.name == "nt", reason="a terminal of this kind is there on POSIX only")
@pytest.mark.parametrize(("choice", "code", "canceled"), [(b"c\n", 4, 1), (b"d\n", 130, 0), (b"", 130, 0)])
async def test_interrupt_on_a_terminal_offers_to_cancel_or_detach(
    address: str, mesh: FakeMesh, choice: bytes, code: int, canceled: int
) -> None:
    mesh.stall = True
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "agentmesh", "run", "echo", "hi", "--address", address],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | PYTHONPATH | {"TERM": "xterm"},
    )
    os.close(theirs)
    try:
        async with asyncio.timeout(20):
            await _read_until(ours, b"hi 2")
            process.send_signal(signal.SIGINT)
            await _read_until(ours, b"[d]etach")
            if choice:
                os.write(ours, choice)
            else:
                process.send_signal(signal.SIGINT)
            await _read_until(ours, b"is CANCELED" if canceled else b"tasks watch")
            assert await asyncio.to_thread(process.wait) == code
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert len(mesh.canceled) == canceled


async def _read_until(terminal: int, text: bytes) -> None:
    """Read what the command shows until this is there."""
    shown = b""
    while text not in shown:
        shown += await asyncio.to_thread(os.read, terminal, 4096)


PYTHONPATH = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
