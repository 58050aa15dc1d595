"""Orders what waits so that nobody's many hold up another's few: by turns, within each turn by turns again."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

E = TypeVar("E")

Turn = tuple[Hashable, Hashable]
"""Whose it is, and of which of theirs: a tenant and one of its callers."""


class TurnLine(Generic[E]):
    """A line like a deque that is read at its left end, where what is next in turn stands."""

    def __init__(self, turn_of: Callable[[E], Turn]) -> None:
        self._turn_of = turn_of
        self._outer: OrderedDict[Hashable, OrderedDict[Hashable, deque[E]]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[E]:
        return (entry for inner in self._outer.values() for queue in inner.values() for entry in queue)

    def __getitem__(self, index: int) -> E:
        if index or not self._length:
            raise IndexError(index)
        inner = next(iter(self._outer.values()))
        return next(iter(inner.values()))[0]

    def append(self, entry: E) -> None:
        """Stand behind the others of the same turn."""
        outer, inner = self._turn_of(entry)
        self._outer.setdefault(outer, OrderedDict()).setdefault(inner, deque()).append(entry)
        self._length += 1

    def extend(self, entries: Iterable[E]) -> None:
        """Append each."""
        for entry in entries:
            self.append(entry)

    def popleft(self) -> E:
        """Take what is next; whose it was comes again after all the others."""
        outer, callers = next(iter(self._outer.items()))
        inner, queue = next(iter(callers.items()))
        entry = queue.popleft()
        self._length -= 1
        if queue:
            callers.move_to_end(inner)
        else:
            del callers[inner]
        if callers:
            self._outer.move_to_end(outer)
        else:
            del self._outer[outer]
        return entry

    def clear(self) -> None:
        """Forget everything."""
        self._outer.clear()
        self._length = 0
