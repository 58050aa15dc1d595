import dataclasses

import pytest

from agentmesh_router.schedule_rules import ScheduleFacts, violations_of

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
HOURLY = ScheduleFacts("nightly", "0 * * * *", None, "Europe/Berlin", 1, None, None, None, False)
EVERY = dataclasses.replace(HOURLY, cron=None, interval_ms=60_000, time_zone="")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("spec.name", {"name": "x" * 129}),
        ("spec.cron", {"cron": None}),
        ("spec.cron", {"cron": ""}),
        ("spec.cron", {"cron": "0 * * *"}),
        ("spec.cron", {"cron": "0 25 * * *"}),
        ("spec.cron", {"cron": "0 0 31 2 *"}),
        ("spec.cron", {"cron": "0 " * 200}),
        ("spec.time_zone", {"time_zone": "Europe/Nowhere"}),
        ("spec.time_zone", {"cron": None, "interval_ms": 1000, "time_zone": "Europe/Nowhere"}),
        ("spec.interval", {"cron": None, "interval_ms": 999}),
        ("spec.interval", {"cron": None, "interval_ms": -1000}),
        ("spec.interval", {"cron": None, "interval_ms": 366 * DAY_MS + 1}),
        ("spec.overlap", {"overlap": 5}),
        ("spec.overlap", {"overlap": -1}),
        ("spec.catch_up", {"catch_up_ms": -1}),
        ("spec.catch_up", {"catch_up_ms": 30 * DAY_MS + 1}),
        ("spec.start_time", {"start_ms": -1}),
        ("spec.start_time", {"start_ms": NOW_MS + 3661 * DAY_MS}),
        ("spec.end_time", {"end_ms": NOW_MS}),
        ("spec.end_time", {"end_ms": 2**60}),
        ("spec.end_time", {"end_ms": NOW_MS + 1}),
        ("spec.end_time", {"start_ms": NOW_MS + 2 * DAY_MS, "end_ms": NOW_MS + DAY_MS}),
        ("spec.task.start_time", {"task_has_start": True}),
    ],
)
def test_each_rule_names_its_field(field: str, changes: dict[str, object]) -> None:
    assert violations_of(HOURLY, NOW_MS) == []
    found = violations_of(dataclasses.replace(HOURLY, **changes), NOW_MS)  # type: ignore[arg-type]
    assert [name for name, _ in found] == [field]


@pytest.mark.parametrize(
    "changes",
    [
        {"interval_ms": 1000},
        {"interval_ms": 366 * DAY_MS},
        {"catch_up_ms": 0},
        {"catch_up_ms": 30 * DAY_MS},
        {"overlap": 0},
        {"overlap": 4},
        {"start_ms": 0},
        {"start_ms": NOW_MS + DAY_MS, "end_ms": NOW_MS + DAY_MS},
        {"end_ms": NOW_MS + 60_000},
        {"name": "x" * 128, "time_zone": "America/New_York"},
        {"cron": "*/10 0 9 * * MON-FRI", "interval_ms": None},
    ],
)
def test_what_is_at_the_edge_of_a_rule_is_valid(changes: dict[str, object]) -> None:
    assert violations_of(dataclasses.replace(EVERY, **changes), NOW_MS) == []  # type: ignore[arg-type]


def test_every_wrong_field_is_named_at_once() -> None:
    facts = dataclasses.replace(EVERY, name="x" * 129, overlap=9, interval_ms=1, end_ms=1, task_has_start=True)
    assert [name for name, _ in violations_of(facts, NOW_MS)] == [
        "spec.name",
        "spec.overlap",
        "spec.task.start_time",
        "spec.end_time",
        "spec.interval",
    ]
