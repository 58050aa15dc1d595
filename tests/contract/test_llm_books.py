"""The books, over every backend: what is written is added up, by whatever is asked."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agentmesh.kit.errors import Unavailable
from agentmesh.kit.settings import Database
from agentmesh_llm.adapters.books_postgres.store import PostgresBooks
from agentmesh_llm.adapters.books_sqlite.store import SqliteBooks
from agentmesh_llm.books.keys import Keys
from agentmesh_llm.books.ledger import Ledger
from agentmesh_llm.books.records import Account, Books, By, Entry, Limits, Totals, UsageQuery, VirtualKey

DAY, NEXT = "2026-11-26", "2026-11-27"
KEY = VirtualKey(
    id="key_1",
    tenant="acme",
    name="laptop",
    sha256="ab" * 32,
    hint="am-abcde",
    models=("gpt-*", "fast"),
    limits=Limits(1, 2, 3, 2**40),
    created_ms=1000,
)


@pytest.fixture(params=["sqlite", "postgres"])
async def books(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Books]:
    """The books in an empty database."""
    store: Books
    if request.param == "sqlite":
        store = SqliteBooks(tmp_path / "llm.db")
    else:
        url = request.getfixturevalue("database_url")
        store = PostgresBooks(Database(url=url, create_tables=True))
    yield store
    await store.aclose()


async def test_a_file_that_is_being_opened_while_the_books_close_is_closed_as_well(tmp_path: Path) -> None:
    books = SqliteBooks(tmp_path / "llm.db")
    reading = asyncio.create_task(books.keys("acme", 1))
    await asyncio.sleep(0)
    await books.aclose()
    assert await reading == []
    assert not [file.path for file in psutil.Process().open_files() if file.path.startswith(str(tmp_path))]


async def test_closed_books_are_not_opened_again(tmp_path: Path) -> None:
    books = SqliteBooks(tmp_path / "llm.db")
    closing = asyncio.create_task(books.aclose())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):  # asked for by a call that ends late
        await books.keys("acme", 1)
    await closing
    assert not list(tmp_path.iterdir())


def entry(tenant: str, key_id: str, model: str, task_id: str, *, day: str = DAY, cost: int = 10) -> Entry:
    return Entry(day, Account(tenant, key_id, model, task_id), Totals(1, 1, 100, 20, 3, 4, 5, cost))


async def test_usage_is_added_up_by_whatever_is_asked(books: Books) -> None:
    await books.add_usage([entry("acme", "k1", "p/a", "t1"), entry("acme", "k1", "p/a", "t2")])
    await books.add_usage([entry("acme", "k2", "p/b", "", day=NEXT), entry("acme", "k1", "p/a", "t1", cost=2**40)])
    await books.add_usage([entry("other", "", "p/a", "t9")])

    async def sums(*by: By, tenant: str = "acme", **only: str) -> dict[tuple[str, ...], tuple[int, int]]:
        query = UsageQuery(by, **{"from_day": DAY, "to_day": NEXT, **only}, tenant=tenant)
        return {one.of: (one.totals.requests, one.totals.cost_nano_usd) for one in await books.usage(query)}

    assert await sums() == {(): (4, 30 + 2**40)}
    assert await sums(By.MODEL) == {("p/a",): (3, 20 + 2**40), ("p/b",): (1, 10)}
    assert await sums(By.KEY, By.DAY) == {("k1", DAY): (3, 20 + 2**40), ("k2", NEXT): (1, 10)}
    assert await sums(By.TASK) == {("t1",): (2, 10 + 2**40), ("t2",): (1, 10)}
    assert await sums(By.TENANT, tenant="") == {("acme",): (4, 30 + 2**40), ("other",): (1, 10)}
    assert await sums(By.MODEL, key_id="k2") == {("p/b",): (1, 10)}
    assert await sums(By.MODEL, task_id="t2") == {("p/a",): (1, 10)}
    assert await sums(By.DAY, from_day=NEXT) == {(NEXT,): (1, 10)}
    assert await sums(By.MODEL, model="p/nobody") == {}


async def test_the_costliest_come_first_and_one_more_than_wanted_says_that_there_are_more(books: Books) -> None:
    await books.add_usage([entry("acme", "", f"p/{n}", "", cost=n) for n in range(5)])
    found = await books.usage(UsageQuery((By.MODEL,), DAY, DAY, limit=3))
    assert [one.of for one in found] == [("p/4",), ("p/3",), ("p/2",), ("p/1",)]
    assert found[0].totals == Totals(1, 1, 100, 20, 3, 4, 5, 4)


async def test_old_days_are_forgotten_and_tasks_before_them(books: Books) -> None:
    await books.add_usage([entry("acme", "", "p/a", "t1"), entry("acme", "", "p/a", "t2", day=NEXT)])
    await books.prune(DAY, NEXT)
    assert [one.of for one in await books.usage(UsageQuery((By.TASK,), DAY, NEXT))] == [("t2",)]
    assert len(await books.usage(UsageQuery((By.DAY,), DAY, NEXT))) == 2
    await books.prune(NEXT, NEXT)
    assert [one.of for one in await books.usage(UsageQuery((By.DAY,), DAY, NEXT))] == [(NEXT,)]


async def test_keys_are_found_by_digest_and_id_and_end_once_and_for_their_tenant_only(books: Books) -> None:
    await books.add_key(KEY)
    newer = replace(KEY, id="key_2", tenant="other", sha256="cd" * 32, models=(), created_ms=2000, expires_ms=9)
    await books.add_key(newer)
    assert await books.key_by_digest(KEY.sha256) == await books.key_by_id("key_1") == KEY
    assert await books.key_by_digest("ef" * 32) is None
    assert await books.keys("", 10) == [newer, KEY]
    assert await books.keys("acme", 10) == [KEY]
    assert await books.keys("", 1) == [newer]
    assert await books.revoke("other", "key_1", 5) is None
    assert await books.revoke("acme", "key_1", 5) == replace(KEY, revoked_ms=5)
    assert await books.revoke("", "key_1", 6) == replace(KEY, revoked_ms=5)
    assert await books.revoke("", "key_9", 6) is None
    assert await books.key_by_id("key_2") == newer


async def test_what_another_process_spent_is_known_once_it_is_looked_at(books: Books) -> None:
    clock = [1795_700_000.0]  # 2026-11-26
    ours, theirs = (
        Ledger(books, flush_s=0.1, keep_days=400, keep_tasks_days=30, now=lambda: clock[0]) for _ in range(2)
    )
    account = Account("acme", "k1", "p/a", "")
    theirs.add(account, Totals(cost_nano_usd=7))
    await theirs.flush()
    for holder in (("acme", ""), ("acme", "k1")):
        await ours.learn(holder)
    ours.add(account, Totals(cost_nano_usd=5))
    assert ours.spent(("acme", "k1")) == (12, 12)
    await ours.flush()
    assert ours.spent(("acme", "k1")) == ours.spent(("acme", "")) == (12, 12)
    assert ours.spent(("acme", "k2")) == (0, 0)
    clock[0] += 86_400
    assert ours.spent(("acme", "k1")) == (0, 12)
    clock[0] += 7 * 86_400
    assert ours.spent(("acme", "k1")) == (0, 0)


async def test_a_secret_is_told_once_and_kept_nowhere(books: Books, tmp_path: Path) -> None:
    keys = Keys(books, cache_s=5)
    key, secret = await keys.create("acme", "laptop", (), Limits(), 0)
    assert secret.startswith("am-")
    assert key.hint == secret[:8]
    assert len(secret) > 30
    assert secret not in repr(key)
    await books.aclose()
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.iterdir())
