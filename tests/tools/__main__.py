"""`make tools`: put the programs that tests of the deployment need into .cache/tools."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from tests.tools.catalog import SMALL, TOOLS
from tests.tools.fetch import HOME, report, say, tools


def main(arguments: list[str] | None = None) -> int:
    """Return 1 if a tool is missing where none may be (CI=true), else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools",
        description="Find tools on PATH, or fetch them from Debian packages into .cache/tools, without root.",
        epilog=f"Tools: {', '.join(TOOLS)}.",
    )
    parser.add_argument("names", nargs="*", metavar="TOOL", help="which ones (all, if none is named)")
    parser.add_argument("--small", action="store_true", help=f"only the small ones: {', '.join(SMALL)}")
    parser.add_argument("--json", action="store_true", help="print name, path, version, source and why as JSON")
    parser.add_argument("--into", type=Path, default=HOME, metavar="FOLDER", help="where they are kept (%(default)s)")
    options = parser.parse_args(arguments)
    names = tuple(dict.fromkeys(options.names)) or (SMALL if options.small else tuple(TOOLS))
    if unknown := [name for name in names if name not in TOOLS]:
        parser.error(f"there is no tool {unknown[0]}; there are {', '.join(TOOLS)}")
    hads = tools(names, home=options.into.resolve(), say=say)
    if options.json:
        print(json.dumps({name: asdict(had) for name, had in hads.items()}, indent=2))
    else:
        print("\n".join(report(hads)))
    missing = [name for name, had in hads.items() if not had.path]
    return 1 if missing and os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main())
