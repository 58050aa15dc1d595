"""`agentmesh serve` with several roles: the llm-proxy and the gateway alone, without router and storage."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.ports import free_ports, give_back


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], httpx.Client]]:
    """What the command says when it is up, and a client of the gateway."""
    first = free_ports()
    folder = tmp_path_factory.mktemp("served")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTMESH_", "OPENAI_", "ANTHROPIC_"))}
    command = [sys.executable, "-m", "agentmesh", "serve", "gateway", "llm", "--json", "--ports-from", str(first)]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, "AGENTMESH_LOGGING__CONSOLE": "false"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        address = ready["services"]["gateway"]["address"]
        with httpx.Client(base_url=f"http://{address}", timeout=10) as client:
            yield ready, client
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
        process.stdout.close()
        give_back(first)
    assert code == 0


def test_only_what_was_asked_for_is_started(served: tuple[dict[str, Any], httpx.Client]) -> None:
    ready, client = served
    assert ready["event"] == "ready"
    assert set(ready["services"]) == {"llm", "gateway"}
    assert client.get("/health/ready").status_code == 200
    assert set(client.get("/health/detailed").json()["checks"]) == {"llm"}


def test_models_answer_and_tasks_are_no_route(served: tuple[dict[str, Any], httpx.Client]) -> None:
    _, client = served
    body = {"model": "offline", "messages": [{"role": "user", "content": "Rivers carry water."}]}
    answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"].startswith("Offline model:")
    assert client.post("/v1/tasks", json={}).status_code == 404
    assert "/v1/tasks" not in client.get("/openapi.json").json()["paths"]


def test_a_port_is_for_one_service(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agentmesh", "serve", "llm", "gateway", "--port", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--ports-from" in done.stderr


def test_a_service_without_its_libraries_says_what_to_install(tmp_path: Path) -> None:
    script = "import sys; sys.modules['starlette'] = None; from agentmesh.cli.main import main; main()"
    command = [sys.executable, "-c", script, "serve", "gateway"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: gateway needs starlette")
    assert "pip install -e '.[all]'" in done.stderr
    assert "Traceback" not in done.stderr
