"""Nothing is lost, doubled, left out or said out of order, whatever is killed, frozen or restarted under load."""

import os
import random
from pathlib import Path

import pytest

from tests.chaos.faults import plan
from tests.chaos.orders import orders
from tests.chaos.run import Setting, chaos, rolling
from tests.support.postgres import Postgres


@pytest.fixture
def seed() -> int:
    """Another one in each run; $CHAOS_SEED repeats a plan."""
    return int(os.environ.get("CHAOS_SEED") or random.randrange(1_000_000))


@pytest.mark.timeout(300)
async def test_r1_a_mesh_of_replicas_on_postgresql_survives_20_blows(
    tmp_path: Path, postgres: Postgres, seed: int
) -> None:
    outcome = await chaos(Setting(tmp_path, seed, 20, postgres, interval_s=1.5))
    print(outcome.line())
    assert outcome.clean, outcome.report()


@pytest.mark.timeout(300)
async def test_r1_a_mesh_with_one_storage_on_sqlite_survives_8_blows(tmp_path: Path, seed: int) -> None:
    outcome = await chaos(Setting(tmp_path, seed, 8, None, interval_s=1.5))
    print(outcome.line())
    assert outcome.clean, outcome.report()


@pytest.mark.timeout(300)
async def test_r13_a_rolling_restart_costs_no_client_an_error(tmp_path: Path, postgres: Postgres, seed: int) -> None:
    outcome = await rolling(Setting(tmp_path, seed, 0, postgres))
    print(outcome.line())
    assert outcome.clean, outcome.report()
    assert outcome.deaths == []


def test_a_seed_repeats_the_plan_and_the_orders() -> None:
    def first(seed: int) -> list[str]:
        blows = plan(random.Random(seed), ["router-1", "runner-1"], database=True)
        asked = orders(random.Random(seed))
        return [f"{next(blows)} {next(asked)}" for _ in range(50)]

    assert first(7) == first(7)
    assert first(7) != first(8)
