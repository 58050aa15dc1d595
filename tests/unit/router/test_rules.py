import asyncio
import dataclasses

import pytest

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as storage_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.task.v1 import task_pb2, task_service_pb2
from agentmesh.kit.errors import InvalidRequest, NotFound
from agentmesh.sdk.agent import to_struct
from agentmesh_router import wire
from agentmesh_router.adapters.runner_link import RunnerLink
from agentmesh_router.catalog import Catalog
from agentmesh_router.domain import RetryPolicy, SpecFacts, violations_of
from agentmesh_router.scheduler import Scheduler

GOOD = SpecFacts("echo", 5, True, 5, 1.0, None, None, (), (), "", 0, 100, 0.0)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("spec.agent", {"agent": ""}),
        ("spec.prompt", {"has_content": False}),
        ("spec.prompt", {"prompt_chars": 1_000_001}),
        ("spec.priority", {"priority": 11}),
        ("spec.priority", {"priority": -1}),
        ("spec.timeout", {"timeout_s": 0.0}),
        ("spec.timeout", {"timeout_s": 31 * 86_400.0}),
        ("spec.queue_timeout", {"queue_timeout_s": -1.0}),
        ("spec.idle_timeout", {"idle_timeout_s": 0.0}),
        ("spec.artifact_ids", {"artifact_ids": ["x"] * 101}),
        ("spec.labels", {"labels": [(str(n), "") for n in range(33)]}),
        ("spec.labels", {"labels": [("x" * 64, "")]}),
        ("spec.labels", {"labels": [("", "x")]}),
        ("spec.labels", {"labels": [("x", "y" * 64)]}),
        ("spec.context_id", {"context_id": "x" * 129}),
        ("spec.retry.max_attempts", {"max_attempts": 101}),
        ("spec.retry.max_attempts", {"max_attempts": -1}),
        ("spec", {"size_bytes": 2**20 + 1}),
        ("spec.start_time", {"starts_in_s": 400 * 366 * 86_400.0}),
    ],
)
def test_each_rule_names_its_field(field: str, changes: dict[str, object]) -> None:
    assert violations_of(GOOD) == []
    found = violations_of(dataclasses.replace(GOOD, **changes))  # type: ignore[arg-type]
    assert [name for name, _ in found] == [field]


def test_every_wrong_field_is_named_at_once() -> None:
    facts = dataclasses.replace(GOOD, agent="", priority=99, has_content=False)
    assert [name for name, _ in violations_of(facts)] == ["spec.agent", "spec.prompt", "spec.priority"]


def test_the_wait_doubles_up_to_its_bound_however_often_a_task_failed() -> None:
    policy = RetryPolicy(100, 1.0, 10.0)
    assert [policy.backoff_s(n) for n in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 10, 10]


def test_a_task_is_tried_as_often_as_its_policy_says() -> None:
    policy = RetryPolicy(3, 1.0, 10.0, frozenset({"POISON"}))
    assert [policy.retries(n, "X", non_retryable=False) for n in (1, 2, 3)] == [True, True, False]
    assert not policy.retries(1, "POISON", non_retryable=False)
    assert not policy.retries(1, "X", non_retryable=True)


def test_a_spec_overrides_only_what_it_sets_of_the_retry_policy() -> None:
    default = RetryPolicy(3, 1.0, 10.0)
    assert wire.retry_policy_of(task_pb2.TaskSpec(), default) == default
    spec = task_pb2.TaskSpec(retry=task_pb2.RetryPolicy(max_attempts=7))
    assert wire.retry_policy_of(spec, default) == RetryPolicy(7, 1.0, 10.0)


@pytest.mark.parametrize("size", [0, 1, 100, 130, 20_000])
def test_a_chunk_written_from_bytes_is_the_message_that_protobuf_reads(size: int) -> None:
    deltas = [pb.TaskEvent(text_delta=pb.TextDelta(text="x" * size)), pb.TaskEvent()]
    chunk = pb.EventChunk(task_id="t", attempt=2, first_sequence=7, events=deltas)
    data = wire.encode_chunk("t", 2, 7, pb.EventList(events=deltas).SerializeToString())
    for response in (task_service_pb2.WatchTaskResponse, task_service_pb2.RunTasksResponse):
        assert list(response.FromString(data + data).chunks) == [chunk, chunk]
    rest = pb.EventList.FromString(wire.cut(pb.EventList(events=deltas).SerializeToString(), 1))
    assert list(rest.events) == deltas[1:]


# -- slots --------------------------------------------------------------------------------------------------


def link(name: str, slots: int, agents: tuple[str, ...] = ("echo",), **agent_slots: int) -> RunnerLink:
    hello = runner_pb.RunnerHello(
        name=name, incarnation=f"{name}~1", slots=slots, agents=[task_pb2.Agent(name=a, version="1") for a in agents]
    )
    hello.agent_slots.update(agent_slots)
    return RunnerLink("127.0.0.1:1", hello)


def scheduled(*links: RunnerLink) -> Scheduler:
    """Return a scheduler whose backlog is known to be empty."""
    scheduler = Scheduler()
    for one in links:
        scheduler.add(one)
    scheduler._backlog.clear()
    return scheduler


