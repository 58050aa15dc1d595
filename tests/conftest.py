"""Real servers that tests share: started when the first test of a worker asks for them, gone at its end."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.postgres import Postgres
from tests.support.redis import RedisServer

# How long it takes to make or to try an example says how busy the machine is.
settings.register_profile("unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; a test that stops it starts it again."""
    with Postgres() as server:
        yield server


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """A new database on the shared server, gone after the test."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis server; a test that stops it starts it again."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    """The shared Redis server, emptied.

    A worker that has run a thousand tests holds so many objects that a full garbage collection takes longer than
    services wait for Redis: what is there already is left out of it, as services do when they start.
    """
    redis_server.flush()
    gc.collect()
    gc.freeze()
    yield redis_server
    gc.unfreeze()
