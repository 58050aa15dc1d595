"""`python -m tests.bench`: runs the rows that are asked for and says what they reach."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from tests.bench import report
from tests.bench.lines import ROWS
from tests.bench.run import Plan, run

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 if a row is missing or failed, and with --strict if one is below its floor."""
    parser = _parser()
    options = parser.parse_args(arguments)
    unknown = [row for row in options.only if row not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if options.write and (options.quick or options.only or options.address):
        parser.error("--write takes a full run: without --quick, --only and --address")
    rows = [row for row in ROWS if row in options.only] or list(ROWS)
    if options.quick:
        plan = Plan(
            rows, options.repeats or 1, load_s=1.0, probes=100, settle_s=2.0, requests=4000, address=options.address
        )
    else:
        plan = Plan(rows, options.repeats or 3, address=options.address)
    outcome = uvloop.run(run(plan))
    command = " ".join(["python -m tests.bench", *(sys.argv[1:] if arguments is None else arguments)])
    print(report.as_json(outcome, command) if options.json else report.as_table(outcome))
    code = outcome.exit_code(strict=options.strict)
    if options.write and not outcome.missing and not outcome.faults:
        PAGE.write_text(report.as_page(outcome, command), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(PAGE.parents[1])}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="short loads, one repeat: does it work, not how fast")
    parser.add_argument("--only", type=_rows, default=[], metavar="B1,B3", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--repeats", type=_positive, help="3 unless --quick")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--strict", action="store_true", help="exit 1 also if a row is below its floor")
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="measure a mesh that runs already, with $AGENTMESH_TOKEN; it is left with the benchmark's tasks in it, "
        "and its settings are not those that the output names",
    )
    return parser


def _rows(text: str) -> list[str]:
    return [row.strip().upper() for row in text.split(",") if row.strip()]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
