"""One store after another: every test that asks for a driver runs over every backend."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.task_store_driver import BACKENDS, Backend, Driver


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.__name__)
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    backend: Backend = request.param
    async with backend(request, tmp_path) as store:
        yield Driver(store)
