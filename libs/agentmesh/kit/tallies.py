"""Counters and histograms for what is counted at every call, because prometheus_client's own are too dear there.

Those take a lock for each number, since any thread may count; a call to a model counts a dozen of them, which was a
twelfth of its time (docs/adr/0016). These are counted by one thread, the event loop's. Who reads them in another sees
every number whole, but may see a call counted in one and not yet in the next. They are not added up over the workers
of a service.
"""

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import INF, floatToGoString


class Tally:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add to it."""
        self.value += amount


class Spread:
    """How many values there were up to each of some bounds, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * len(bounds)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Take a value in; the last bound is infinite."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


Child = TypeVar("Child", Tally, Spread)


class _Family(Collector, Generic[Child]):
    """Numbers of one name, told apart by the values of their labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry = REGISTRY) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._children: dict[tuple[str, ...], Child] = {}
        registry.register(self)

    def labels(self, *values: str) -> Child:
        """Return what is counted under these values, one for each label."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {', '.join(self._labels)}")
            child = self._children[values] = self._new()
        return child

    def describe(self) -> Iterable[Metric]:
        """Return the metric without its numbers."""
        return [self._shown({})]

    def collect(self) -> Iterable[Metric]:
        """Return the metric for the registry."""
        return [self._shown(self._children.copy())]  # whole, whoever counts meanwhile

    @abstractmethod
    def _new(self) -> Child: ...

    @abstractmethod
    def _shown(self, children: Mapping[tuple[str, ...], Child]) -> Metric: ...


class Tallies(_Family[Tally]):
    """Counters; their name ends in _total."""

    def _new(self) -> Tally:
        return Tally()

    def _shown(self, children: Mapping[tuple[str, ...], Tally]) -> Metric:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, child in children.items():
            family.add_metric(values, child.value)
        return family


class Spreads(_Family[Spread]):
    """Histograms with common bounds, in rising order."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        buckets: Sequence[float],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._bounds = (*buckets, INF)
        self._written = [floatToGoString(bound) for bound in self._bounds]  # type: ignore[no-untyped-call]
        super().__init__(name, text, labels, registry)

    def _new(self) -> Spread:
        return Spread(self._bounds)

    def _shown(self, children: Mapping[tuple[str, ...], Spread]) -> Metric:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, child in children.items():
            buckets = list(zip(self._written, map(float, accumulate(child.counts)), strict=True))
            family.add_metric(values, buckets, child.total)
        return family
