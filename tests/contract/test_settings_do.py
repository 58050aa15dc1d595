"""Keys of the configuration that other tests don't hold to their word; `tests/unit/test_guide_keys.py` has the list."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from structlog.testing import capture_logs

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit import config
from agentmesh.kit.config import ConfigError
from agentmesh.kit.errors import InvalidRequest, ResourceExhausted
from agentmesh.kit.settings import Cache
from agentmesh.kit.sql_echo import SqlEcho
from agentmesh_router.catalog import Catalog
from agentmesh_router.limiter import rate_limits
from agentmesh_storage.backends import open_backend
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import ask, llm_service, provider
from tests.support.redis import RedisServer

_LOG = """
import logging, sys
from agentmesh.kit import config, lifecycle, telemetry
lifecycle.configure("router", config.load())
log = telemetry.logger("here")
log.debug("a_detail", size=1)
log.info("a_fact", size=2, token="canary")
logging.getLogger("a.library").info("its own")
"""


def logged(folder: Path, **variables: str) -> tuple[str, Path]:
    """Return what a process with this configuration logs to its standard error, and where its files are."""
    environ = {f"AGENTMESH_{key}": value for key, value in variables.items()}
    done = subprocess.run(
        [sys.executable, "-c", _LOG],
        env={"PATH": os.environ["PATH"], "ENVIRONMENT": "test", "AGENTMESH_DATA_DIR": str(folder), **environ},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stderr, folder / "logs"


# --- logging, debug


def test_lines_go_where_console_and_file_say(tmp_path: Path) -> None:
    errors, logs = logged(tmp_path, LOGGING__CONSOLE="true", LOGGING__FILE="false")
    assert "a_fact" in errors
    assert not logs.exists()
    errors, logs = logged(tmp_path, LOGGING__CONSOLE="false", LOGGING__FILE="true")
    assert errors == ""
    assert "a_fact" in (logs / "router.log").read_text()
    errors, _ = logged(tmp_path, LOGGING__CONSOLE="false", LOGGING__FILE=str(tmp_path / "elsewhere" / "my.log"))
    assert "a_fact" in (tmp_path / "elsewhere" / "my.log").read_text()


@pytest.mark.parametrize(("level", "seen"), [("DEBUG", True), ("INFO", True), ("WARNING", False)])
def test_the_level_decides_what_is_logged(tmp_path: Path, level: str, seen: bool) -> None:
    errors, _ = logged(tmp_path, LOGGING__LEVEL=level)
    assert ("a_fact" in errors) is seen
    assert ("a_detail" in errors) is (level == "DEBUG")


def test_lines_are_json_if_format_or_structured_says_so_and_never_hold_a_secret(tmp_path: Path) -> None:
    for variables in ({"LOGGING__FORMAT": "json"}, {"LOGGING__STRUCTURED": "true"}):
        errors, _ = logged(tmp_path, **{"LOGGING__FORMAT": "text", "LOGGING__STRUCTURED": "false", **variables})
        line = json.loads(errors)
        assert {key: line[key] for key in ("event", "level", "service", "module", "size", "token")} == {
            **{"event": "a_fact", "level": "info", "service": "router", "module": "here", "size": 2},
            "token": "***",
        }
    errors, _ = logged(tmp_path, LOGGING__FORMAT="text", LOGGING__STRUCTURED="false")
    assert "a_fact" in errors
    assert not errors.startswith("{")
    assert "canary" not in errors


def test_debug_logs_everything_and_hears_libraries_unless_a_level_is_given(tmp_path: Path) -> None:
    file = tmp_path / "quiet.yaml"
    file.write_text('environment: "test"\ntest: {logging: {format: text}}\n')
    errors, _ = logged(tmp_path, CONFIG=str(file))
    assert "its own" not in errors
    assert "a_detail" not in errors
    errors, _ = logged(tmp_path, CONFIG=str(file), DEBUG="true")
    assert "its own" in errors
    assert "a_detail" in errors
    errors, _ = logged(tmp_path, CONFIG=str(file), DEBUG="true", LOGGING__LEVEL="WARNING")
    assert errors == ""


def test_a_file_that_is_full_is_rotated_as_configured(tmp_path: Path) -> None:
    for _ in range(4):
        _, logs = logged(
            tmp_path, LOGGING__CONSOLE="false", LOGGING__FILE="true", LOGGING__MAX_BYTES="100", LOGGING__BACKUPS="2"
        )
    assert sorted(file.name for file in logs.iterdir()) == ["router.log", "router.log.1", "router.log.2"]


# --- database


async def test_echo_shows_statements_but_never_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for echo in (True, False):
        folder = tmp_path / str(echo)
        settings = config.load(environ={}, overrides={"data_dir": str(folder), "database.echo": echo})
        async with AsyncExitStack() as stack:
            backend = await open_backend(settings, stack)
            await backend.store.list_agents()
            with pytest.raises(Exception, match="no such task"):
                await backend.store.get_task("canary-tenant", "canary-task")
            await backend.store.aclose()
        printed = capsys.readouterr().out
        assert ("SELECT agent FROM agents" in printed) is echo
        assert "canary" not in printed


async def test_echo_shows_the_statements_of_postgresql_too(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides: dict[str, Any] = {"database.url": database_url, "database.echo": True, "database.create_tables": True}
    async with AsyncExitStack() as stack:
        backend = await open_backend(config.load(environ={}, overrides=overrides), stack)
        with pytest.raises(Exception, match="no such task"):
            await backend.store.get_task("canary-tenant", "canary-task")
        await backend.store.aclose()
    printed = capsys.readouterr().out
    assert "FROM tasks" in printed
    assert "canary" not in printed


def test_a_statement_that_is_repeated_is_told_once_a_minute_with_its_number() -> None:
    now = 0.0
    echo = SqlEcho(lambda: now)
    with capture_logs() as lines:
        for second in range(125):
            now = float(second)
            echo.note("SELECT\n  1", 0.5)
    told = [(line["statement"], line["times"], line["elapsed_s"]) for line in lines]
    assert told == [("SELECT 1", 1, 0.5), ("SELECT 1", 60, 30.0), ("SELECT 1", 60, 30.0)]


@pytest.mark.parametrize("create", [True, False])
async def test_tables_are_made_at_the_start_only_if_create_tables_says_so(tmp_path: Path, create: bool) -> None:
    overrides = {"data_dir": str(tmp_path), "database.create_tables": create}
    async with AsyncExitStack() as stack:
        if not create:
            with pytest.raises(Exception, match="agentmesh migrate"):
                await open_backend(config.load(environ={}, overrides=overrides), stack)
            return
        backend = await open_backend(config.load(environ={}, overrides=overrides), stack)
        assert await backend.store.list_agents() == []
        await backend.store.aclose()


# --- cache


async def test_answers_are_forgotten_after_ttl() -> None:
    async with FakeProvider() as fake:
        settings = {"cache": Cache(ttl=0.2)}
        async with llm_service(provider(fake.base_url), settings=settings) as llm:
            request = ask("ok", sampling=llm_pb.Sampling(temperature=0))
            for _ in range(2):
                await llm.call("Generate", request)
            assert len(fake.hits) == 1
            await asyncio.sleep(0.5)
            await llm.call("Generate", request)
            assert len(fake.hits) == 2


async def test_redis_is_used_over_no_more_connections_than_pool_size(redis: RedisServer) -> None:
    from agentmesh_llm.adapters.memory_cache import MemoryCache
    from agentmesh_llm.adapters.redis_cache import RedisCache
    from agentmesh_llm.answers.cache_keys import CacheKey

    before = redis.ask("CLIENT LIST").count("addr=")
    cache = RedisCache(redis.url(), MemoryCache(0, lambda: 0.0), pool_size=3)
    keys = [CacheKey("acme", "p/m", bytes([number])) for number in range(40)]
    await asyncio.gather(*(cache.far([key]) for key in keys))
    assert redis.ask("CLIENT LIST").count("addr=") - before <= 3
    await cache.aclose()


# --- api


def test_a_worker_class_that_nothing_runs_is_refused(tmp_path: Path) -> None:
    for name in ("uvicorn.workers.UvicornWorker", "uvicorn"):
        assert config.load(environ={}, overrides={"api.worker_class": name}).api.worker_class == name
    with pytest.raises(ConfigError, match=r"api\.worker_class"):
        config.load(environ={}, overrides={"api.worker_class": "gevent"})


# --- security


async def test_tenants_are_held_to_their_rate_only_if_rate_limiting_is_on() -> None:
    for on in (True, False):
        overrides = {"security.rate_limiting": on, "limits.default": {"tenant": "default", "submits_per_s": 1}}
        settings = config.load(environ={}, overrides=overrides)
        async with AsyncExitStack() as stack:
            limits = rate_limits(settings, "router", stack)
            refused = 0
            for _ in range(20):
                try:
                    limits.take("acme")
                except ResourceExhausted:
                    refused += 1
        assert (refused > 0) is on


def test_parameters_are_held_against_the_agents_schema_only_if_input_validation_is_on() -> None:
    schema = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
    spec = task_pb2.TaskSpec(agent="a", prompt="x", parameters=json_format.ParseDict({"count": "many"}, Struct()))
    for on in (True, False):
        catalog = Catalog(validates=on)
        catalog.learn([task_pb2.Agent(name="a", parameters_schema=json_format.ParseDict(schema, Struct()))])
        if on:
            with pytest.raises(InvalidRequest):
                catalog.check(spec)
        else:
            catalog.check(spec)
        with pytest.raises(InvalidRequest):  # there is nobody to ask, whatever is checked
            catalog.check(task_pb2.TaskSpec(agent="b"))
