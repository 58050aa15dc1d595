"""`agentmesh demo --kill`: a task streams while its runner and then its router are killed, and nothing is missing."""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from agentmesh.cli import demo_agent
from agentmesh.cli.connecting import connect
from agentmesh.cli.demo_mesh import free_ports, overrides_for, running
from agentmesh.cli.demo_verdict import Verdict, folded, judge
from agentmesh.cli.output import note
from agentmesh.cli.supervisor import Service, Supervisor
from agentmesh.cli.views import view_for
from agentmesh.client import AsyncClient, Event, Folder
from agentmesh.kit import config, config_source, names

_SETTINGS = {"tasks.lease_ttl_s": 3, "runner.heartbeat_s": 1}  # a lost runner is noticed soon: 15 s are too long a show
# Who is killed once so many lines are whole and some words of the next are said.
_PLAN = ((3, names.RUNNER), (7, names.ROUTER))
_WORDS = 3


class Teller:
    """Tells a person in lines, or a script in JSON objects, what happens."""

    def __init__(self, *, as_json: bool, terminal: bool) -> None:
        self._as_json = as_json
        self._view = None if as_json else view_for(as_json=False, terminal=terminal)

    def tell(self, line: str, **fields: Any) -> None:
        """Say something; a person is told `line`, a script `fields` if there are any."""
        if self._as_json:
            if fields:
                print(json.dumps(fields), flush=True)
            return
        if self._view is not None:
            self._view.pause()
        note(line)
        if self._view is not None:
            self._view.resume()

    def show(self, event: Event, folder: Folder, retracted: int) -> None:
        """Show an event of the task to a person."""
        if self._view is not None:
            self._view.show(event, folder, retracted)

    def close(self) -> None:
        """Hear that the task is over; leave the terminal as it should stay."""
        if self._view is not None:
            self._view.close()
            self._view = None

    def print_text(self, text: str) -> None:
        """Print for a person what the task made."""
        if not self._as_json:
            print(text, flush=True)

    def report(self, event: Mapping[str, Any]) -> None:
        """Hear from the supervisor."""
        if event["event"] == "restarted":
            self.tell(f"  {event['service']} runs again, pid {event['pid']}", **event)
        elif self._as_json:
            self.tell("", **event)


