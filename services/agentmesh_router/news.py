"""What others committed: taken in as it is told, and asked for now and then, because what is told may get lost."""

import asyncio
import random

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import events_pb2
from agentmesh.kit import telemetry
from agentmesh.kit.errors import MeshError
from agentmesh.kit.wire import TERMINAL
from agentmesh_router.attempts import Attempt, Attempts
from agentmesh_router.background import Background
from agentmesh_router.hub import Hub
from agentmesh_router.ports import Storage

log = telemetry.logger(__name__)

Stop = runner_pb.StopAttempt

_RECONNECT_S = 0.2
_MAX_ASKED = 10_000


class News:
    """Tells watchers, running attempts and waiting parents of this router what happened elsewhere."""

    def __init__(self, storage: Storage, hub: Hub, attempts: Attempts) -> None:
        self._storage = storage
        self._hub = hub
        self._attempts = attempts
        self._background = Background("news")
        attempts.on_ended = self.child_ended

    async def follow(self) -> None:
        """Take news in until cancelled."""
        while True:
            try:
                async for heads in self._storage.heads():
                    if heads is None:
                        self._background.start(self.ask())
                    for head in heads or ():
                        self._take(head)
            except MeshError as error:
                log.info("news_broken", reason=error.reason)
            await asyncio.sleep(_RECONNECT_S)

    async def ask_forever(self, interval_s: float) -> None:
        """Ask for everything that somebody here waits for, about that often, until cancelled."""
        while True:
            await asyncio.sleep(interval_s * random.uniform(0.75, 1.25))  # noqa: S311 - apart from other routers
            try:
                await self.ask()
            except MeshError as error:
                log.info("heads_not_read", reason=error.reason)

    async def ask(self) -> None:
        """Ask where the logs end that are watched or written here."""
        ids = list(dict.fromkeys((*self._hub.task_ids(), *self._attempts.task_ids())))
        for start in range(0, len(ids), _MAX_ASKED):
            asked = ids[start : start + _MAX_ASKED]
            found = {head.task_id: head for head in await self._storage.heads_of(asked)}
            for task_id in asked:
                if task_id in found:
                    self._take(found[task_id])
                else:
                    self._hub.doubt(task_id)

    def child_ended(self, tenant: str, task_id: str, parent_id: str) -> None:
        """Tell a parent that runs here that a child has ended."""
        self._hub.doubt(parent_id)
        parent = self._attempts.get(parent_id)
        if parent is not None:
            self._background.start(self._tell_parent(parent, tenant, task_id))

    async def deliver_answers(self, attempt: Attempt) -> None:
        """Send the answers that may have come while nobody told the runner; it knows which it has."""
        token = ""
        while True:
            steps, token = await self._storage.read_steps(attempt.standing.tenant, attempt.task_id, token)
            for step in steps:
                if step.kind == "input":
                    delivery = runner_pb.DeliverInput(
                        task_id=attempt.task_id, attempt=attempt.attempt, input_id=step.key
                    )
                    delivery.message.ParseFromString(step.result)
                    attempt.link.send(inputs=[delivery])
            if not token:
                return

    def _take(self, head: pb.TaskHead) -> None:
        terminal = head.state in TERMINAL
        self._hub.grown(head.task_id, head.last_sequence, terminal=terminal)
        attempt = self._attempts.get(head.task_id)
        if attempt is not None and not attempt.over:
            if terminal or head.attempt > attempt.attempt:
                self._attempts.stop(attempt, Stop.REASON_STALE)
                self._attempts.forget(attempt)
            elif head.cancel_requested:
                self._attempts.stop(attempt, Stop.REASON_CANCELED)
            elif attempt.standing.asking and head.state != events_pb2.TASK_STATE_INPUT_REQUIRED:
                attempt.standing.asking = False
                self._background.start(self.deliver_answers(attempt))
        if terminal and head.parent_id:
            self.child_ended(head.tenant, head.task_id, head.parent_id)

    async def _tell_parent(self, parent: Attempt, tenant: str, child_id: str) -> None:
        child = await self._storage.get_task(tenant, child_id)
        parent.link.send(children=[runner_pb.ChildUpdate(task_id=parent.task_id, attempt=parent.attempt, child=child)])
