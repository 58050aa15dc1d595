from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2
from agentmesh_router.hub import MAX_BUFFER_BYTES, Hub, LogPage, StoredChunk, Subscription

Piece = tuple[int, str]


def events(*texts: str) -> bytes:
    deltas = [pb.TaskEvent(text_delta=pb.TextDelta(text=text)) for text in texts]
    return pb.EventList(events=deltas).SerializeToString()


class Log:
    """A task's log in storage, and a hub that hears of it."""

    def __init__(self, page_bytes: int = 1 << 18) -> None:
        self.hub = Hub()
        self.chunks: list[StoredChunk] = []
        self.last = 0
        self.ended = False
        self.reads = 0
        self._page_bytes = page_bytes

    def commit(self, *texts: str, terminal: bool = False, heard: str = "all") -> None:
        """Commit a chunk; the hub hears all of it, only that the log grew, or nothing."""
        chunk = StoredChunk(1, self.last + 1, len(texts), events(*texts))
        self.chunks.append(chunk)
        self.last += len(texts)
        self.ended = self.ended or terminal
        if heard == "all":
            self.hub.publish("t", 1, chunk.first_sequence, chunk.count, chunk.events, last=self.last, terminal=terminal)
        elif heard == "growth":
            self.hub.grown("t", self.last, terminal=terminal)

    async def read(self, tenant: str, task_id: str, after: int) -> LogPage:
        assert (tenant, task_id) == ("acme", "t")
        self.reads += 1
        page: list[StoredChunk] = []
        size = 0
        for chunk in self.chunks:
            if chunk.first_sequence + chunk.count > after + 1 and size < self._page_bytes:
                page.append(chunk)
                size += len(chunk.events)
        return LogPage(page, self.last, self.ended)

    def watch(self, after: int = 0, *, live: bool = False) -> Subscription:
        subscription = Subscription("acme", "t", after, lambda _: None)
        if live:
            subscription.start_live()
        self.hub.add(subscription)
        return subscription


def parsed(data: bytes) -> list[Piece]:
    """Return (sequence, text) of everything in a response."""
    chunks = task_service_pb2.WatchTaskResponse.FromString(data).chunks
    return [
        (chunk.first_sequence + n, event.text_delta.text) for chunk in chunks for n, event in enumerate(chunk.events)
    ]


async def read_on(log: Log, subscription: Subscription) -> list[Piece]:
    """Read as a handler does until there is nothing to take."""
    read: list[Piece] = []
    while True:
        if data := subscription.take():
            read.extend(parsed(data))
        elif subscription.behind:
            await subscription.catch_up(log.read)
        else:
            return read


def buffered(subscription: Subscription) -> int:
    return len(subscription.take())


async def test_a_live_subscriber_gets_what_is_committed_without_asking_storage() -> None:
    log = Log()
    subscription = log.watch(live=True)
    log.commit("a", "b")
    log.commit("c", terminal=True)
    assert await read_on(log, subscription) == [(1, "a"), (2, "b"), (3, "c")]
    assert (subscription.done, log.reads) == (True, 0)


async def test_a_subscriber_from_the_middle_of_a_chunk_gets_the_exact_rest() -> None:
    log = Log()
    log.commit("a", "b", "c", heard="nothing")
    log.commit("d", heard="nothing")
    for after in range(5):
        subscription = log.watch(after)
        expected = [(n, text) for n, text in enumerate("abcd", 1) if n > after]
        assert await read_on(log, subscription) == expected


async def test_a_slow_subscriber_holds_at_most_256_kib_and_catches_up_without_gap_or_double() -> None:
    log = Log()
    slow, quick = log.watch(live=True), log.watch(live=True)
    got: list[Piece] = []
    for number in range(100):
        log.commit(f"{number}" * 5_000)
        got.extend(parsed(quick.take()))
    assert slow.behind
    first = slow.take()
    assert 0 < len(first) <= MAX_BUFFER_BYTES + 1024
    log.commit("end", terminal=True)
    got.extend(parsed(quick.take()))
    read = parsed(first) + await read_on(log, slow)
    assert read == got
    assert [sequence for sequence, _ in read] == list(range(1, 102))
    assert slow.done
    assert not quick.behind


async def test_nothing_is_buffered_for_one_that_is_behind() -> None:
    log = Log()
    subscription = log.watch()
    for _ in range(50):
        log.commit("x" * 100_000)
    assert buffered(subscription) == 0


async def test_a_chunk_that_comes_twice_or_late_is_given_once() -> None:
    log = Log()
    subscription = log.watch(live=True)
    log.commit("a")
    first = log.chunks[0]
    log.hub.publish("t", 1, first.first_sequence, first.count, first.events, last=1, terminal=False)
    log.commit("b")
    log.hub.publish("t", 1, first.first_sequence, first.count, first.events, last=1, terminal=False)
    assert await read_on(log, subscription) == [(1, "a"), (2, "b")]


async def test_what_storage_added_in_the_same_transaction_is_fetched() -> None:
    log = Log()
    subscription = log.watch(live=True)
    log.commit("a", heard="nothing")
    log.commit("by storage", terminal=True, heard="nothing")
    log.hub.publish("t", 1, 1, 1, events("a"), last=2, terminal=True)
    assert await read_on(log, subscription) == [(1, "a"), (2, "by storage")]
    assert subscription.done


async def test_a_subscriber_of_an_ended_task_is_done_once_it_has_read_all() -> None:
    log = Log()
    log.commit("a", terminal=True, heard="nothing")
    subscription = log.watch(1)
    assert not subscription.done
    assert await read_on(log, subscription) == []
    assert subscription.done


async def test_what_is_committed_while_storage_is_read_is_not_lost() -> None:
    log = Log()
    log.commit("a", heard="nothing")
    subscription = log.watch()

    async def read(tenant: str, task_id: str, after: int) -> LogPage:
        page = await log.read(tenant, task_id, after)
        log.commit("b")
        return page

    await subscription.catch_up(read)
    assert await read_on(log, subscription) == [(1, "a"), (2, "b")]


def test_a_removed_subscriber_hears_nothing() -> None:
    log = Log()
    subscription = log.watch(live=True)
    log.hub.remove(subscription)
    log.hub.remove(subscription)
    log.commit("a")
    assert buffered(subscription) == 0


_HEARD = st.sampled_from(["all", "all", "growth", "nothing"])
_COMMITS = st.lists(st.tuples(st.integers(1, 4), _HEARD, st.booleans(), st.integers(0, 1)), max_size=15)


@settings(max_examples=150, deadline=None)
@given(_COMMITS, st.integers(0, 6), st.booleans(), st.integers(1, 400))
async def test_a_reader_sees_every_event_once_in_order_whatever_the_hub_hears(
    commits: list[tuple[int, str, bool, int]], after: int, live: bool, page_bytes: int
) -> None:
    log = Log(page_bytes)
    subscription = log.watch(0 if live else after, live=live)
    read: list[Piece] = []
    for count, heard, reads, size in commits:
        log.commit(*(f"{log.last + 1 + n}" + "x" * size * 100_000 for n in range(count)), heard=heard)
        if reads:
            read.extend(await read_on(log, subscription))
    log.hub.doubt_all()
    read.extend(await read_on(log, subscription))
    start = 0 if live else after
    assert [sequence for sequence, _ in read] == list(range(start + 1, log.last + 1))
    assert [text.rstrip("x") for _, text in read] == [str(sequence) for sequence, _ in read]
