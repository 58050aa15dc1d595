"""Which runner gets a task: the one with the most free slots, and nobody who came later goes first.

All accounting of slots is here. A slot is used from when it is reserved until the attempt's outcome has come,
and not while the attempt waits.
"""

import asyncio
from collections.abc import Callable, Iterable

from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.kit import names, telemetry
from agentmesh.kit.errors import MeshError
from agentmesh_router.adapters.runner_link import RunnerLink
from agentmesh_router.ports import Storage

log = telemetry.logger(__name__)

_MAX_CLAIM = 64
_RETRY_S = 0.5

_free_slots = telemetry.gauge(names.ROUTER_FREE_SLOTS, "Attempts that runners could take now")

OnClaimed = Callable[[RunnerLink, pb.ClaimedTask], None]
OnUnsure = Callable[[RunnerLink], None]


class Scheduler:
    """Knows the runners and their slots, and claims from storage's backlog for free ones."""

    def __init__(self) -> None:
        self._links: dict[str, RunnerLink] = {}
        self._backlog: set[str] = set()
        self._wake = asyncio.Event()
        self.claiming = asyncio.Lock()
        """Held from when a claim is asked for until its tasks are handed out."""

    def serving(self) -> set[str]:
        """Return the names of agents that a connected runner serves."""
        return {agent for link in self._links.values() for agent in link.agents}

    def free_slots(self, agent: str) -> int:
        """Return how many new tasks of an agent would start at once; none do while others wait for it."""
        return 0 if agent in self._backlog else sum(link.free_for(agent) for link in self._serving(agent))

    def add(self, link: RunnerLink) -> None:
        """Take a runner in."""
        self._links[link.incarnation] = link
        self.ready(link.agents)

    def remove(self, link: RunnerLink) -> None:
        """Forget a runner."""
        if self._links.get(link.incarnation) is link:
            del self._links[link.incarnation]

    def reserve(self, agent: str) -> RunnerLink | None:
        """Reserve a slot for a new task, unless others wait for this agent or no slot is free."""
        if agent in self._backlog:
            return None
        best = max(self._serving(agent), key=lambda link: link.free_for(agent), default=None)
        if best is None or best.free_for(agent) <= 0:
            return None
        best.use(agent)
        return best

    def release(self, link: RunnerLink, agent: str, slots: int = 1) -> None:
        """Give slots back."""
        link.use(agent, -slots)
        if self._backlog:
            self._wake.set()

    def ready(self, agents: Iterable[str]) -> None:
        """Hear that these agents may have ready work in storage."""
        self._backlog.update(agents)
        self._wake.set()

    async def claim_forever(self, storage: Storage, on_claimed: OnClaimed, on_unsure: OnUnsure) -> None:
        """Claim ready work for free slots until cancelled; `on_unsure` hears of runners whose claims got no reply."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            _free_slots.set(sum(link.free for link in self._links.values()))
            async with self.claiming:
                await self._claim_once(storage, on_claimed, on_unsure)

    def links(self) -> list[RunnerLink]:
        """Return the connected runners."""
        return list(self._links.values())

    async def _claim_once(self, storage: Storage, on_claimed: OnClaimed, on_unsure: OnUnsure) -> None:
        offers = self._offers()
        if not offers:
            return
        agents = {offer.agent for offer in offers}
        self._backlog -= agents
        try:
            claimed = await storage.claim(offers)
        except MeshError as error:
            log.warning("claim_failed", reason=error.reason)
            claimed = []
            for incarnation in {offer.incarnation for offer in offers}:
                if (link := self._links.get(incarnation)) is not None:
                    on_unsure(link)
            asyncio.get_running_loop().call_later(_RETRY_S, self.ready, agents)
        self._hand_out(offers, claimed, on_claimed)

    def _offers(self) -> list[pb.SlotOffer]:
        offers = []
        for agent in sorted(self._backlog):
            for link in self._serving(agent):
                slots = min(link.free_for(agent), _MAX_CLAIM)
                if slots > 0:
                    link.use(agent, slots)
                    offers.append(
                        pb.SlotOffer(
                            agent=agent,
                            agent_version=link.agents[agent],
                            incarnation=link.incarnation,
                            slots=slots,
                        )
                    )
        return offers

    def _hand_out(self, offers: list[pb.SlotOffer], claimed: list[pb.ClaimedTask], on_claimed: OnClaimed) -> None:
        counts: dict[tuple[str, str], int] = {}
        for task in claimed:
            key = (task.task.spec.agent, task.incarnation)
            counts[key] = counts.get(key, 0) + 1
            link = self._links.get(task.incarnation)
            if link is not None:
                on_claimed(link, task)
        for offer in offers:
            link = self._links.get(offer.incarnation)
            taken = counts.get((offer.agent, offer.incarnation), 0)
            if link is not None and taken < offer.slots:
                self.release(link, offer.agent, offer.slots - taken)
            if taken == offer.slots:
                self.ready({offer.agent})

    def _serving(self, agent: str) -> list[RunnerLink]:
        return [link for link in self._links.values() if agent in link.agents]
