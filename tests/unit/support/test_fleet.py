"""A fleet keeps its members' names and ports whatever is done to them, and leaves nothing behind."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.fleet import Fleet
from tests.support.health import is_serving
from tests.support.reading import echo, read_through


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One router before a proxy, two runners, on SQLite."""
    with Fleet(tmp_path_factory.mktemp("fleet"), runners=2, proxied=["router-1"]) as running:
        yield running


async def test_a_task_runs_through_the_proxy(fleet: Fleet) -> None:
    log = await read_through(fleet.router, echo(count=3), "")
    assert log.messages() == ["hello"] * 3
    assert fleet.router == fleet.proxies["router-1"].address
    assert fleet.proxies["router-1"].accepted > 0


def test_a_killed_member_comes_back_on_its_port(fleet: Fleet) -> None:
    before = fleet.pid("runner-2")
    fleet.kill("runner-2")
    fleet.wait_serving("runner-2")
    assert fleet.pid("runner-2") != before
    assert fleet.starts("runner-2") == 2
    assert fleet.deaths == []


def test_a_member_that_dies_by_itself_is_noted_and_started(fleet: Fleet) -> None:
    fleet.members["llm-1"].daemon.send(signal.SIGKILL)
    fleet.wait_for(lambda: fleet.starts("llm-1") == 2, "llm-1 was started again")
    fleet.wait_serving("llm-1")
    assert fleet.deaths == [("llm-1", -signal.SIGKILL)]


def test_a_drained_member_stays_away_until_it_is_started(fleet: Fleet) -> None:
    assert fleet.drain("runner-1") == 0
    member = fleet.members["runner-1"]
    assert not is_serving("runner", member.address)
    fleet.start("runner-1")
    fleet.wait_serving("runner-1")
    assert fleet.restart("runner-1") == 0


def test_a_frozen_member_is_silent_until_it_is_thawed(fleet: Fleet) -> None:
    fleet.freeze("llm-1")
    assert not is_serving("llm", fleet.members["llm-1"].address)
    fleet.thaw("llm-1")
    assert is_serving("llm", fleet.members["llm-1"].address)


def test_nothing_is_left_behind_by_frozen_and_killed_members(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        family = [process for member in fleet.members.values() for process in member.daemon.family()]
        assert len(family) >= 4
        fleet.freeze("runner-1")
        fleet.kill("storage-1", start=False)
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
