"""The demo, as a newcomer runs it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

COMMAND = [sys.executable, "-m", "agentmesh", "demo"]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which the demo's folder, and so its processes, can be told from others; none may be left."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTMESH_", "OPENAI_", "ANTHROPIC_"))}
    folder = tmp_path / "temporary"
    folder.mkdir()
    yield {**kept, "TMPDIR": str(folder)}
    assert list(folder.glob("agentmesh-demo-*")) == []
    assert [process.pid for process in psutil.process_iter() if str(folder) in _temporary_folder_of(process)] == []


def _temporary_folder_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("TMPDIR", "")
    except psutil.Error:
        return ""


def run(folder: Path, environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        env=environment,
    )


def test_the_demo_analyses_real_data_and_leaves_nothing_running(tmp_path: Path, environment: dict[str, str]) -> None:
    done = run(tmp_path, environment)
    assert done.returncode == 0, done.stderr
    assert "# Analysis of seattle-weather.csv" in done.stdout
    assert "1461 rows" in done.stdout
    (folder,) = (tmp_path / "agentmesh-output" / "demo").iterdir()
    assert (folder / "report.md").stat().st_size > 2000
    charts = list(folder.glob("*.png"))
    assert len(charts) >= 3
    assert all(chart.read_bytes().startswith(b"\x89PNG") for chart in charts)


def test_a_killed_runner_and_router_cost_the_reader_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    done = run(tmp_path, environment, "--kill", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    said: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    of_kind = {kind: [event for event in said if event["event"] == kind] for kind in ("killed", "restarted", "resumed")}
    killed = [event["service"] for event in of_kind["killed"]]
    assert [service.removesuffix("-2") for service in killed] == ["runner", "router"]
    assert {event["service"]: event["code"] for event in of_kind["restarted"]} == dict.fromkeys(killed, -signal.SIGKILL)
    (resumed,) = of_kind["resumed"]
    assert {resumed["service"], killed[1]} == {"router", "router-2"}
    assert resumed["attempt"] == 2
    (verdict,) = [event for event in said if event["event"] == "verdict"]
    broken = {promise: verdict[promise] for promise in ("lost", "doubled", "gaps", "reordered")}
    assert broken == {"lost": 0, "doubled": 0, "gaps": 0, "reordered": 0}
    assert verdict["attempts"] == 2
    assert verdict["superseded"] >= 3
    assert [line.partition(" ")[0] for line in verdict["text"].splitlines()] == [str(n) for n in range(1, 11)]
    assert said[-1] == {"event": "stopped"}


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let children hear SIGINT; a test run that a shell started in the background would leave them deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_demo_and_all_that_it_started(tmp_path: Path, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [*COMMAND, "--kill", "--json"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment
    ) as demo:
        assert demo.stdout is not None
        assert json.loads(demo.stdout.readline())["event"] == "ready"
        demo.send_signal(signal.SIGINT)
        said = demo.stdout.read().splitlines()
        assert demo.wait(30) != 0
    assert json.loads(said[-1])["event"] == "stopped"


def test_json_belongs_to_the_demo_that_kills(tmp_path: Path, environment: dict[str, str]) -> None:
    done = run(tmp_path, environment, "--json")
    assert done.returncode == 2
    assert "--json goes with --kill" in done.stderr
