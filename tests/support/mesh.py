"""Starts a real mesh for a test: real processes, real signals, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.support.ports import free_ports

_READY_S = 45.0
_STOP_S = 20.0


class Mesh:
    """`agentmesh up` as a child process, with its services by name."""

    def __init__(
        self, data_dir: Path, *, environment: Mapping[str, str] | None = None, arguments: list[str] | None = None
    ) -> None:
        self.data_dir = data_dir
        self.first_port = free_ports()
        self.events: list[dict[str, Any]] = []
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AGENTMESH_", "OPENAI_", "ANTHROPIC_"))},
            "AGENTMESH_LOGGING__CONSOLE": "false",
            "AGENTMESH_LOGGING__FILE": "true",
            "AGENTMESH_LOGGING__LEVEL": "INFO",
            "AGENTMESH_RUNNER__HEARTBEAT_S": "1",
            "AGENTMESH_DRAIN_TIMEOUT_S": "5",
            "AGENTMESH_HOT_RELOAD": "false",
            "AGENTMESH_API__RELOAD": "false",
            **(environment or {}),
        }
        self._arguments = arguments or []
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Mesh":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start, and wait until every service serves."""
        command = [sys.executable, "-m", "agentmesh", "up", "--json", "--data-dir", str(self.data_dir)]
        command += ["--ports-from", str(self.first_port), *self._arguments]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self._environment
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        try:
            self.wait_for(lambda: any(e["event"] == "ready" for e in self.events), _READY_S)
        except TimeoutError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Return the supervisor's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def router(self) -> str:
        """Return the router's address."""
        return self.address("router")

    def address(self, service: str) -> str:
        """Return a service's host:port."""
        return str(self._described(service)["address"])

    def pid_of(self, service: str) -> int:
        """Return the process id that a service has now."""
        return int(self._described(service)["pid"])

    def restarts(self, service: str) -> int:
        """Return how often a service was started again."""
        return sum(e["event"] == "restarted" and e["service"] == service for e in self.events)

    def kill(self, service: str) -> None:
        """Kill a service with SIGKILL and wait until it runs again."""
        before = self.restarts(service)
        os.kill(self.pid_of(service), signal.SIGKILL)
        self.wait_for(lambda: self.restarts(service) > before, 15)

    def signal(self, service: str, number: signal.Signals) -> None:
        """Send a service a signal, such as SIGSTOP or SIGCONT."""
        os.kill(self.pid_of(service), number)

    def processes(self) -> list[psutil.Process]:
        """Return every process of the mesh, the supervisor too."""
        supervisor = psutil.Process(self.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(_STOP_S)

    def wait(self, timeout_s: float) -> int:
        """Wait until it ends by itself, and return the exit code."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def close(self) -> None:
        """Stop, and kill what does not."""
        if self._process is None:
            return
        try:
            family = self.processes()
        except psutil.NoSuchProcess:
            family = []
        try:
            if self._process.poll() is None:
                self.stop()
        finally:
            for process in family:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            for stream in (self._process.stdout, self._process.stderr):
                if stream is not None:
                    stream.close()

    def wait_for(self, holds: Callable[[], bool], timeout_s: float) -> None:
        """Wait until something holds; looked at whenever the supervisor says something, and ten times a second."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while not holds():
                if self._process is not None and self._process.poll() is not None and not holds():
                    raise TimeoutError(f"the mesh ended with {self._process.returncode}: {self.errors()}")
                if time.monotonic() > end:
                    raise TimeoutError(f"waited {timeout_s} s; events: {self.events}; {self.logs()}")
                self._changed.wait(0.1)

    def errors(self) -> str:
        """Return what the supervisor wrote to stderr; only after its end."""
        assert self._process is not None
        assert self._process.stderr is not None
        return self._process.stderr.read()

    def logs(self, lines: int = 15) -> str:
        """Return the last lines of every service's log."""
        files = sorted((self.data_dir / "logs").glob("*.log"))
        return "\n".join(f"== {f.name}\n" + "\n".join(f.read_text().splitlines()[-lines:]) for f in files)

    def _described(self, service: str) -> dict[str, Any]:
        for event in reversed(self.events):
            if event["event"] == "ready":
                described: dict[str, Any] = event["services"][service]
                return described
            if event["event"] == "restarted" and event["service"] == service:
                return event
        raise LookupError(service)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                with self._changed:
                    self.events.append(json.loads(line))
                    self._changed.notify_all()
        except ValueError:
            return  # closed while it was read
