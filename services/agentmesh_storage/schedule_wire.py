"""Between the contract's messages about schedules and the domain."""

from agentmesh.api.schedule.v1 import schedule_service_pb2 as schedule_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.kit.clock import timestamp, to_ms
from agentmesh_storage.schedules import CreateSchedule, DeleteSchedule, FireSchedule, Overlap, PauseSchedule, Schedule


def to_schedule(schedule: Schedule) -> schedule_pb.Schedule:
    """Write a schedule as clients see it."""
    message = schedule_pb.Schedule(
        id=schedule.id,
        spec=schedule_pb.ScheduleSpec.FromString(schedule.spec),
        paused=schedule.paused,
        create_time=timestamp(schedule.create_ms),
        last_task_id=schedule.last_task_id,
        fired=schedule.fired,
        skipped=schedule.skipped,
        missed=schedule.missed,
    )
    message.spec.task.ParseFromString(schedule.task_spec)
    if schedule.next_ms is not None:
        message.next_time.CopyFrom(timestamp(schedule.next_ms))
    if schedule.last_ms is not None:
        message.last_time.CopyFrom(timestamp(schedule.last_ms))
    return message


def from_create(tenant: str, message: pb.CreateSchedule) -> CreateSchedule:
    """Read a new schedule."""
    spec = schedule_pb.ScheduleSpec.FromString(message.spec)
    spec.ClearField("task")  # kept once, as the task's own bytes
    task = message.task
    return CreateSchedule(
        Schedule(
            id=message.schedule_id,
            tenant=tenant,
            spec=spec.SerializeToString(),
            task_spec=task.spec,
            agent=task.agent,
            request_id=message.request_id,
            request_hash=message.request_hash,
            cron=message.cron,
            interval_ms=to_ms(message.interval),
            time_zone=message.time_zone,
            overlap=Overlap(message.overlap or Overlap.SKIP),
            catch_up_ms=to_ms(message.catch_up),
            start_ms=to_ms(message.start_time) if message.HasField("start_time") else None,
            end_ms=to_ms(message.end_time) if message.HasField("end_time") else None,
            priority=task.priority,
            timeout_ms=to_ms(task.timeout),
            queue_timeout_ms=to_ms(task.queue_timeout),
            context_id=task.context_id,
            labels=dict(task.labels),
        )
    )


def from_delete(message: pb.DeleteSchedule) -> DeleteSchedule:
    """Read that a schedule ends."""
    return DeleteSchedule(message.schedule_id)


def from_pause(message: pb.PauseSchedule) -> PauseSchedule:
    """Read that a schedule pauses, or goes on."""
    return PauseSchedule(message.schedule_id, message.resume)


def from_fire(message: pb.FireSchedule) -> FireSchedule:
    """Read that a schedule fires out of its turn."""
    return FireSchedule(message.schedule_id, message.task_id, message.request_id)
