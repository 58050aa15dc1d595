"""`python -m tests.chaos`: kills, freezes and restarts a mesh under load, and says in one line what that broke."""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.run import Setting, chaos, rolling
from tests.support.postgres import Postgres


def main() -> None:
    """Run; exit with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="faults to deal out")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="the same seed, the same plan")
    parser.add_argument("--database", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between faults, give or take half")
    parser.add_argument("--workers", type=int, default=8, help="tasks that clients have open at once")
    parser.add_argument("--rolling", action="store_true", help="drain and start every process in turn instead")
    arguments = parser.parse_args()
    print(f"seed={arguments.seed}", flush=True)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="agentmesh-chaos-"))
        postgres = stack.enter_context(Postgres()) if arguments.database == "postgres" else None
        setting = Setting(
            folder,
            arguments.seed,
            arguments.kills,
            postgres,
            interval_s=arguments.interval,
            workers=arguments.workers,
        )
        outcome = asyncio.run(rolling(setting) if arguments.rolling else chaos(setting))
    if outcome.clean:
        shutil.rmtree(folder)
    else:
        print(f"{outcome.report()}\nthe logs are in {folder}", file=sys.stderr)
    print(outcome.line())
    sys.exit(not outcome.clean)


if __name__ == "__main__":
    main()
