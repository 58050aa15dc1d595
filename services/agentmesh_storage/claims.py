"""Which waiting tasks get the free slots: by priority, then by turns between tenants, within every bound.

Pure: `give` says which rows it needs to see, and the adapter that drives it reads them. It looks at the first tasks
of each tenant in turn and never through a tenant's whole queue.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

from agentmesh_storage.domain import Claim, Claimed, Offer
from agentmesh_storage.ledger import Ledger
from agentmesh_storage.rules import Rules

CHOICE = 4  # tasks looked at for each slot: one that ran on the offered version goes before its equals
MAX_TENANTS = 256  # looked at in one claim; the turn begins after the last one served
_MAX_LOOK = 1024  # tasks of one tenant looked at, if its first ones are bounded
_MAX_BYTES = 1024 * 1024  # of specs: one reply holds what one claim gives


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is looked at of a waiting task."""

    id: str
    tenant: str
    priority: int
    agent_version: str
    limited_by: str


@dataclass(frozen=True, slots=True)
class ListPriorities:
    """Asks for the priorities of an agent's due tasks, highest first."""

    agent: str


@dataclass(frozen=True, slots=True)
class ListTenants:
    """Asks for at most MAX_TENANTS tenants with due tasks at one priority: from `start` on by name, then the others."""

    agent: str
    priority: int
    start: str


@dataclass(frozen=True, slots=True)
class ListReady:
    """Asks for the first `limit` due tasks of each of these tenants at one priority, longest due first."""

    agent: str
    priority: int
    tenants: Sequence[str]
    limit: int


@dataclass(frozen=True, slots=True)
class LoadChosen:
    """Asks to load tasks into the ledger, with their parents; what another process has taken meanwhile is left out."""

    ids: Sequence[str]


Asked = ListPriorities | ListTenants | ListReady | LoadChosen
Answer = Sequence[int] | Sequence[str] | Sequence[Candidate] | None
Giving = Generator[Asked, Answer, list[Claimed]]


@dataclass(slots=True)
class Room:
    """How many more tasks may run, by tenant, agent, and label value of a tenant; counts what is chosen."""

    rules: Rules
    by_tenant: dict[str, int] = field(default_factory=dict)
    by_agent: dict[str, int] = field(default_factory=dict)
    by_label: dict[tuple[str, str], int] = field(default_factory=dict)

    def tenant_has(self, tenant: str) -> bool:
        """Say whether a tenant may run one more task."""
        bound = self.rules.running_of(tenant)
        return not bound or self.by_tenant.get(tenant, 0) < bound

    def has(self, agent: str, candidate: Candidate) -> bool:
        """Say whether this task may run now."""
        bound = self.rules.agents.get(agent, 0)
        if bound and self.by_agent.get(agent, 0) >= bound:
            return False
        for label in candidate.limited_by.splitlines():
            bound = self.rules.labels.get(label.partition("=")[0], 0)
            if bound and self.by_label.get((candidate.tenant, label), 0) >= bound:
                return False
        return self.tenant_has(candidate.tenant)

    def add(self, agent: str, tenant: str, limited_by: str, count: int = 1) -> None:
        """Count tasks that run, or are about to."""
        self.by_tenant[tenant] = self.by_tenant.get(tenant, 0) + count
        self.by_agent[agent] = self.by_agent.get(agent, 0) + count
        for label in limited_by.splitlines():
            self.by_label[tenant, label] = self.by_label.get((tenant, label), 0) + count


class Turns:
    """Whose turn it is, by agent: weighted round robin that goes on where the last claim stopped."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._last: dict[str, tuple[str, int]] = {}  # the tenant served last, and how much of its turn is left

    def start(self, agent: str) -> str:
        """Return the name from which on tenants are next."""
        last, left = self._last.get(agent, ("", 0))
        return last if left > 0 or not last else f"{last}\x01"

    def order(self, agent: str, tenants: Iterable[str]) -> list[str]:
        """Put tenants in the order of their turns."""
        last, left = self._last.get(agent, ("", 0))
        return sorted(tenants, key=lambda tenant: (not (tenant > last or (tenant == last and left > 0)), tenant))

    def left(self, agent: str, tenant: str) -> int:
        """Return how many tasks a tenant may take before the next one's turn."""
        last, left = self._last.get(agent, ("", 0))
        return left if tenant == last and left > 0 else self._rules.weight_of(tenant)

    def served(self, agent: str, tenant: str, left: int) -> None:
        """Note who was served last."""
        self._last[agent] = (tenant, left)