class KillDemo:
    """One task, one client, two of each to kill."""

    def __init__(self, supervisor: Supervisor, teller: Teller) -> None:
        self._services = supervisor.services
        self._teller = teller
        self._routers = [s for s in self._services.values() if s.role == names.ROUTER]
        self._seen: list[Event] = []
        self._folder = Folder()
        self._runner = ""  # the address at the end of its name
        self._lines = self._words = self._retracted = self._attempts = 0
        self._plan = list(_PLAN)
        self._broken = ""

    async def run(self) -> Verdict:
        """Show it all and judge it; raises MeshError if the mesh stays out of reach."""
        async with connect(",".join(router.address for router in self._routers), None) as client:
            stream = client.stream(demo_agent.Storyteller.name, "What happens when you are killed?")
            try:
                async for event in stream:
                    self._take(client, event)
            finally:
                await stream.aclose()
                self._teller.close()
            other = next(router for router in self._routers if router.address != client.address)
        log = await self._read_again(other)
        verdict = judge(self._seen, log, demo_agent.STORY)
        text = folded(self._seen)
        self._teller.tell("what the client read, folded:")
        self._teller.print_text(text)
        self._teller.tell(
            f"verdict: {verdict}",
            event="verdict",
            **asdict(verdict),
            events=len(log),
            attempts=self._attempts,
            superseded=self._retracted,
            killed=len(_PLAN) - len(self._plan),
            text=text,
        )
        return verdict

    def _take(self, client: AsyncClient, event: Event) -> None:
        if self._broken and client.address != self._broken:
            # Said before the event is shown: it came over the other router.
            self._tell_resumed(client.address, event)
        self._seen.append(event)
        retracted = self._folder.add(event.sequence, event.attempt, event.event)
        self._teller.show(event, self._folder, len(retracted))
        if event.name == "attempt_started":
            self._attempt_started(event, len(retracted))
        elif event.name == "step_completed":
            self._lines, self._words = self._lines + 1, 0
        elif event.name == "text_delta":
            self._words += 1
        if self._plan and (self._lines, self._words) == (self._plan[0][0], _WORDS):
            self._kill(self._plan.pop(0)[1], client.address, event.sequence)

    def _attempt_started(self, event: Event, retracted: int) -> None:
        started = event.event.attempt_started
        self._runner = started.runner.rpartition(":")[2]
        self._attempts, self._words = started.attempt, 0
        self._retracted += retracted
        if retracted:
            self._teller.tell(
                f"  lines 1 to {self._lines} came from the journal: they are not said again",
                event="attempt",
                attempt=started.attempt,
                superseded=retracted,
                journaled=self._lines,
            )

    def _tell_resumed(self, address: str, event: Event) -> None:
        self._broken = ""
        name = next(router.name for router in self._routers if router.address == address)
        after = event.sequence - 1
        self._teller.tell(
            f"  the client goes on over {name} after sequence {after}; it is still attempt {event.attempt}",
            event="resumed",
            service=name,
            after_sequence=after,
            attempt=event.attempt,
        )

    def _kill(self, role: str, router: str, sequence: int) -> None:
        port = self._runner if role == names.RUNNER else router.rpartition(":")[2]
        service = next(s for s in self._services.values() if s.role == role and s.address.endswith(f":{port}"))
        assert service.process is not None
        pid = service.process.pid
        service.process.kill()
        what = "runs the task" if role == names.RUNNER else "carries this stream"
        if role == names.ROUTER:
            self._broken = router
        self._teller.tell(
            f"✗ {service.name}, which {what}, is killed with SIGKILL: pid {pid}, after sequence {sequence}",
            event="killed",
            service=service.name,
            pid=pid,
            after_sequence=sequence,
        )

    async def _read_again(self, router: Service) -> list[Event]:
        """Read the whole log over a router, waiting for it to be back if it was killed."""
        async with AsyncClient(router.address) as client:
            log = [event async for event in client.watch(self._seen[0].task_id)]
        self._teller.tell(f"a second reader got all {len(log)} events over {router.name}, from sequence 0")
        return log


def run(folder: str, *, as_json: bool, terminal: bool) -> int:
    """Run the whole show; return the exit code: 0 if nothing was lost, doubled, left out or out of order."""
    teller = Teller(as_json=as_json, terminal=terminal)
    with free_ports() as first:
        return asyncio.run(_run(_supervisor(folder, first, teller), teller))


def _supervisor(folder: str, first: int, teller: Teller) -> Supervisor:
    overrides = {**overrides_for(folder, first), **_SETTINGS, "runner.agents": str(demo_agent.__file__)}
    settings = config.load(overrides=overrides)
    more = [_another(names.RUNNER, first + 10), _another(names.ROUTER, first + 12)]
    for role in (names.RUNNER, names.ROUTER):
        both = (getattr(settings.services, role).listen, *(s.address for s in more if s.role == role))
        overrides[f"services.{role}.address"] = ",".join(both)
    environment = {**os.environ, **config_source.variables(None, overrides)}
    return Supervisor(settings, environment, teller.report, more)


async def _run(supervisor: Supervisor, teller: Teller) -> int:
    started = time.monotonic()
    teller.tell("starting two routers, two runners, and one each of storage, llm-proxy and gateway …")
    async with running(supervisor):
        teller.tell(f"all seven are serving after {time.monotonic() - started:.1f} s")
        verdict = await KillDemo(supervisor, teller).run()
    teller.tell(f"everything is stopped again; the demo took {time.monotonic() - started:.1f} s")
    return 0 if verdict.clean else 1


def _another(role: str, port: int) -> Service:
    ports = {f"services.{role}.port": port, f"services.{role}.metrics_port": port + 1}
    variables = config_source.variables(None, ports)
    return Service(f"{role}-2", role, f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}", variables)
