"""`python -m tests.promises`: times what is promised in seconds, on replicas over PostgreSQL, and says pass or fail."""

import argparse
import asyncio
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.promises.timing import FIGURES, Figure, Stage
from tests.support.fleet import Fleet
from tests.support.ports import free_ports
from tests.support.postgres import Postgres


def main() -> None:
    """Run; exit with 1 if a figure is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.promises", description=__doc__)
    parser.add_argument("promises", nargs="*", help="such as R5; all if none is given")
    arguments = parser.parse_args()
    chosen = [figure for figure in FIGURES if figure.promise in (arguments.promises or [f.promise for f in FIGURES])]
    missed = asyncio.run(_run(chosen))
    print(f"figures={len(chosen)} missed={missed}")
    sys.exit(missed > 0)


async def _run(figures: list[Figure]) -> int:
    provider = {"name": "fake", "base_url": f"http://127.0.0.1:{(port := free_ports())}/v1", "api_key": "secret"}
    settings = {"AGENTMESH_LLM__PROVIDERS": json.dumps([{**provider, "models": ["ok", "stall:2"]}])}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentmesh-promises-")))
        postgres = stack.enter_context(Postgres())
        fleet = Fleet(
            folder,
            database=postgres.new_database(),
            routers=2,
            runners=2,
            storages=2,
            llms=2,
            proxied=["router-1"],
            settings=settings,
        )
        await asyncio.to_thread(stack.enter_context, fleet)
        stage = Stage(fleet, postgres, port)
        missed = 0
        for figure in figures:
            times = sorted(await figure.measure(stage))
            await asyncio.to_thread(fleet.heal)
            await asyncio.to_thread(fleet.wait_serving)
            middle, high = times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.99))]
            kept = high <= figure.most_s and (figure.typical_s is None or middle <= figure.typical_s)
            missed += not kept
            bound = f"p99 ≤ {figure.most_s} s" + (f", p50 ≤ {figure.typical_s} s" if figure.typical_s else "")
            word = "pass" if kept else "FAIL"
            print(f"{figure.promise} {word} {figure.what}: p50 {middle:.3f} s, p99 {high:.3f} s ({bound})", flush=True)
    return missed


if __name__ == "__main__":
    main()
