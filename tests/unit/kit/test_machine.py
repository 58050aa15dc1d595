from pathlib import Path

import pytest

from agentmesh.kit.machine import cpu_count, memory_limit


def test_the_containers_limit_counts_where_it_is_less_than_the_machines_memory(tmp_path: Path) -> None:
    machine = memory_limit(())
    written = tmp_path / "memory.max"
    for text, limit in (("268435456\n", 268_435_456), ("max\n", machine), (f"{2**63}\n", machine)):
        written.write_text(text)
        assert memory_limit((tmp_path / "none", written)) == limit


@pytest.mark.parametrize(("written", "cpus"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 0), ("?", 0)])
def test_the_containers_share_of_the_cpus_counts_rounded_up(tmp_path: Path, written: str, cpus: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(written)
    there = cpu_count(tmp_path / "none")
    assert cpu_count(file) == (min(cpus, there) or there)
