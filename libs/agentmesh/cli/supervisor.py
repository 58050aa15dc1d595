"""Starts services as child processes, keeps them running, and takes them with it when it goes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentmesh.kit import names
from agentmesh.kit.auth import load_or_create_secret
from agentmesh.kit.errors import MeshError, Unavailable
from agentmesh.kit.folder_lock import FolderLock
from agentmesh.kit.settings import Settings

# Whoever depends on others starts after them and stops before them.
START_ORDER = (names.STORAGE, names.LLM, names.RUNNER, names.ROUTER, names.GATEWAY)
STOP_ORDER = (names.GATEWAY, names.ROUTER, names.RUNNER, names.LLM, names.STORAGE)

_READY_TIMEOUT_S = 60.0
_POLL_S = 0.05
_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 5.0
_STEADY_S = 10.0
_KILL_GRACE_S = 3.0

Report = Callable[[Mapping[str, Any]], None]


@dataclass
class Service:
    """A child process. `variables` are what it is told besides what all are told."""

    name: str
    role: str
    address: str
    metrics: str
    variables: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    backoff_s: float = _FIRST_BACKOFF_S

    def describe(self) -> dict[str, Any]:
        """Return what the contract's ready line says of it."""
        return {"address": self.address, "pid": self.process.pid if self.process else 0, "metrics": self.metrics}


@dataclass
class Supervisor:
    """Runs the mesh on this machine: one service of each of the `roles`, and those in `more`.

    `report` is told of events: ready, restarted, stopped.
    """

    settings: Settings
    environment: Mapping[str, str]
    report: Report
    more: Sequence[Service] = ()
    roles: Sequence[str] = START_ORDER
    services: dict[str, Service] = field(default_factory=dict)
    _stopping: bool = False
    _lifeline: int = -1

    def __post_init__(self) -> None:
        for role in self.roles:
            endpoint = getattr(self.settings.services, role)
            self.services[role] = Service(role, role, endpoint.listen, endpoint.metrics_listen)
        self.services |= {service.name: service for service in self.more}

    async def run(self, stop: asyncio.Event, ready: asyncio.Event | None = None) -> None:
        """Start everything, keep it running until `stop`, then drain; raises MeshError if it can't start."""
        lock = FolderLock(self.settings.data_dir, "up.lock")
        lifeline, self._lifeline = os.pipe()
        os.set_inheritable(lifeline, True)
        try:
            load_or_create_secret(self.settings.data_dir)
            self._check_ports()
            try:
                for service in self._in_order(START_ORDER):
                    self._start(service, lifeline)
                await self._until_ready(stop)
                if not stop.is_set():
                    self.report({"event": "ready", "services": self._describe()})
                    if ready is not None:
                        ready.set()
                    await self._keep(stop, lifeline)
            finally:
                await self._stop_all()
        finally:
            os.close(lifeline)
            os.close(self._lifeline)
            lock.release()

    # -- starting -----------------------------------------------------------------------------------------

    def _check_ports(self) -> None:
        for service in self.services.values():
            for what, address in (("", service.address), ("'s metrics", service.metrics)):
                host, _, port = address.rpartition(":")
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                with socket.socket(family) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind((host.strip("[]"), int(port)))
                    except OSError as error:
                        raise MeshError(
                            f"{service.name}{what} can't listen on {address}: the port is in use. "
                            "Stop what uses it, or choose others with --ports-from",
                            reason="PORT_IN_USE",
                        ) from error

    def _start(self, service: Service, lifeline: int) -> None:
        environment = {**self.environment, **service.variables, names.LIFELINE: str(lifeline)}
        service.process = subprocess.Popen(
            [sys.executable, "-m", "agentmesh", "serve", service.role],
            env=environment,
            pass_fds=(lifeline,) if os.name != "nt" else (),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only this process, which then stops the others in order
        )
        service.started = time.monotonic()

    async def _until_ready(self, stop: asyncio.Event) -> None:
        from agentmesh.cli import probing  # every command that reads the configuration imports this module

        waiting = set(self.services)
        end = time.monotonic() + _READY_TIMEOUT_S
        while waiting and not stop.is_set():
            for name in sorted(waiting):
                service = self.services[name]
                assert service.process is not None
                if service.process.poll() is not None:
                    raise Unavailable(f"{name} could not start; its message is above", reason="START_FAILED")
                if not probing.listens(service.address):  # to ask costs a hundred times as much as to look
                    continue
                answer = await probing.ask(self.settings, service.role, timeout_s=1.0, address=service.address)
                if answer == probing.SERVING:
                    waiting.discard(name)
            if time.monotonic() > end:
                raise Unavailable(f"not ready after {_READY_TIMEOUT_S:.0f} s: {', '.join(sorted(waiting))}")
            await asyncio.sleep(_POLL_S)

    # -- keeping ------------------------------------------------------------------------------------------

    async def _keep(self, stop: asyncio.Event, lifeline: int) -> None:
        while not stop.is_set():
            for service in self.services.values():
                assert service.process is not None
                code = service.process.poll()
                if code is not None:
                    await self._replace(service, code, stop, lifeline)
            try:
                async with asyncio.timeout(_POLL_S):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _replace(self, service: Service, code: int, stop: asyncio.Event, lifeline: int) -> None:
        if not self.settings.auto_restart:
            raise Unavailable(f"{service.name} ended with code {code}", reason="SERVICE_DIED")
        if time.monotonic() - service.started > _STEADY_S:
            service.backoff_s = _FIRST_BACKOFF_S
        wait_s, service.backoff_s = service.backoff_s, min(service.backoff_s * 2, _LAST_BACKOFF_S)
        try:
            async with asyncio.timeout(wait_s):
                await stop.wait()
                return
        except TimeoutError:
            pass
        self._start(service, lifeline)
        service.restarts += 1
        self.report({"event": "restarted", "service": service.name, "code": code, **service.describe()})

    # -- stopping -----------------------------------------------------------------------------------------

    async def _stop_all(self) -> None:
        for service in self._in_order(STOP_ORDER):
            await self._stop(service)
        self.report({"event": "stopped"})

    async def _stop(self, service: Service) -> None:
        process = service.process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        settings = self.settings
        end = time.monotonic() + settings.drain_delay_s + settings.drain_timeout_s + _KILL_GRACE_S
        while process.poll() is None:
            if time.monotonic() > end:
                process.kill()
                process.wait()
                return
            await asyncio.sleep(0.01)

    def _describe(self) -> dict[str, Any]:
        return {service.name: service.describe() for service in self._in_order(names.ROLES)}

    def _in_order(self, roles: Sequence[str]) -> list[Service]:
        return sorted(self.services.values(), key=lambda service: roles.index(service.role))


def ports_from(first: int) -> dict[str, int]:
    """Return the keys that `--ports-from` sets: services take N to N+4, their metrics N+5 to N+9."""
    roles: Sequence[str] = names.ROLES
    ports = {f"services.{role}.port": first + index for index, role in enumerate(roles)}
    return ports | {f"services.{role}.metrics_port": first + len(roles) + index for index, role in enumerate(roles)}
