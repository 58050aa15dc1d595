import pytest

from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit.errors import InvalidRequest, NotFound, Unavailable
from agentmesh_router.catalog import Catalog

ECHO = task_pb2.Agent(name="echo", version="1")
SPEC = task_pb2.TaskSpec(agent="echo", prompt="x")


async def test_a_router_that_has_just_started_sends_nobody_away_for_good() -> None:
    catalog = Catalog()
    with pytest.raises(Unavailable) as refused:
        catalog.check(SPEC)
    assert (refused.value.reason, refused.value.retry_after_s) == ("NOT_READY", 0.2)
    with pytest.raises(Unavailable):
        catalog.get("echo", ())
    assert not await catalog.is_known()


async def test_what_a_runner_announced_is_known_before_storage_was_asked_but_the_router_is_not_ready() -> None:
    catalog = Catalog()
    assert catalog.announce([ECHO]) == [ECHO]
    catalog.check(SPEC)
    assert not await catalog.is_known()
    catalog.learn([ECHO])
    assert await catalog.is_known()


def test_an_agent_that_storage_does_not_know_is_refused() -> None:
    catalog = Catalog()
    catalog.learn([ECHO])
    with pytest.raises(InvalidRequest) as refused:
        catalog.check(task_pb2.TaskSpec(agent="nobody"))
    assert refused.value.reason == "AGENT_NOT_FOUND"
    with pytest.raises(NotFound):
        catalog.get("nobody", ())


def test_only_agents_that_are_new_or_differ_are_announced_again() -> None:
    catalog = Catalog()
    catalog.learn([ECHO])
    newer = task_pb2.Agent(name="echo", version="2")
    assert catalog.announce([ECHO]) == []
    assert catalog.announce([newer]) == [newer]
