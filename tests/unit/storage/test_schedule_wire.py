import pytest

from agentmesh.api.schedule.v1 import schedule_service_pb2 as schedule_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit.clock import timestamp
from agentmesh_storage import schedules as s
from agentmesh_storage import wire
from agentmesh_storage.domain import Outcome

TASK = task_pb2.TaskSpec(agent="echo", prompt="hi", labels={"a": "b"})
SPEC = schedule_pb.ScheduleSpec(name="n", cron="0 9 * * *", time_zone="Europe/Berlin", task=TASK)


def created(**fields: object) -> s.Schedule:
    """Read a schedule from the mutation that makes it."""
    task = pb.CreateTask(spec=TASK.SerializeToString(), agent="echo", priority=7, labels={"a": "b"}, context_id="c")
    task.timeout.FromSeconds(5)
    message = pb.CreateSchedule(schedule_id="s", spec=SPEC.SerializeToString(), task=task, **fields)  # type: ignore[arg-type]
    change = wire.from_mutation(pb.Mutation(tenant="acme", create_schedule=message), "r").change
    assert isinstance(change, s.CreateSchedule)
    return change.schedule


def test_policies_have_the_contracts_numbers() -> None:
    names = {name.removeprefix("OVERLAP_POLICY_"): number for name, number in schedule_pb.OverlapPolicy.items()}
    assert {policy.name: int(policy) for policy in s.Overlap} | {"UNSPECIFIED": 0} == names


def test_a_schedule_is_read_with_the_task_that_it_makes() -> None:
    schedule = created(cron="0 9 * * *", time_zone="Europe/Berlin", start_time=timestamp(5), end_time=timestamp(9))
    assert (schedule.tenant, schedule.agent, schedule.priority, schedule.labels) == ("acme", "echo", 7, {"a": "b"})
    assert (schedule.timeout_ms, schedule.queue_timeout_ms, schedule.context_id) == (5000, 0, "c")
    assert (schedule.overlap, schedule.start_ms, schedule.end_ms) == (s.Overlap.SKIP, 5, 9)
    assert created(overlap=schedule_pb.OVERLAP_POLICY_CANCEL).start_ms is None


def test_a_schedule_is_shown_as_it_was_asked_for_with_what_became_of_it() -> None:
    schedule = created()
    schedule.fired, schedule.skipped, schedule.missed, schedule.last_task_id = 3, 2, 1, "t"
    schedule.create_ms, schedule.next_ms, schedule.last_ms = 1000, 3000, 2000
    shown = wire.to_result(Outcome(schedule=schedule)).schedule
    assert shown == schedule_pb.Schedule(
        id="s",
        spec=SPEC,
        create_time=timestamp(1000),
        next_time=timestamp(3000),
        last_time=timestamp(2000),
        last_task_id="t",
        fired=3,
        skipped=2,
        missed=1,
    )
    schedule.next_ms = schedule.last_ms = None
    bare = wire.to_result(Outcome(schedule=schedule)).schedule
    assert not bare.HasField("next_time")
    assert not bare.HasField("last_time")


@pytest.mark.parametrize(
    ("mutation", "change"),
    [
        (pb.Mutation(delete_schedule=pb.DeleteSchedule(schedule_id="s")), s.DeleteSchedule("s")),
        (pb.Mutation(pause_schedule=pb.PauseSchedule(schedule_id="s", resume=True)), s.PauseSchedule("s", resume=True)),
        (
            pb.Mutation(fire_schedule=pb.FireSchedule(schedule_id="s", task_id="t", request_id="r")),
            s.FireSchedule("s", "t", "r"),
        ),
    ],
)
def test_changes_of_schedules_are_read(mutation: pb.Mutation, change: s.ScheduleChange) -> None:
    assert wire.from_mutation(mutation, "").change == change
