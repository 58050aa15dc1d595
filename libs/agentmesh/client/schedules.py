"""The part of AsyncClient that makes tasks recur."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, Protocol, Unpack

from agentmesh.api.schedule.v1 import schedule_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.client.calls import Caller
from agentmesh.client.spec import TaskOptions, in_utc
from agentmesh.kit.clock import duration
from agentmesh.kit.ids import new_id

Overlap = Literal["skip", "allow", "queue", "cancel"]

_OVERLAPS: Mapping[str, pb.OverlapPolicy.ValueType] = {
    "skip": pb.OVERLAP_POLICY_SKIP,
    "allow": pb.OVERLAP_POLICY_ALLOW,
    "queue": pb.OVERLAP_POLICY_QUEUE,
    "cancel": pb.OVERLAP_POLICY_CANCEL,
}


class _Client(Protocol):
    """What this part needs of the rest."""

    _caller: Caller

    async def _spec(self, agent: str, prompt: str, options: TaskOptions) -> task_pb2.TaskSpec: ...


class ScheduleCalls:
    """Schedules: create, find, pause, run out of turn, delete."""

    async def create_schedule(
        self: _Client,
        agent: str,
        prompt: str = "",
        *,
        cron: str = "",
        every_s: float | None = None,
        time_zone: str = "",
        overlap: Overlap = "skip",
        catch_up_s: float | None = None,
        name: str = "",
        begin_time: datetime | None = None,
        end_time: datetime | None = None,
        request_id: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> pb.Schedule:
        """Make a schedule that submits this task again and again, at the times of `cron` or every `every_s` seconds.

        `cron` has five fields, or six with the second first, read in `time_zone` (an IANA name; UTC by default).
        `overlap` says what happens while the task before has not ended; `catch_up_s` how late a firing may be made up
        for (60 s by default). It fires neither before `begin_time` nor after `end_time`; without a time zone they are
        UTC. `request_id` makes calls the same schedule. Raises InvalidRequest with the fields that are wrong.
        """
        spec = pb.ScheduleSpec(
            name=name, time_zone=time_zone, overlap=_OVERLAPS[overlap], task=await self._spec(agent, prompt, options)
        )
        if cron or every_s is None:
            spec.cron = cron
        if every_s is not None:
            spec.interval.CopyFrom(duration(every_s))
        if catch_up_s is not None:
            spec.catch_up.CopyFrom(duration(catch_up_s))
        for field, moment in ((spec.start_time, begin_time), (spec.end_time, end_time)):
            if moment is not None:
                field.FromDatetime(in_utc(moment))
        request = pb.CreateScheduleRequest(request_id=request_id or new_id(), spec=spec)
        answer: pb.CreateScheduleResponse = await self._caller.unary("schedules", "CreateSchedule", request)
        return answer.schedule

    async def schedules(self: _Client, *, page_size: int = 0, page_token: str = "") -> pb.ListSchedulesResponse:
        """Return a page of schedules, newest first; `page_size` is at most 1000, 50 if 0."""
        request = pb.ListSchedulesRequest(page_size=page_size, page_token=page_token)
        page: pb.ListSchedulesResponse = await self._caller.unary("schedules", "ListSchedules", request)
        return page

    async def schedule(self: _Client, schedule_id: str) -> pb.Schedule:
        """Return a schedule as it stands; raise NotFound."""
        request = pb.GetScheduleRequest(schedule_id=schedule_id)
        answer: pb.GetScheduleResponse = await self._caller.unary("schedules", "GetSchedule", request)
        return answer.schedule

    async def delete_schedule(self: _Client, schedule_id: str) -> None:
        """End a schedule; the tasks that it made stay. Raises NotFound."""
        request = pb.DeleteScheduleRequest(schedule_id=schedule_id)
        await self._caller.unary("schedules", "DeleteSchedule", request)

    async def pause_schedule(self: _Client, schedule_id: str) -> pb.Schedule:
        """Let a schedule fire no more until it is resumed; return it as it stands. Idempotent."""
        request = pb.PauseScheduleRequest(schedule_id=schedule_id)
        answer: pb.PauseScheduleResponse = await self._caller.unary("schedules", "PauseSchedule", request)
        return answer.schedule

    async def resume_schedule(self: _Client, schedule_id: str) -> pb.Schedule:
        """Let a schedule fire again, from now on; return it as it stands. Idempotent."""
        request = pb.PauseScheduleRequest(schedule_id=schedule_id, resume=True)
        answer: pb.PauseScheduleResponse = await self._caller.unary("schedules", "PauseSchedule", request)
        return answer.schedule

    async def run_schedule(self: _Client, schedule_id: str, *, request_id: str | None = None) -> task_pb2.Task:
        """Make a schedule's task now, whatever else runs, also while it is paused; return the task.

        `request_id` makes calls the same task (at most 64 characters).
        """
        request = pb.RunScheduleNowRequest(schedule_id=schedule_id, request_id=request_id or new_id())
        answer: pb.RunScheduleNowResponse = await self._caller.unary("schedules", "RunScheduleNow", request)
        return answer.task
