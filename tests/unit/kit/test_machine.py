import subprocess
import sys
from pathlib import Path

import pytest

from agentmesh.kit.machine import cpu_count, memory_limit, memory_used


def test_the_containers_limit_counts_where_it_is_less_than_the_machines_memory(tmp_path: Path) -> None:
    machine = memory_limit(())
    written = tmp_path / "memory.max"
    for text, limit in (("268435456\n", 268_435_456), ("max\n", machine), (f"{2**63}\n", machine)):
        written.write_text(text)
        assert memory_limit((tmp_path / "none", written)) == limit


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells of processes in /proc")
def test_the_memory_of_a_process_is_that_of_its_children_too() -> None:
    hog = "data = bytearray(64_000_000); print(flush=True); input()"
    child = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hog!r}])"]
    before = memory_used()
    with subprocess.Popen(child, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert memory_used() - before > 64_000_000
        process.communicate(b"\n")


@pytest.mark.parametrize(("written", "cpus"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 0), ("?", 0)])
def test_the_containers_share_of_the_cpus_counts_rounded_up(tmp_path: Path, written: str, cpus: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(written)
    there = cpu_count(tmp_path / "none")
    assert cpu_count(file) == (min(cpus, there) or there)
