"""Tools in a folder of the checkout: found on the machine, or fetched once and started through wrappers."""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.tools.apt import Apt, NotHad
from tests.tools.catalog import TOOLS, Tool

HOME = Path(__file__).resolve().parents[2] / ".cache" / "tools"
# A refusal is believed for so long by tests, so that a run without network asks once and not once a test.
_BELIEVED_S = 600.0
_VERSION_S = 20
_PROOT = "proot"


@dataclass(frozen=True, slots=True)
class Had:
    """A tool's place and version; without a path, `why` says what is the matter and what to do."""

    name: str
    path: str = ""
    version: str = ""
    source: str = ""
    why: str = ""


def tools(
    names: tuple[str, ...],
    *,
    home: Path = HOME,
    say: Callable[[str], None] = lambda _: None,
    believe: bool = False,
    make_apt: Callable[[Path, Callable[[str], None]], Apt] = Apt,
) -> dict[str, Had]:
    """Return the tools by name, fetched if need be; with `believe` a refusal of a moment ago stands."""
    found = {name: _ready(TOOLS[name], home) for name in names}
    if all(found.values()):
        return {name: had for name, had in found.items() if had}
    with _only_one(home):
        store = _Store(home, say, make_apt)
        return {name: store.had(TOOLS[name], believe=believe) for name in names}


class _Store:
    def __init__(self, home: Path, say: Callable[[str], None], make_apt: Callable[[Path, Callable[[str], None]], Apt]):
        self._home, self._say, self._make_apt = home, say, make_apt
        self._apt: Apt | None = None
        self._refused: dict[tuple[str, ...], str] = {}

    def had(self, tool: Tool, *, believe: bool) -> Had:
        if ready := _ready(tool, self._home):
            return ready
        refusal = self._home / f"{tool.name}.refused"
        if believe and refusal.exists() and time.time() - refusal.stat().st_mtime < _BELIEVED_S:
            return Had(tool.name, why=refusal.read_text())
        try:
            had = self._fetch(tool)
        except NotHad as why:
            self._refused[tool.packages] = str(why)
            refusal.write_text(f"{why}; {tool.remedy} so that {tool.commands[0]} is on PATH")
            return Had(tool.name, why=refusal.read_text())
        refusal.unlink(missing_ok=True)
        _record(self._home, tool.name).write_text(json.dumps(asdict(had)))
        return had

    def _fetch(self, tool: Tool) -> Had:
        if tool.packages in self._refused:
            raise NotHad(self._refused[tool.packages])
        reasons = []
        for package in tool.packages:
            root = self._home / "packages" / package
            try:
                version = self._unpack(package, tool.extras, root)
            except NotHad as why:
                reasons.append(str(why))
                continue
            for binary in tool.binaries:
                if (root / binary).is_file():
                    path = _wrap(tool, root, root / binary, self._home / "bin")
                    return Had(tool.name, str(path), _version(path, tool.version), f"{package} {version}")
            reasons.append(f"{package} {version} has no {tool.binaries[0]}")
        raise NotHad("; ".join(reasons))

    def _unpack(self, package: str, extras: tuple[str, ...], root: Path) -> str:
        stamp = root / ".fetched"
        if stamp.exists() and (said := json.loads(stamp.read_text()))["extras"] == list(extras):
            return str(said["version"])
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        if self._apt is None:
            apt = self._make_apt(self._home / "apt", self._say)
            apt.prepare()
            self._apt = apt
        version = self._apt.fetch(package, extras, root)
        stamp.write_text(json.dumps({"version": version, "extras": extras}))
        return version


def _record(home: Path, name: str) -> Path:
    return home / f"{name}.json"


def _ready(tool: Tool, home: Path) -> Had | None:
    """Return a tool that nothing must be done for: the machine's own, or one fetched before."""
    if own := tool.installed():
        with suppress(NotHad):
            return Had(tool.name, str(own), _version(own, tool.version), "this machine")
    try:
        had = Had(**json.loads(_record(home, tool.name).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return had if os.access(had.path, os.X_OK) else None


def _wrap(tool: Tool, root: Path, binary: Path, folder: Path) -> Path:
    """Write a script that starts a program with the libraries that were fetched for it."""
    libraries = sorted({str(path.parent) for path in root.rglob("lib*.so*")} - {str(binary.parent)})
    lines = ["#!/bin/sh"]
    if libraries:
        joined = shlex.quote(os.pathsep.join(libraries))
        lines.append(f"LD_LIBRARY_PATH={joined}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}} && export LD_LIBRARY_PATH")
    if (root / "etc/fonts").is_dir() and not Path("/etc/fonts/fonts.conf").exists():
        # The files of fontconfig name fonts of the system; those of the user's data folder come on top.
        lines.append(f"FONTCONFIG_PATH={shlex.quote(str(root / 'etc/fonts'))} && export FONTCONFIG_PATH")
        lines.append(f"XDG_DATA_HOME={shlex.quote(str(root / 'usr/share'))} && export XDG_DATA_HOME")
    lines += _start(tool, root, binary)
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / tool.name
    fresh = folder / f".{tool.name}.new"
    fresh.write_text("\n".join(lines) + "\n")
    fresh.chmod(0o755)
    fresh.replace(script)
    return script


def _start(tool: Tool, root: Path, binary: Path) -> list[str]:
    """Return the end of a script, which starts the program.

    One that looks for files at fixed places sees its package as the root, with all that the machine has beside it:
    nothing is written outside of the package's folder, as it would be if its files were bound into the machine's.
    """
    files = [file for place in tool.fixed for file in (root / place).rglob("*") if file.is_file()]
    if all(Path("/", file.relative_to(root)).exists() for file in files):
        return [f'exec {shlex.quote(str(binary))} "$@"']
    proot = next((path for path in (root / "usr/bin" / _PROOT, Path("/usr/bin", _PROOT)) if path.exists()), _PROOT)
    inside = f"/{binary.relative_to(root)}"
    return [
        f"root={shlex.quote(str(root))} binds=",
        'for path in /*; do if [ -d "$path" ] && [ "$path" != /usr ]; then binds="$binds -b $path"; fi; done',
        'for path in /usr/*; do if [ ! -e "$root$path" ]; then binds="$binds -b $path"; fi; done',
        f'exec {shlex.quote(str(proot))} -r "$root" $binds -w "$PWD" {inside} "$@"',
    ]


def _version(path: Path, option: str) -> str:
    try:
        done = subprocess.run(
            [path, option],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_VERSION_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as wrong:
        raise NotHad(f"{path} doesn't start: {wrong}") from wrong
    if done.returncode != 0:
        raise NotHad(f"{path} {option} fails: {done.stdout.strip()[-300:]}")
    return done.stdout.strip().splitlines()[0]


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Keep other processes out until the block is left."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def report(hads: Mapping[str, Had]) -> Iterator[str]:
    """Return a line for each tool."""
    for name, had in hads.items():
        yield f"{name}: {had.version} ({had.source})" if had.path else f"{name}: missing: {had.why}"


def say(line: str) -> None:
    """Tell progress, on stderr so that --json stays clean."""
    print(line, file=sys.stderr, flush=True)
