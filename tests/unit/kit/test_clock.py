import time

import pytest

from agentmesh.kit.clock import SystemClock, duration, timestamp, to_ms


def test_setting_the_machines_clock_by_an_hour_moves_no_running_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    before = clock.now_ms()
    real = time.time_ns()
    for jump_s in (3_600, -3_600):
        monkeypatch.setattr(time, "time_ns", lambda jump_s=jump_s: real + jump_s * 10**9)
        assert 0 <= clock.now_ms() - before < 60_000


def test_a_clock_begins_with_the_machines_time_and_never_goes_back() -> None:
    clock = SystemClock()
    assert abs(clock.now_ms() - time.time_ns() // 1_000_000) < 1_000
    read = [clock.now_ms() for _ in range(1000)]
    assert read == sorted(read)


def test_times_and_durations_keep_their_milliseconds() -> None:
    assert to_ms(timestamp(1_800_000_000_123)) == 1_800_000_000_123
    assert to_ms(duration(1.5)) == 1_500
