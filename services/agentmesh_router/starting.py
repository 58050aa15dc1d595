"""Starts attempts: what was just accepted, and what was claimed from the backlog, with history and journal."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import events_pb2, task_pb2, task_service_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit import telemetry
from agentmesh.kit.clock import Clock, to_ms
from agentmesh.kit.errors import MeshError
from agentmesh_router import wire
from agentmesh_router.adapters.runner_link import RunnerLink
from agentmesh_router.attempts import Attempt, Attempts
from agentmesh_router.background import Background
from agentmesh_router.domain import RetryPolicy
from agentmesh_router.hub import Hub
from agentmesh_router.outcomes import Standing
from agentmesh_router.ports import Storage

log = telemetry.logger(__name__)

_MAX_HISTORY = 50
_MAX_HISTORY_BYTES = 256 * 1024
_RECONNECT_S = 0.2


class Starter:
    """Hands attempts to their runners."""

    def __init__(
        self,
        storage: Storage,
        hub: Hub,
        attempts: Attempts,
        clock: Clock,
        *,
        policy: RetryPolicy,
        default_timeout_s: float,
    ) -> None:
        self._storage = storage
        self._hub = hub
        self._attempts = attempts
        self._clock = clock
        self._policy = policy
        self._default_timeout_s = default_timeout_s
        self._background = Background("starting")

    def begin_claimed(self, link: RunnerLink, claimed: pb.ClaimedTask) -> None:
        """Start an attempt that was claimed from the backlog."""
        task = claimed.task
        count = len(events_pb2.EventList.FromString(claimed.events).events)
        first = claimed.first_sequence
        self._hub.publish(task.id, task.attempt, first, count, claimed.events, last=first + count - 1, terminal=False)
        self.begin(
            link,
            claimed.tenant,
            task_id=task.id,
            attempt=task.attempt,
            spec=task.spec,
            failures=task.failures,
            time_left_s=to_ms(claimed.time_left) / 1000 or self._default_timeout_s,
            traceparent=claimed.traceparent,
            steps=claimed.journal,
            journal_token=claimed.journal_page_token,
        )

    def begin(
        self,
        link: RunnerLink,
        tenant: str,
        *,
        task_id: str,
        attempt: int,
        spec: task_pb2.TaskSpec,
        failures: int,
        time_left_s: float,
        traceparent: str,
        steps: Any = (),
        journal_token: str = "",
        journal: object = False,
    ) -> None:
        """Start an attempt; with `journal` or a token, its journal follows the assignment."""
        standing = Standing(tenant=tenant, policy=wire.retry_policy_of(spec, self._policy), failures=failures)
        running = Attempt(
            task_id=task_id,
            attempt=attempt,
            agent=spec.agent,
            link=link,
            standing=standing,
            deadline=time.monotonic() + time_left_s,
        )
        continues = bool(journal_token or journal)
        assign = partial(
            self._attempts.assign,
            running,
            spec,
            time_left_s=time_left_s,
            traceparent=traceparent,
            steps=steps,
            journal_continues=continues,
        )
        if spec.context_id:
            self._background.start(
                self._assign_with_history(running, spec.context_id, assign, journal_token if continues else None)
            )
            return
        assign()
        if continues:
            self._background.start(self._send_journal(running, journal_token))

    async def _assign_with_history(
        self, running: Attempt, context_id: str, assign: Callable[..., None], journal_token: str | None
    ) -> None:
        history: list[types_pb2.Message] = []
        try:
            history = await self._history(running.standing.tenant, context_id, running.task_id)
        except MeshError as error:
            log.warning("history_not_read", task_id=running.task_id, reason=error.reason)
        assign(history=history)
        if journal_token is not None:
            await self._send_journal(running, journal_token)

    async def _send_journal(self, running: Attempt, token: str) -> None:
        while running.link.up and not running.over:
            try:
                steps, token = await self._storage.read_steps(running.standing.tenant, running.task_id, token)
            except MeshError:
                await asyncio.sleep(_RECONNECT_S)
                continue
            page = runner_pb.JournalPage(
                task_id=running.task_id, attempt=running.attempt, journal=steps, last=not steps
            )
            running.link.send(journal_pages=[page])
            if not steps:
                return

    async def _history(self, tenant: str, context_id: str, task_id: str) -> list[types_pb2.Message]:
        request = task_service_pb2.ListTasksRequest(
            context_id=context_id, states=[events_pb2.TASK_STATE_COMPLETED], page_size=_MAX_HISTORY
        )
        messages: list[types_pb2.Message] = []
        size = 0
        for task in (await self._storage.list_tasks(tenant, request)).tasks:
            if task.id == task_id:
                continue
            for role, text in ((types_pb2.ROLE_AGENT, task.result.text), (types_pb2.ROLE_USER, task.spec.prompt)):
                size += len(text)
                if text and size <= _MAX_HISTORY_BYTES:
                    part = types_pb2.Part(text=text)
                    messages.append(types_pb2.Message(role=role, parts=[part], task_id=task.id, context_id=context_id))
        return messages[::-1]

    def time_left_s(self, task: task_pb2.Task) -> float:
        """Return the seconds that a running task has left."""
        timeout_s = to_ms(task.spec.timeout) / 1000 if task.spec.HasField("timeout") else self._default_timeout_s
        return timeout_s - (self._clock.now_ms() - to_ms(task.start_time)) / 1000
