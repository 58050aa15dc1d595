"""What the figures were measured on and with: enough to judge them, nothing that names the machine."""

import os
import platform
import sqlite3
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.bench.load import percentile

_PACKAGES = ("agentmesh", "grpcio", "protobuf", "uvloop")
_WRITES = 100


def describe(folder: Path) -> dict[str, str]:
    """Return facts by name; `folder` is where the database is, on whose disk an fsync is timed."""
    cores = os.cpu_count()
    memory_gib = psutil.virtual_memory().total / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{_cpu()}, {cores} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.machine()}",
        "versions": ", ".join(
            (f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in _PACKAGES), _sqlite())
        ),
        "disk": f"{_file_system(folder)}, an fsync takes {_fsync_ms(folder):.2f} ms (median)",
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _sqlite() -> str:
    return f"SQLite {sqlite3.sqlite_version}"


def _file_system(folder: Path) -> str:
    above = [part for part in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(part.mountpoint)]
    return max(above, key=lambda part: len(part.mountpoint)).fstype if above else "unknown file system"


def _fsync_ms(folder: Path) -> float:
    file = folder / "fsync.probe"
    times = []
    with file.open("wb", buffering=0) as probe:
        for _ in range(_WRITES):
            probe.write(b"x" * 4096)
            began = time.perf_counter()
            os.fsync(probe.fileno())
            times.append((time.perf_counter() - began) * 1000)
    file.unlink()
    return percentile(times, 50)
