"""A log that can't be written costs lines, which are counted, and nothing else."""

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentmesh.kit.background import Background
from agentmesh.kit.log_sinks import LineSink
from tests.support.metrics import metric

_BOUND = 64 * 1024


def _dropped(name: str) -> float:
    return metric("agentmesh_log_lines_dropped_total", sink=name)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reading and writing end of a pipe; the reading one may be closed in between."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(writing)


def test_lines_that_a_full_disk_does_not_take_are_counted() -> None:
    disk = os.open("/dev/full", os.O_WRONLY)
    sink = LineSink("full", lambda _: disk, _BOUND)
    for number in range(100):
        sink.put(f"line {number}\n")
    sink.close(10)
    os.close(disk)

    assert _dropped("full") == 100


def test_a_pipe_that_nobody_reads_keeps_lines_in_their_order_and_counts_the_others(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = LineSink("stuck", lambda _: writing, _BOUND)
    for number in range(20_000):
        sink.put(f"line {number}\n")
    lost = _dropped("stuck")
    assert lost > 10_000

    with os.fdopen(reading) as reader:
        read = [int(reader.readline().removeprefix("line ")) for _ in range(20_000 - int(lost))]
    sink.close(10)
    assert read[:100] == list(range(100))
    assert read == sorted(set(read))


def test_the_end_does_not_wait_for_a_pipe_that_nobody_reads(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = LineSink("ended", lambda _: writing, 4 * 1024 * 1024)
    for number in range(20_000):
        sink.put(f"line {number}\n")
    assert select.select([reading], [], [], 10) == ([reading], [], [])  # its thread writes
    sink.close(0.0)

    assert 0 < _dropped("ended") < 20_000
    os.close(reading)  # lets the thread go, which must not write into what has the pipe's number next
    sink.close(10)


def test_a_line_that_broke_off_is_not_glued_to_the_next(tmp_path: Path) -> None:
    # A file may grow to 4 KiB here: of the second line a part fits, and none of the third; then there is room again.
    code = """
import os, resource, signal, sys, time
from agentmesh.kit.log_sinks import LineSink, dropped
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sink = LineSink("small", lambda _: descriptor, 65536)
for line in ("a" * 4000 + "\\n", "b" * 4000 + "\\n", "c\\n"):
    sink.put(line)
while next(s.value for m in dropped.collect() for s in m.samples if s.name.endswith("_total")) < 2:
    time.sleep(0.001)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink.put("d\\n")
sink.close(10)
"""
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", code, str(log)], check=True, timeout=30)
    assert [line[:1] for line in log.read_text().splitlines()] == ["a", "b", "d"]


@pytest.mark.parametrize("ending", ["sys.exit(3)", "raise RuntimeError('crash')"])
def test_what_was_said_before_the_end_is_in_the_file(tmp_path: Path, ending: str) -> None:
    code = f"""
import sys
from pathlib import Path
from agentmesh.kit import telemetry
from agentmesh.kit.log_file import LogFile
from tests.support.metrics import metric
file = LogFile(Path(sys.argv[1]), max_bytes=0, backups=0)
telemetry.configure_logging(service="dying", json=True, console=False, file=file)
log = telemetry.logger("test")
for number in range(2000):
    log.info("said", number=number)
log.error("last_words")
{ending}
"""
    log = tmp_path / "logs" / "dying.log"
    subprocess.run([sys.executable, "-c", code, str(log)], check=False, timeout=30, stderr=subprocess.DEVNULL)
    lines = log.read_text().splitlines()
    assert len(lines) == 2001
    assert "last_words" in lines[-1]


def test_a_handler_that_raises_loses_its_batch_and_works_on() -> None:
    lost: list[int] = []
    handled: list[int] = []

    def handle(numbers: list[int]) -> None:
        if 1 in numbers:
            raise ValueError
        handled.extend(numbers)

    queue = Background(handle, name="test", max_size=10, on_drop=lost.append, max_batch=1)
    for number in (1, 2, 3):
        assert queue.put(number)
    assert queue.close(10)
    assert (handled, lost) == ([2, 3], [1])
    assert not queue.put(4)
    assert lost == [1, 1]


def test_what_the_thread_has_in_its_hands_counts_against_the_bound() -> None:
    begun, go_on = threading.Event(), threading.Event()
    lost: list[int] = []

    def handle(numbers: list[int]) -> None:
        begun.set()
        go_on.wait(10)

    queue = Background(handle, name="test", max_size=3, on_drop=lost.append, max_batch=1)
    queue.put(0)
    assert begun.wait(10)
    assert [queue.put(number) for number in (1, 2, 3)] == [True, True, False]
    go_on.set()
    assert queue.close(10)
    assert lost == [1]


def test_what_libraries_log_is_in_the_form_of_our_own_lines(tmp_path: Path) -> None:
    code = """
import logging, sys
from pathlib import Path
from agentmesh.kit import telemetry
from agentmesh.kit.log_file import LogFile
file = LogFile(Path(sys.argv[1]), max_bytes=0, backups=0)
telemetry.configure_logging(service="router", json=True, console=False, file=file, libraries=sys.argv[2])
logging.getLogger("some.library").info("heard by those who debug")
logging.getLogger("some.library").warning("careful: %s", "a pipe")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("some.library").exception("broken")
"""
    for level, events in (("WARNING", 2), ("INFO", 3)):
        log = tmp_path / f"{level}.log"
        subprocess.run([sys.executable, "-c", code, str(log), level], check=True, timeout=30)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(lines) == events
        assert [(line["event"], line["level"]) for line in lines[-2:]] == [
            ("careful: a pipe", "warning"),
            ("broken", "error"),
        ]
        assert {line["module"] for line in lines} == {"some.library"}
        assert lines[-1]["exception"][0]["exc_type"] == "ZeroDivisionError"
