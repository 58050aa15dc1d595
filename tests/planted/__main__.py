"""`python -m tests.planted`: breaks each promise in a copy of the code, and fails unless its test goes red."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.planted.faults import FAULTS, Planted

_ROOT = Path(__file__).resolve().parents[2]
_TEST_S = 300
_FAILED = 1  # what pytest ends with when tests ran and some failed


def main() -> None:
    """Run; exit with 1 if a test stays green, or is red without the fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("promises", nargs="*", help="such as R3; all if none is given")
    arguments = parser.parse_args()
    chosen = [fault for fault in FAULTS if fault.promise in (arguments.promises or [f.promise for f in FAULTS])]
    if not chosen:
        parser.error("there is no such promise here")
    with tempfile.TemporaryDirectory(prefix="agentmesh-planted-") as folder:
        copy = Path(folder) / "code"
        _copy_to(copy)
        wrong = sum(not _is_caught(fault, copy) for fault in chosen)
    print(f"faults={len(chosen)} missed={wrong}")
    sys.exit(wrong > 0)


def _is_caught(fault: Planted, copy: Path) -> bool:
    """Run the test without and with the fault; say what came of it."""
    file = copy / fault.file
    whole = file.read_text()
    started = time.monotonic()
    verdict = "caught"
    if whole.count(fault.old) != 1:
        verdict = f"STALE: {fault.file} has the text to replace {whole.count(fault.old)} times"
    elif _run(fault, copy) != 0:
        verdict = "RED ALREADY: the test fails without the fault"
    else:
        file.write_text(whole.replace(fault.old, fault.new))
        code = _run(fault, copy)
        file.write_text(whole)
        if code != _FAILED:
            verdict = f"MISSED: pytest ended with {code}"
    print(f"{fault.promise} {verdict} ({time.monotonic() - started:.0f} s): {fault.what}", flush=True)
    return verdict == "caught"


def _run(fault: Planted, copy: Path) -> int:
    """Return what pytest ends with; a test that hangs has failed."""
    parts = ("libs", "services", "gateway", ".")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(copy / part) for part in parts)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *fault.test]
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                command, cwd=copy, env=environment, stdout=output, stderr=output, timeout=_TEST_S, check=False
            )
        except subprocess.TimeoutExpired:
            return _FAILED
    return done.returncode


def _copy_to(folder: Path) -> None:
    """Copy what is under version control, and what is new, as it stands."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (_ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(_ROOT / name, folder / name)


if __name__ == "__main__":
    main()
