"""What the router needs from storage, and from what counts submits."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.schedule.v1 import schedule_service_pb2
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2, task_service_pb2
from agentmesh_router.hub import LogPage
from agentmesh_router.token_bucket import Grant, Rate


class Storage(Protocol):
    """The task store, as routers see it. Every method raises Unavailable while it can't be reached."""

    async def commit(self, mutation: pb.Mutation) -> pb.MutationResult:
        """Apply a mutation, batched with those of others; return after COMMIT. Raises what it was refused with."""

    def commit_soon(self, mutation: pb.Mutation) -> asyncio.Future[pb.MutationResult]:
        """Queue a mutation behind those queued before; a refusal is in the result's `error`."""

    async def claim(self, offers: Sequence[pb.SlotOffer]) -> list[pb.ClaimedTask]:
        """Claim ready tasks for free slots."""

    async def get_task(self, tenant: str, task_id: str) -> task_pb2.Task:
        """Return a task."""

    async def get_task_and_trace(self, tenant: str, task_id: str) -> tuple[task_pb2.Task, str]:
        """Return a task and the trace context that it was submitted in."""

    async def list_tasks(
        self, tenant: str, request: task_service_pb2.ListTasksRequest
    ) -> task_service_pb2.ListTasksResponse:
        """Return a page of tasks."""

    async def read_log(self, tenant: str, task_id: str, after_sequence: int) -> LogPage:
        """Return chunks of a log."""

    async def read_steps(self, tenant: str, task_id: str, page_token: str) -> tuple[list[runner_pb.StepRecord], str]:
        """Return a page of a journal and the token of the next."""

    async def get_schedule(self, tenant: str, schedule_id: str) -> schedule_service_pb2.Schedule:
        """Return a schedule."""

    async def list_schedules(
        self, tenant: str, request: schedule_service_pb2.ListSchedulesRequest
    ) -> schedule_service_pb2.ListSchedulesResponse:
        """Return a page of schedules."""

    async def list_agents(self) -> list[task_pb2.Agent]:
        """Return every agent that was ever announced."""

    def heads(self) -> AsyncIterator[list[pb.TaskHead] | None]:
        """Return the news of other routers and of storage itself; None when some may be lost. Ends when it breaks."""

    async def heads_of(self, task_ids: Sequence[str]) -> list[pb.TaskHead]:
        """Return where the logs of those tasks end that exist; at most 10,000."""


class Buckets(Protocol):
    """Token buckets by tenant, which routers may share. Every method raises Unavailable, soon."""

    async def take(self, tenant: str, rate: Rate, wanted: int) -> Grant:
        """Draw up to `wanted` tokens; a bucket that nobody has drawn from is full."""

    async def routers(self) -> int:
        """Return how many routers share the buckets, this one included."""

    async def aclose(self) -> None:
        """Let go of connections."""
