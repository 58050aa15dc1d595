"""The composition root of the llm service."""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

from agentmesh.api.llm.v1 import key_service_pb2, llm_service_pb2
from agentmesh.kit import lifecycle, names
from agentmesh.kit.auth import Access, Keyring
from agentmesh.kit.redis_checks import redis_checks
from agentmesh.kit.settings import Cache as CacheSettings
from agentmesh.kit.settings import Settings
from agentmesh.kit.tracing import Tracer, open_tracer
from agentmesh_llm.adapters.memory_cache import MemoryCache
from agentmesh_llm.answers.caching import AnswerCache
from agentmesh_llm.answers.leasing import Sharing
from agentmesh_llm.books.accounts import Accounts
from agentmesh_llm.books.budgets import Budgets
from agentmesh_llm.books.keys import Keys
from agentmesh_llm.books.ledger import Ledger
from agentmesh_llm.books.records import Books
from agentmesh_llm.books.windows import Windows
from agentmesh_llm.grpc_api import LlmApi
from agentmesh_llm.key_api import KeyApi
from agentmesh_llm.ports import CacheStore
from agentmesh_llm.reloading import Reloader
from agentmesh_llm.routing.offering import Offering
from agentmesh_llm.service import ModelDesk
from agentmesh_llm.settings import Bounds
from agentmesh_llm.watching.call_spans import recorder
from agentmesh_llm.watching.calls import Watch

_DAY_S = 86_400
_CONTENT_CHARACTERS = 16_000  # of a call's prompt and of its answer, in traces


async def build(settings: Settings, keyring: Keyring, stack: AsyncExitStack) -> lifecycle.Built:
    """Put the llm service together; it is ready at once, since no provider is asked whether it is there."""
    tracer = open_tracer(settings.monitoring, names.LLM, stack)
    offering = Offering(settings.llm, _watch(settings, tracer))
    stack.push_async_callback(offering.aclose)
    bounds = Bounds.of(settings.llm)
    store, sharing = open_cache(settings.cache, bounds)
    cache = AnswerCache(store, ttl_s=settings.cache.ttl)
    ledger = _open_ledger(settings, stack)
    accounts = _open_accounts(settings, ledger, stack)
    desk = ModelDesk(offering.catalogue, bounds, cache, accounts, sharing=sharing)
    stack.push_async_callback(desk.aclose)

    def use(fresh: Settings) -> None:
        desk.use(offering.use(fresh.llm))
        accounts.use(fresh.llm.spending)

    _run(Reloader(settings, use).run(), stack)
    models = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"]
    keys = key_service_pb2.DESCRIPTOR.services_by_name["KeyService"]
    callers = Access.internal(names.RUNNER, names.ROUTER, names.GATEWAY, names.OPERATOR)
    return lifecycle.Built(
        services=[
            (models, LlmApi(desk), callers),
            (keys, KeyApi(accounts.keys), Access.internal(names.OPERATOR, names.GATEWAY)),
        ],
        watched={"database": ledger.answers, **redis_checks(settings.cache, stack)},
        tracer=tracer,
    )


def _watch(settings: Settings, tracer: Tracer | None) -> Watch:
    if tracer is None:
        return Watch()
    return Watch(recorder(tracer), _CONTENT_CHARACTERS if settings.monitoring.record_content else 0)


def _open_ledger(settings: Settings, stack: AsyncExitStack) -> Ledger:
    spending = settings.llm.spending
    ledger = Ledger(
        _open_books(settings),
        flush_s=spending.flush_s,
        keep_days=spending.keep_days,
        keep_tasks_days=max(1, round(settings.retention.tasks_s / _DAY_S)),
    )
    _run(ledger.run(), stack)
    return ledger


def _open_accounts(settings: Settings, ledger: Ledger, stack: AsyncExitStack) -> Accounts:
    spending = settings.llm.spending
    windows = Windows()
    if settings.cache.backend == "redis" and settings.cache.url is not None:
        from agentmesh_llm.adapters.redis_windows import RedisWindows

        shared = RedisWindows(settings.cache.url.get_secret_value(), windows)
        stack.push_async_callback(shared.aclose)
        _run(shared.run(), stack)
    keys = Keys(ledger.books, cache_s=spending.key_cache_s)
    return Accounts(ledger, Budgets(ledger, windows), keys, spending)


def _open_books(settings: Settings) -> Books:
    if settings.database.is_embedded:
        from agentmesh_llm.adapters.books_sqlite.store import SqliteBooks, books_path

        return SqliteBooks(books_path(settings))
    from agentmesh_llm.adapters.books_postgres.store import PostgresBooks

    return PostgresBooks(settings.database)


def _run(work: Coroutine[Any, Any, None], stack: AsyncExitStack) -> None:
    stack.callback(asyncio.create_task(work).cancel)


def open_cache(settings: CacheSettings, bounds: Bounds) -> tuple[CacheStore, Sharing | None]:
    """Make the cache of this process; if there is Redis, the shared one under it, and the sharing of calls."""
    memory = MemoryCache(settings.max_bytes, time.monotonic)
    if settings.backend != "redis" or settings.url is None:
        return memory, None
    from agentmesh_llm.adapters.redis_cache import RedisCache
    from agentmesh_llm.adapters.redis_leases import RedisLeases

    url = settings.url.get_secret_value()
    cache = RedisCache(url, memory, pool_size=settings.pool_size)
    leases = RedisLeases(url, cache.written, ttl_s=bounds.lease_s, pool_size=settings.pool_size)
    return cache, Sharing(leases, bounds.share_wait_s)


def serve(settings: Settings) -> None:
    """Run the llm service as a process."""
    lifecycle.run(names.LLM, settings, build)