def test_a_task_goes_to_the_runner_with_most_free_slots_and_to_none_when_all_are_full() -> None:
    small, large = link("small", 1), link("large", 3)
    scheduler = scheduled(small, large)
    given = [scheduler.reserve("echo") for _ in range(5)]
    assert given[:2] == [large, large]
    assert {one.name for one in given[2:4] if one} == {"small", "large"}
    assert given[4] is None
    assert scheduler.reserve("other") is None


def test_nobody_who_came_later_goes_before_those_who_wait() -> None:
    one = link("one", 2)
    scheduler = scheduled(one)
    scheduler.ready({"echo"})
    assert scheduler.reserve("echo") is None
    assert one.free == 2


def test_a_slot_is_given_back_once() -> None:
    one = link("one", 2)
    scheduler = scheduled(one)
    scheduler.reserve("echo")
    scheduler.release(one, "echo")
    assert (one.free, one.free_for("echo")) == (2, 2)


def test_an_agent_of_its_own_bound_takes_no_more_and_leaves_the_rest_to_others() -> None:
    one = link("one", 10, ("echo", "heavy"), heavy=1)
    scheduler = scheduled(one)
    assert scheduler.reserve("heavy") is one
    assert scheduler.reserve("heavy") is None
    assert (one.free_for("heavy"), one.free_for("echo")) == (0, 9)


def test_a_runner_that_drains_or_is_gone_gets_nothing() -> None:
    one = link("one", 2)
    scheduler = scheduled(one)
    one.draining = True
    assert scheduler.reserve("echo") is None
    one.draining, one.up = False, False
    assert scheduler.reserve("echo") is None


class OneClaim:
    """Storage that answers one claim."""

    def __init__(self, tasks: list[storage_pb.ClaimedTask]) -> None:
        self.offers: list[storage_pb.SlotOffer] = []
        self._tasks = tasks

    async def claim(self, offers: list[storage_pb.SlotOffer]) -> list[storage_pb.ClaimedTask]:
        self.offers.extend(offers)
        tasks, self._tasks = self._tasks, []
        return tasks


async def test_slots_that_a_claim_left_over_are_free_again() -> None:
    one = link("one", 5)
    scheduler = scheduled(one)
    task = storage_pb.ClaimedTask(task=task_pb2.Task(spec=task_pb2.TaskSpec(agent="echo")), incarnation="one~1")
    storage = OneClaim([task, task])
    begun: list[str] = []
    scheduler.ready({"echo", "unknown"})
    work = scheduler.claim_forever(storage, lambda to, claimed: begun.append(to.name), lambda _: None)  # type: ignore[arg-type]
    claiming = asyncio.create_task(work)
    while len(begun) < 2:
        await asyncio.sleep(0)
    claiming.cancel()
    assert [(offer.agent, offer.slots) for offer in storage.offers] == [("echo", 5)]
    assert (begun, one.free) == (["one", "one"], 3)


# -- agents -------------------------------------------------------------------------------------------------


def test_parameters_are_held_against_the_agents_schema() -> None:
    catalog = Catalog()
    count = {"type": "integer", "minimum": 0}
    schema = {"type": "object", "properties": {"count": count}, "additionalProperties": False}
    agent = task_pb2.Agent(name="echo", parameters_schema=to_struct(schema))
    assert catalog.announce([agent]) == [agent]
    assert catalog.announce([agent]) == []
    catalog.learn([agent])

    def check(**parameters: object) -> None:
        catalog.check(task_pb2.TaskSpec(agent="echo", parameters=to_struct(parameters)))

    check(count=3)
    check(count=3)
    for wrong in ({"count": 1.5}, {"count": -1}, {"other": 1}):
        for _ in range(2):
            with pytest.raises(InvalidRequest) as refused:
                check(**wrong)
            assert refused.value.reason == "PARAMETERS_INVALID"
    with pytest.raises(InvalidRequest) as refused:
        catalog.check(task_pb2.TaskSpec(agent="none"))
    assert refused.value.violations[0][0] == "spec.agent"
    assert "echo" in refused.value.violations[0][1]


def test_what_fitted_an_agent_is_checked_again_when_its_schema_changes() -> None:
    catalog = Catalog()
    spec = task_pb2.TaskSpec(agent="echo", parameters=to_struct({"count": 3}))
    catalog.announce([task_pb2.Agent(name="echo")])
    catalog.check(spec)
    catalog.announce([task_pb2.Agent(name="echo", parameters_schema=to_struct({"maxProperties": 0}))])
    with pytest.raises(InvalidRequest):
        catalog.check(spec)


def test_agents_that_nobody_serves_now_are_still_known() -> None:
    catalog = Catalog()
    catalog.learn([task_pb2.Agent(name=name) for name in ("b", "a")])
    assert [(agent.name, agent.serving) for agent in catalog.list(["b"])] == [("a", False), ("b", True)]
    assert catalog.get("b", ["b"]).serving
    with pytest.raises(NotFound):
        catalog.get("c", [])
