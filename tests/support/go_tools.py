"""Go programs that tests run: made once with the Go tool, then kept in a cache outside the checkout."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_MODULE = _ROOT / "tests" / "clients" / "go"
_BUILD_TIMEOUT_S = 280
# What is made runs for moments, so it takes less to make it without optimizations, symbols and C.
_QUICK = {"GOFLAGS": "'-gcflags=all=-N -l' '-ldflags=-s -w'", "CGO_ENABLED": "0"}


def require_go() -> str:
    """Return the path of `go`; without one skip the test, or fail it where CI=true."""
    go = shutil.which("go")
    if go is None:
        reason = "Go is not installed: see https://go.dev/doc/install"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return go


def go_tool(package: str, version: str) -> Path:
    """Return the binary of a Go command such as github.com/fullstorydev/grpcurl/cmd/grpcurl at v1.9.3.

    The first call downloads and compiles it, which may take minutes. generate.sh keeps its plugins in the
    same folders.
    """
    go = require_go()
    name = re.sub(r"/v\d+$", "", package).rpartition("/")[2]  # what Go calls the binary of a later major version
    home = _cache() / "go-bin" / f"{name}@{version}"
    with _only_one(f"{name}@{version}"):
        if not (home / name).exists():
            _run([go, "install", f"{package}@{version}"], env={"GOBIN": str(home)})
    return home / name


def go_runner() -> Path:
    """Return the binary of tests/clients/go/runner, made from the sources and protos as they are now."""
    go = require_go()
    sources = [path for path in sorted(_MODULE.rglob("*")) if path.is_file() and "api" not in path.parts]
    digest = hashlib.sha256()
    for path in [*sources, *sorted((_ROOT / "protos").rglob("*.proto"))]:
        digest.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes())
    home = _cache() / "go-runner" / digest.hexdigest()[:16]
    with _only_one("go-runner"):
        if not (home / "runner").exists():
            _run(["sh", str(_MODULE / "generate.sh"), str(home / "module"), sys.executable])
            _run([go, "vet", "./runner"], cwd=home / "module")
            _run([go, "build", "-o", str(home / "runner"), "./runner"], cwd=home / "module")
    return home / "runner"


def _run(command: list[str], *, cwd: Path = _ROOT, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**_QUICK, **os.environ, "AGENTMESH_TEST_CACHE": str(_cache()), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)} failed:\n{done.stdout}")


def _cache() -> Path:
    return Path(os.environ.get("AGENTMESH_TEST_CACHE") or Path.home() / ".cache" / "agentmesh-test")


@contextmanager
def _only_one(name: str) -> Iterator[None]:
    """Keep the other test processes out until the block is left."""
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
