"""The command as scripts use it, against a real mesh: output, exit codes, files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import Mesh
from tests.support.ports import free_ports


def agentmesh(
    mesh: Mesh | None, *arguments: str, cwd: Path | None = None, **given: Any
) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AGENTMESH_")}
    if mesh is not None:
        environment["AGENTMESH_ADDRESS"] = mesh.router
    command = [sys.executable, "-m", "agentmesh", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=50, check=False, **given
    )


def lines(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_run_prints_one_event_a_line_and_exits_0(mesh: Mesh, tmp_path: Path) -> None:
    done = agentmesh(mesh, "run", "echo", "hi", "--param", "count=2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    events = lines(done)
    assert [event["sequence"] for event in events] == [str(n) for n in range(1, 7)]
    assert all(event["taskId"] == events[0]["taskId"] for event in events)
    assert events[-1]["stateChanged"]["state"] == "TASK_STATE_COMPLETED"


def test_run_without_json_prints_the_answer_alone(mesh: Mesh, tmp_path: Path) -> None:
    done = agentmesh(mesh, "run", "echo", "just this", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "just this\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "loser", "x"), 1, "there is nothing to be won"),
        (("run", "rejecter", "x"), 1, "this agent takes nothing"),
        (("run", "nobody", "x"), 2, "spec.agent"),
        (("run", "echo", "x", "--param", "count=many"), 2, "spec.parameters.count"),
        (("run", "echo", "x", "--priority", "11"), 2, "1<=x<=10"),
        (("run", "echo", ""), 2, "spec.prompt"),
        (("run",), 2, "Missing argument"),
        (("run", "asker", "x"), 5, "What is your name?"),
    ],
)
def test_exit_codes_tell_scripts_how_it_ended(
    mesh: Mesh, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = agentmesh(mesh, *arguments, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mesh_that_is_not_there_is_exit_3_with_what_to_do(tmp_path: Path) -> None:
    done = agentmesh(None, "run", "echo", "x", "--address", f"127.0.0.1:{free_ports()}", cwd=tmp_path)
    assert done.returncode == 3
    assert "agentmesh up" in done.stderr


def test_a_canceled_task_is_exit_4(mesh: Mesh, tmp_path: Path) -> None:
    detached = agentmesh(mesh, "run", "sleeper", "x", "--detach", cwd=tmp_path)
    task_id = detached.stdout.strip()
    assert agentmesh(mesh, "tasks", "cancel", task_id).returncode == 0
    watched = agentmesh(mesh, "tasks", "watch", task_id, "--json")
    assert watched.returncode == 4
    assert lines(watched)[-1]["stateChanged"]["state"] == "TASK_STATE_CANCELED"


def test_files_go_up_and_artifacts_come_down(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("day,value\n" + "".join(f"2024-01-{n:02},{n * 2}\n" for n in range(1, 29)))
    done = agentmesh(
        mesh, "run", "data_analysis", "trend?", "--file", "data.csv", "--output", "out", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "value" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.csv", b"", "CSV_EMPTY"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n", "CSV_RAGGED"),
        ("latin.csv", "größe\n1\n".encode("latin-1"), "CSV_NOT_UTF8"),
    ],
)
def test_a_bad_csv_is_rejected_with_what_is_wrong(
    mesh: Mesh, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    done = agentmesh(mesh, "run", "data_analysis", "x", "--file", name, "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert reason in done.stdout


def test_tasks_are_listed_shown_and_retried(mesh: Mesh, tmp_path: Path) -> None:
    ran = agentmesh(mesh, "run", "echo", "again", "--label", "suite=command", "--json", cwd=tmp_path)
    task_id = lines(ran)[0]["taskId"]
    listed = agentmesh(mesh, "tasks", "list", "--json")
    assert listed.returncode == 0
    assert task_id in listed.stdout
    shown = agentmesh(mesh, "tasks", "get", task_id, "--json")
    assert json.loads(shown.stdout)["spec"]["prompt"] == "again"
    retried = agentmesh(mesh, "tasks", "retry", task_id, "--json")
    assert retried.returncode == 0
    assert task_id in retried.stdout


def test_agents_debug_doctor_config_and_migrations_work_as_commands(mesh: Mesh, tmp_path: Path) -> None:
    assert '"echo"' in agentmesh(mesh, "agents", "--json").stdout
    environment = {
        **os.environ,
        "AGENTMESH_DATA_DIR": str(mesh.data_dir),
        "AGENTMESH_SERVICES__RUNNER__PORT": mesh.address("runner").rpartition(":")[2],
    }
    debugged = subprocess.run(
        [sys.executable, "-m", "agentmesh", "debug", "echo", "hi"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert debugged.returncode == 0, debugged.stderr
    assert "hi" in debugged.stdout
    assert agentmesh(None, "config", "check", cwd=tmp_path).returncode == 0
    status = agentmesh(None, "migrate", "status", "--json", cwd=tmp_path)
    assert "0001_tasks" in status.stdout
    assert agentmesh(None, "version").stdout.startswith("agentmesh ")
    assert "complete" in agentmesh(None, "completion", "bash").stdout


def test_a_wrong_configuration_key_is_named_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("environment: development\ndevelopment:\n  database:\n    pool_sise: 3\n")
    done = agentmesh(None, "up", "--config", str(file), cwd=tmp_path)
    assert done.returncode != 0
    assert "development.database.pool_sise" in done.stderr
    assert "Traceback" not in done.stderr
