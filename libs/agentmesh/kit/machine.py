"""How much of the machine this process may use: what its container allows, not what there is."""

import math
import os
from pathlib import Path

# Version 2 of control groups, then version 1.
_MEMORY_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_CPU_FILE = Path("/sys/fs/cgroup/cpu.max")


def memory_limit(files: tuple[Path, ...] = _MEMORY_FILES) -> int:
    """Return how many bytes this process may take; 0 where the system doesn't tell."""
    machine = _memory_of_the_machine()
    for file in files:
        try:
            limit = int(file.read_text())
        except (OSError, ValueError):  # no such group, or "max"
            continue
        return min(limit, machine) if machine else limit
    return machine


def cpu_count(file: Path = _CPU_FILE) -> int:
    """Return how many CPUs this process may use at a time, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    there = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = file.read_text().split()
        return max(1, min(there, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such group, or "max"
        return there


def _memory_of_the_machine() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 0


def memory_used(proc: Path = Path("/proc")) -> int:
    """Return the resident bytes of this process and of all that it started; 0 where the system doesn't tell."""
    parents: dict[int, int] = {}
    pages: dict[int, int] = {}
    for folder in proc.glob("[0-9]*"):
        try:
            # The name in brackets, which may hold anything, comes before: state, parent, and in the 22nd place pages.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)], pages[int(folder.name)] = int(fields[1]), int(fields[21])
        except (OSError, ValueError, IndexError):  # it has just ended
            continue
    family = {os.getpid()}
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in family} - family
        family |= children
        grown = bool(children)
    return sum(pages.get(pid, 0) for pid in family) * _page_size()


def _page_size() -> int:
    return os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
