"""`make bench` is run as a command: it must give what it was asked for, and fail when it can't."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_ports

_ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(120)


def _bench(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--json", *arguments],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=110,  # a third of it where nothing else runs
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, document


def test_the_rows_that_were_asked_for_are_measured_on_a_real_mesh() -> None:
    code, document = _bench("--only", "B6,B14,B15,B16")

    assert code == 0, document
    assert {row["row"] for row in document["rows"]} == {"B6", "B14", "B15", "B16"}
    assert document["missing"] == []
    assert document["faults"] == {}
    for row in document["rows"]:
        assert row["figure"]["median"] > 0
        assert row["anchor"]["median"] > 0
        assert row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]
        assert row["floor"]
        assert row["goal"]
        databases = {"B6": "PostgreSQL", "B14": "none", "B15": "none", "B16": "SQLite"}
        assert (row["database"], row["fsync"]) == (databases[row["row"]], "on")
        assert row["features"]


def test_what_goes_through_the_llm_proxy_and_what_stays_in_it_is_measured() -> None:
    code, document = _bench("--only", "B10,B11,B12,B17")

    assert code == 0, document
    assert {row["key"] for row in document["rows"]} == {
        *("B10/misses", "B11/first-p50", "B11/chunk-p50", "B11/chunk-p99", "B12/chunks", "B17/memory"),
    }
    assert document["missing"] == []
    assert all(row["figure"]["median"] > 0 for row in document["rows"])


def test_a_row_that_can_not_be_measured_makes_the_run_fail() -> None:
    nobody = f"127.0.0.1:{free_ports()}"

    code, document = _bench("--only", "B5", "--address", nobody)

    assert code == 1
    assert document["rows"] == []
    assert "B5/submitted-p50" in document["missing"]
    assert "can't be reached" in document["faults"]["B5"]
