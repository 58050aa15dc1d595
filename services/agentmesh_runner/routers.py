"""The routers that are connected, which of them speaks for which attempt, and what each must know of the others."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh_runner.running import Running
from agentmesh_runner.session import Session

_NOWHERE = object()


class Routers:
    """One session for each router. An attempt whose router goes is offered to another at once.

    `hello` presents the runner with attempts that need a router. Slots are counted in all, and apart for `limited`,
    the agents that have a number of their own.
    """

    def __init__(self, hello: Callable[[Sequence[Running]], pb.RunnerHello], limited: Collection[str]) -> None:
        self._hello = hello
        self._limited = limited
        self._sessions: dict[Session, None] = {}
        self._owner: dict[Running, Session] = {}
        self._asked: dict[Running, Session] = {}  # offered to a router that has not adopted it yet
        self._counted: dict[Running, Session | None] = {}  # what takes a slot, and who is told that by itself
        self._total: Counter[str] = Counter()  # by agent, and all under ""

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions))

    def __len__(self) -> int:
        return len(self._sessions)

    def join(self, router_id: str, attempts: Iterable[Running]) -> Session:
        """Begin to speak with a router; those of the attempts that nobody speaks for are offered to it."""
        for older in [session for session in self._sessions if session.router_id == router_id]:
            self._remove(older)  # the router has left that stream, though this side did not notice yet
        session = Session(router_id, self._elsewhere)
        self._sessions[session] = None
        self._offer(session, [one for one in attempts if one not in self._owner and one not in self._asked])
        if +self._total:
            session.slots_changed()
        return session

    def leave(self, session: Session) -> None:
        """Stop speaking with a router; its attempts are offered to the one that has fewest, or wait for the next."""
        orphans = self._remove(session)
        if orphans and self._sessions:
            self._offer(min(self._sessions, key=lambda one: len(one.attempts)), orphans)

    def own(self, session: Session, running: Running) -> None:
        """Let a router speak for an attempt from now on."""
        self._disown(running)
        self._owner[running] = session
        session.attempts[running.task_id] = running
        self._count(running)

    def forget(self, running: Running) -> None:
        """Let an attempt go."""
        self._disown(running)
        self._move(running, _NOWHERE)

    def speak(self, running: Running) -> None:
        """Hear that an attempt has something to send, or takes a slot no longer or again."""
        if running.takes_slot != (running in self._counted):
            self._count(running)
        session = self._owner.get(running)
        if session is not None:
            session.speak(running)

    def _offer(self, session: Session, attempts: Sequence[Running]) -> None:
        for running in attempts:
            self._asked[running] = session
        session.greet(self._hello(attempts))

    def _remove(self, session: Session) -> list[Running]:
        session.close()
        if session not in self._sessions:
            return []
        del self._sessions[session]
        orphans = [*session.attempts.values(), *(one for one, asked in self._asked.items() if asked is session)]
        for running in orphans:
            self._disown(running)
            self._count(running)
        return orphans

    def _disown(self, running: Running) -> None:
        self._asked.pop(running, None)
        session = self._owner.pop(running, None)
        if session is not None:
            session.attempts.pop(running.task_id, None)

    def _count(self, running: Running) -> None:
        self._move(running, self._owner.get(running) if running.takes_slot else _NOWHERE)

    def _move(self, running: Running, after: object) -> None:
        before = self._counted.pop(running, _NOWHERE)
        if isinstance(after, Session) or after is None:
            self._counted[running] = after
        if before is after:
            return
        agent = running.assignment.spec.agent
        for key in ("", agent) if agent in self._limited else ("",):
            for place, by in ((before, -1), (after, 1)):
                if place is not _NOWHERE:
                    self._total[key] += by
                if isinstance(place, Session):
                    place.used[key] += by
        both_count = _NOWHERE not in (before, after)
        for session in self._sessions:
            # What one router's own attempts take is news for the others only.
            if (session in (before, after)) == both_count:
                session.slots_changed()

    def _elsewhere(self, session: Session) -> pb.SlotsElsewhere:
        used = {key: count - session.used[key] for key, count in self._total.items()}
        by_agent = {agent: count for agent, count in used.items() if agent and count}
        return pb.SlotsElsewhere(used=used.get("", 0), used_by_agent=by_agent)
