"""All five services in one container, as the clouds run them, told what the task definition for AWS tells them."""

import hashlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentmesh.client import Client
from tests.deploy.clouds import DEPLOY, filled
from tests.deploy.test_clouds import AWS
from tests.support.daemon import Daemon
from tests.support.ports import free_ports, give_back
from tests.support.redis import RedisServer

_KEY = "the-key-of-a-client"


class Container:
    """`agentmesh up` with the variables of the task definition, and its one-off commands."""

    def __init__(self, folder: Path, database: str, redis: str) -> None:
        definition = filled(DEPLOY / "aws" / "task-definition.json", AWS)["containerDefinitions"][1]
        told = {one["name"]: one["value"] for one in definition["environment"]}
        digest = hashlib.sha256(_KEY.encode()).hexdigest()
        secrets = {
            "DATABASE_URL": database,
            "REDIS_URL": redis,
            "AGENTMESH_SERVICES__TOKEN": "a-secret-that-only-tests-share",
            "AGENTMESH_SECURITY__API_KEYS": f'[{{"sha256": "{digest}", "tenant": "acme"}}]',
            "OPENAI_API_KEY": "",
            "ANTHROPIC_API_KEY": "",
        }
        assert secrets.keys() == {one["name"] for one in definition["secrets"]}
        self.first_port = free_ports()
        self.folder = folder
        # A container has no variables but those, its ports are its own, and its data folder is empty.
        self.environment = {
            **told,
            **secrets,
            "PATH": os.environ["PATH"],
            "AGENTMESH_DATA_DIR": str(folder / "data"),
        }
        self._ports = ["--ports-from", str(self.first_port)]
        command = [sys.executable, "-m", "agentmesh", *definition["command"], *self._ports]
        self.daemon = Daemon(command, log=folder / "log", environment=self.environment, folder=folder)

    def is_ready(self) -> bool:
        """Ask as the load balancer does."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.first_port + 4}/health/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of agentmesh in the container."""
        return subprocess.run(
            [sys.executable, "-m", "agentmesh", *words, *self._ports],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture
def container(tmp_path: Path, database_url: str, redis: RedisServer) -> Iterator[Container]:
    container = Container(tmp_path, database_url, redis.url())
    try:
        yield container
    finally:
        container.daemon.kill()
        give_back(container.first_port)


def test_it_is_migrated_starts_is_healthy_runs_tasks_and_ends_in_time(container: Container) -> None:
    migrated = container.command("migrate", "up")
    assert migrated.returncode == 0, migrated.stderr
    assert container.command("health", "--live").returncode == 1
    container.daemon.start()
    container.daemon.until(container.is_ready, timeout_s=40)
    assert container.command("health").returncode == 0
    with Client(f"127.0.0.1:{container.first_port}", token=_KEY) as client:
        assert client.run("echo", "hello").text == "hello"
    assert container.daemon.end(signal.SIGTERM, timeout_s=30) == 0
