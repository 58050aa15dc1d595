"""A mesh of separate processes, any number of each service, which tests kill, freeze and start again by name."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

from agentmesh.kit import names
from tests.support.daemon import Daemon
from tests.support.fault_proxy import FaultProxy
from tests.support.health import is_serving
from tests.support.ports import free_ports, give_back

_READY_S = 45.0
_WATCH_S = 0.05
_STOP_ORDER = (names.GATEWAY, names.ROUTER, names.RUNNER, names.LLM, names.STORAGE)
_SETTINGS = {
    "AGENTMESH_SERVICES__TOKEN": "a-secret-that-only-tests-share",
    "AGENTMESH_LOGGING__LEVEL": "INFO",
    "AGENTMESH_DATABASE__CREATE_TABLES": "true",
    "AGENTMESH_TASKS__LEASE_TTL_S": "4",
    "AGENTMESH_RUNNER__HEARTBEAT_S": "1",
    "AGENTMESH_RUNNER__HOSTS": "2",
    "AGENTMESH_DRAIN_TIMEOUT_S": "10",
}


@dataclass
class Member:
    """One process of the mesh. `kept` ones are started again when they die."""

    name: str
    role: str
    address: str
    metrics: str
    daemon: Daemon
    kept: bool = True
    frozen: bool = False
    starts: int = 0
    changing: threading.RLock = field(default_factory=threading.RLock)


class Fleet:
    """Use it as `with Fleet(folder, database=url) as fleet:`; members are router-1, router-2, runner-1, storage-1 …

    Without `database`, the one storage keeps a SQLite file. `proxied` names members, or `postgres`, that everybody
    reaches through `proxies[name]`; clients too. `settings` go to every process, `settings_of` to single ones.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database: str = "",
        routers: int = 1,
        runners: int = 1,
        storages: int = 1,
        llms: int = 1,
        gateways: int = 0,
        proxied: Collection[str] = (),
        settings: Mapping[str, str] | None = None,
        settings_of: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        assert database or storages == 1, "SQLite has one storage"
        self.folder = folder
        self.proxies: dict[str, FaultProxy] = {}
        self.members: dict[str, Member] = {}
        self.deaths: list[tuple[str, int]] = []
        """Members that ended by themselves, and their exit codes."""
        self.database = database or f"sqlite:///{folder / 'tasks.db'}"
        self._settings = settings or {}
        self._settings_of = settings_of or {}
        self._proxied = frozenset(proxied)
        counts = {
            names.ROUTER: routers,
            names.RUNNER: runners,
            names.LLM: llms,
            names.STORAGE: storages,
            names.GATEWAY: gateways,
        }
        self._ports = 2 * sum(counts.values())
        self._first_port = free_ports(self._ports)
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="fleet", daemon=True)
        port = self._first_port
        for role, count in counts.items():
            for number in range(1, count + 1):
                self._add(role, f"{role}-{number}", port)
                port += 2

    def __enter__(self) -> Self:
        try:
            self._open_proxies()
            environment = self._environment()
            for member in self.members.values():
                member.daemon.environment = {**environment, **self._own_settings(member)}
            for member in self.members.values():
                self._start(member)
            self.wait_serving()
        except BaseException:
            self.close()
            raise
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- where things are -----------------------------------------------------------------------------------

    @property
    def router(self) -> str:
        """Return what a client takes as its address: every router, parted by commas."""
        return ",".join(self.routers)

    @property
    def routers(self) -> list[str]:
        """Return the routers' addresses, as clients reach them."""
        return self._reachable(names.ROUTER)

    def address(self, name: str) -> str:
        """Return host:port of a member, as others reach it."""
        proxy = self.proxies.get(name)
        return proxy.address if proxy else self.members[name].address

    def names_of(self, *roles: str) -> list[str]:
        """Return the members of these roles, or of all."""
        return [member.name for member in self.members.values() if not roles or member.role in roles]

    def pid(self, name: str) -> int:
        """Return the process id that a member has now."""
        return self.members[name].daemon.pid

    def starts(self, name: str) -> int:
        """Return how often a member was started."""
        return self.members[name].starts

    # -- what tests do to them ------------------------------------------------------------------------------

    def kill(self, name: str, *, start: bool = True) -> None:
        """Kill a member and its children with SIGKILL; with `start`, start it again at once, on the same port."""
        with self._hold(name) as member:
            member.daemon.kill()
            member.frozen = False
            member.kept = start
            if start:
                self._start(member)

    def start(self, name: str) -> None:
        """Start a member that was stopped, without waiting until it serves."""
        with self._hold(name) as member:
            member.kept = True
            if not member.daemon.running:
                self._start(member)

    def freeze(self, name: str) -> None:
        """Stop a member and its children in the middle of what they do; connections stay open and silent."""
        with self._hold(name) as member:
            member.frozen = True
            member.daemon.freeze()

    def thaw(self, name: str) -> None:
        """Let a frozen member go on."""
        with self._hold(name) as member:
            member.frozen = False
            member.daemon.thaw()

    def drain(self, name: str) -> int:
        """Send SIGTERM, wait until the member has ended, return its exit code; it is not started again."""
        with self._hold(name) as member:
            member.kept = False
            return member.daemon.end(signal.SIGTERM)

    def restart(self, name: str) -> int:
        """Drain a member, start it again and wait until it serves; return the exit code."""
        code = self.drain(name)
        self.start(name)
        self.wait_serving(name)
        return code

    def wait_serving(self, *members: str, timeout_s: float = _READY_S) -> None:
        """Wait until these members, or all, say SERVING; raises TimeoutError with the ends of all logs."""
        for name in members or self.members:
            member = self.members[name]
            self.wait_for(partial(is_serving, member.role, member.address), f"{name} serves", timeout_s=timeout_s)

    def wait_for(self, holds: Callable[[], bool], what: str, *, timeout_s: float = 15.0) -> None:
        """Wait until something holds; raises TimeoutError with the ends of all logs."""
        end = time.monotonic() + timeout_s
        while not holds():
            dead = [m.name for m in self.members.values() if not m.daemon.running and not self._watcher.is_alive()]
            if dead or time.monotonic() > end:
                raise TimeoutError(f"waited {timeout_s} s until {what}; ended: {dead or self.deaths}\n{self.logs()}")
            time.sleep(_WATCH_S)

    def heal(self) -> None:
        """Thaw and start whatever does not run, and heal the proxies; without waiting."""
        for proxy in self.proxies.values():
            proxy.heal()
        for name in self.members:
            self.thaw(name)
            self.start(name)

    def logs(self, lines: int = 15) -> str:
        """Return the last lines of every member's log."""
        return "\n".join(f"== {member.name}\n{member.daemon.tail(lines)}" for member in self.members.values())

    def close(self) -> None:
        """End everything: asked first, killed after that."""
        self._closing.set()
        if self._watcher.is_alive():
            self._watcher.join()
        with ThreadPoolExecutor(len(self.members)) as pool:
            for role in _STOP_ORDER:
                list(pool.map(self._end, [member for member in self.members.values() if member.role == role]))
        for proxy in self.proxies.values():
            proxy.close()
        give_back(self._first_port, self._ports)

    # -- inside ---------------------------------------------------------------------------------------------

    def _add(self, role: str, name: str, port: int) -> None:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "agentmesh", "serve", role, "--data-dir", str(folder), "--port", str(port)]
        daemon = Daemon(command, log=folder / "output.log", folder=folder)
        self.members[name] = Member(name, role, f"127.0.0.1:{port}", str(port + 1), daemon)

    def _open_proxies(self) -> None:
        for name in sorted(self._proxied):
            target = _host_of(self.database) if name == "postgres" else self.members[name].address
            self.proxies[name] = FaultProxy(target).__enter__()

    def _reachable(self, role: str) -> list[str]:
        return [self.address(name) for name in self.names_of(role)]

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTMESH_", "OPENAI_", "ANTHROPIC_"))}
        database = self.database
        if "postgres" in self.proxies:
            database = database.replace(_host_of(database), self.proxies["postgres"].address)
        addresses = {
            f"AGENTMESH_SERVICES__{role.upper()}__ADDRESS": ",".join(self._reachable(role))
            for role in (names.ROUTER, names.RUNNER, names.LLM, names.STORAGE)
            if self._reachable(role)
        }
        return {**kept, **_SETTINGS, "DATABASE_URL": database, **addresses, **self._settings}

    def _own_settings(self, member: Member) -> dict[str, str]:
        own = {f"AGENTMESH_SERVICES__{member.role.upper()}__METRICS_PORT": member.metrics}
        if member.role == names.RUNNER:
            own["AGENTMESH_RUNNER__NAME"] = member.name
        return {**own, **self._settings_of.get(member.name, {})}

    @contextlib.contextmanager
    def _hold(self, name: str) -> Iterator[Member]:
        """Keep the watcher off while a member changes."""
        member = self.members[name]
        with member.changing:
            yield member

    def _start(self, member: Member) -> None:
        member.daemon.start()
        member.starts += 1

    def _end(self, member: Member) -> None:
        if member.daemon.running and not member.frozen:
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.daemon.end(signal.SIGTERM, timeout_s=5)
                return
        member.daemon.kill()

    def _watch(self) -> None:
        while not self._closing.wait(_WATCH_S):
            for member in self.members.values():
                if member.changing.acquire(blocking=False):
                    try:
                        if member.kept and not member.daemon.running:
                            self.deaths.append((member.name, member.daemon.wait(1)))
                            self._start(member)
                    finally:
                        member.changing.release()


def _host_of(database: str) -> str:
    """Return host:port of a database's URL."""
    return database.partition("@")[2].partition("/")[0]
