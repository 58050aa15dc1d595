"""Usage waits in bounded memory while the books are away, and nothing that was paid is forgotten."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from agentmesh.kit.errors import Unavailable
from agentmesh_llm.books.ledger import Ledger
from agentmesh_llm.books.records import Account, Entry, Totals, UsageQuery, UsageSum, VirtualKey


@dataclass
class AwayBooks:
    """Books that can be out of reach, or lose the answer of a write."""

    away: bool = True
    written: list[Entry] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None

    async def add_usage(self, entries: Sequence[Entry]) -> None:
        if self.away:
            raise Unavailable("the books can't be reached", reason="BOOKS_UNAVAILABLE")
        self.meanwhile()
        await asyncio.sleep(0)
        self.written += entries

    async def usage(self, query: UsageQuery) -> list[UsageSum]:
        return []

    async def add_key(self, key: VirtualKey) -> None: ...

    async def key_by_digest(self, sha256: str) -> VirtualKey | None: ...

    async def key_by_id(self, key_id: str) -> VirtualKey | None: ...

    async def keys(self, tenant: str, limit: int) -> list[VirtualKey]:
        return []

    async def revoke(self, tenant: str, key_id: str, now_ms: int) -> VirtualKey | None: ...

    async def prune(self, days_before: str, tasks_before: str) -> None: ...

    async def aclose(self) -> None: ...


def ledger(books: AwayBooks) -> Ledger:
    return Ledger(books, flush_s=1, keep_days=400, keep_tasks_days=30)


async def test_a_write_that_failed_is_done_again_with_what_came_meanwhile() -> None:
    books = AwayBooks()
    kept = ledger(books)
    account = Account("acme", "k", "p/m", "t")
    kept.add(account, Totals(requests=1, cost_nano_usd=5))
    with pytest.raises(Unavailable):
        await kept.flush()
    kept.add(account, Totals(requests=1, cost_nano_usd=7))
    assert kept.spent(("acme", "k")) == kept.spent(("acme", "")) == (12, 12)
    books.away = False
    await kept.flush()
    assert [entry.totals for entry in books.written] == [Totals(requests=2, cost_nano_usd=12)]
    await kept.flush()
    assert len(books.written) == 1


async def test_while_the_books_are_away_memory_is_bounded_and_every_billionth_is_kept() -> None:
    books = AwayBooks()
    kept = ledger(books)
    for number in range(60_000):
        kept.add(Account("acme", f"k{number % 30_000}", f"p/m{number}", f"t{number}"), Totals(1, cost_nano_usd=1))
    assert kept.pending <= 20_002
    books.away = False
    await kept.flush()
    assert sum(entry.totals.cost_nano_usd for entry in books.written) == 60_000
    assert {entry.account.tenant for entry in books.written} == {"acme"}
    assert kept.pending == 0


async def test_what_a_closing_process_used_is_written() -> None:
    books = AwayBooks(away=False)
    kept = ledger(books)
    kept.add(Account("acme", "", "p/m", ""), Totals(requests=1))
    await kept.aclose()
    assert len(books.written) == 1


async def test_what_comes_while_it_writes_is_left_for_the_next_time() -> None:
    books = AwayBooks(away=False)
    kept = ledger(books)
    account = Account("acme", "k", "p/m", "t")
    books.meanwhile = lambda: kept.add(account, Totals(requests=1, cost_nano_usd=7))
    kept.add(account, Totals(requests=1, cost_nano_usd=5))
    await kept.flush()
    assert [entry.totals.cost_nano_usd for entry in books.written] == [5]
    assert kept.pending == 1


async def test_two_who_write_at_once_keep_their_sums_apart() -> None:
    books = AwayBooks(away=False)
    kept = ledger(books)
    account = Account("acme", "k", "p/m", "t")
    kept.add(account, Totals(requests=1, cost_nano_usd=5))
    first = asyncio.create_task(kept.flush())
    await asyncio.sleep(0)
    kept.add(account, Totals(requests=1, cost_nano_usd=7))
    await asyncio.gather(first, kept.flush())
    assert [entry.totals.cost_nano_usd for entry in books.written] == [5, 7]
    assert kept.pending == 0
    assert kept.spent(("acme", "k")) == (0, 0)  # nothing is unwritten, and nobody has read the books