def give(ledger: Ledger, offers: Iterable[Offer], room: Room, turns: Turns) -> Giving:
    """Start attempts of waiting tasks on what is offered; the ledger holds the leases of who offers."""
    claimed: list[Claimed] = []
    taken: set[str] = set()
    max_bytes = _MAX_BYTES
    for offer in offers:
        # A lease that was lost meanwhile is never swept again: nobody would miss what it gets.
        if not ledger.lives(offer.incarnation) or max_bytes <= 0:
            continue
        chosen = yield from _choose(offer, room, turns, taken)
        if chosen:
            yield LoadChosen([candidate.id for candidate in chosen])
        for task in [ledger.tasks[candidate.id] for candidate in chosen if candidate.id in ledger.tasks]:
            if max_bytes <= 0:
                break
            if not ledger.expire_if_due(task):
                chunk = ledger.start_attempt(task, Claim(offer.incarnation, offer.agent_version, offer.router))
                claimed.append(Claimed(task, chunk))
                max_bytes -= len(task.spec)
    return claimed


def _choose(offer: Offer, room: Room, turns: Turns, taken: set[str]) -> Generator[Asked, Answer, list[Candidate]]:
    """Choose tasks for an offer; `taken` are ids that the rows still show as waiting, and gets the chosen ones."""
    chosen: list[Candidate] = []
    priorities: Sequence[int] = yield ListPriorities(offer.agent)  # type: ignore[assignment]
    for priority in priorities:
        waiting: Sequence[str] = yield ListTenants(offer.agent, priority, turns.start(offer.agent))  # type: ignore[assignment]
        tenants = [tenant for tenant in waiting if room.tenant_has(tenant)]
        look = max(CHOICE, -(-(offer.slots - len(chosen)) * CHOICE // max(1, len(tenants)))) + len(taken)
        while tenants and len(chosen) < offer.slots and look <= _MAX_LOOK + len(taken):
            found: Sequence[Candidate] = yield ListReady(offer.agent, priority, tenants, look)  # type: ignore[assignment]
            queues: dict[str, list[Candidate]] = {tenant: [] for tenant in tenants}
            for candidate in found:
                queues[candidate.tenant].append(candidate)
            cut = [tenant for tenant, queue in queues.items() if len(queue) >= look]
            chosen += _share(offer, queues, offer.slots - len(chosen), room, turns, taken)
            tenants = [tenant for tenant in cut if room.tenant_has(tenant)]
            look *= 4
        if len(chosen) >= offer.slots:
            break
    return chosen


def _share(
    offer: Offer, queues: dict[str, list[Candidate]], slots: int, room: Room, turns: Turns, taken: set[str]
) -> list[Candidate]:
    """Give slots out by turns; what may not run now is passed over."""
    agent, versions = offer.agent, ("", offer.agent_version)
    waiting = {
        tenant: sorted((c for c in queue if c.id not in taken), key=lambda c: c.agent_version not in versions)[::-1]
        for tenant, queue in queues.items()
    }
    chosen: list[Candidate] = []
    while len(chosen) < slots and any(waiting.values()):
        for tenant in turns.order(agent, [tenant for tenant, queue in waiting.items() if queue]):
            queue, left = waiting[tenant], turns.left(agent, tenant)
            while queue and left > 0 and len(chosen) < slots:
                candidate = queue.pop()
                if room.has(agent, candidate):
                    room.add(agent, tenant, candidate.limited_by)
                    taken.add(candidate.id)
                    chosen.append(candidate)
                    left -= 1
                    turns.served(agent, tenant, left)
            if len(chosen) >= slots:
                break
    return chosen
