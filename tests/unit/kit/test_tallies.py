"""Numbers that are counted without locks are shown as prometheus_client shows its own."""

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from agentmesh.kit.tallies import Spreads, Tallies

BUCKETS = (0.001, 0.5, 1, 30)
VALUES = (0.0, 0.001, 0.0011, 0.5, 29.9, 30, 31, 1e9, math.inf)


def shown(registry: CollectorRegistry) -> list[str]:
    return sorted(line for line in generate_latest(registry).decode().splitlines() if "_created" not in line)


def test_they_are_shown_as_the_librarys_own() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counters = (
        Tallies("tallies_test_total", "What was counted", ("kind", "of"), ours),
        Counter("tallies_test_total", "What was counted", ("kind", "of"), registry=theirs),
    )
    histograms = (
        Spreads("spreads_test", "How long", ("kind",), BUCKETS, ours),
        Histogram("spreads_test", "How long", ("kind",), buckets=BUCKETS, registry=theirs),
    )
    for counter in counters:
        counter.labels('a "quoted" one', "b").inc()
        counter.labels("a", "b").inc(2.5)
        counter.labels("a", "c")
    for histogram in histograms:
        for value in VALUES:
            histogram.labels("a").observe(value)
        histogram.labels("never")

    assert shown(ours) == shown(theirs)
    assert len(shown(ours)) > 20


def test_the_same_labels_are_the_same_number_and_others_are_refused() -> None:
    registry = CollectorRegistry()
    tallies = Tallies("tallies_of_one_label_total", "Anything", ("kind",), registry)

    assert tallies.labels("a") is tallies.labels("a")
    assert tallies.labels("a") is not tallies.labels("b")
    with pytest.raises(ValueError, match="kind"):
        tallies.labels("a", "b")
    with pytest.raises(ValueError, match="Duplicated"):
        Tallies("tallies_of_one_label_total", "Anything", (), registry)
