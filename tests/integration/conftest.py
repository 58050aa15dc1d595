"""The deployments that promises are tested on: replicas over PostgreSQL, and one storage over SQLite."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.fleet import Fleet
from tests.support.history import Expected, History
from tests.support.reading import Log
from tests.support.settling import collect

Start = Callable[..., Fleet]


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts fleets that the tests of a module share: two of everything, but one storage on SQLite."""
    with ExitStack() as stack:

        def begin(**counts: Any) -> Fleet:
            database, storages = "", 1
            if request.param == "postgres":
                database, storages = request.getfixturevalue("postgres").new_database(), 2
            several = {"routers": 2, "runners": 2, "storages": storages, **counts}
            return stack.enter_context(Fleet(tmp_path_factory.mktemp("fleet"), database=database, **several))

        yield begin


async def judged(fleet: Fleet, log: Log, expected: Expected, request_id: str) -> None:
    """Hold a reader's log against what the store says."""
    history = History()
    history.submit(request_id, expected)
    history.accept(request_id, log.task_id)
    reading = history.read("reader", log.task_id)
    for entry in log.entries:
        reading.add(*entry)
    await asyncio.to_thread(fleet.wait_serving)
    await collect(fleet.routers, history, log.task_id)
    verdict = history.verdict()
    assert verdict.clean, verdict.report()
