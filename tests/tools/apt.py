"""A private apt: lists, cache and locks are in a folder of ours, so it needs no root and changes nothing outside."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

_UPDATE_S, _DOWNLOAD_S = 240, 420
_SYSTEM_LISTS = Path("/var/lib/apt/lists")
# Never taken beside the system's own: the loader and the C library must be of one build.
_OF_THE_SYSTEM = re.compile(r"(libc6|libc-bin|libcrypt1|libgcc-s1|libjs-.*|.*-dev|.*-doc)(:.*)?$")

_SETTINGS = """\
Dir::State "{home}/state";
Dir::State::status "/var/lib/dpkg/status";
Dir::State::extended_states "{home}/state/extended_states";
Dir::Cache "{home}/cache";
Dir::Log "{home}/log";
Debug::NoLocking "true";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Update::Post-Invoke {{}};
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::Retries "3";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"""


class NotHad(Exception):
    """A package that can't be fetched here, and why."""


class Apt:
    """`apt-get` over a folder; raises NotHad where there is none."""

    def __init__(self, home: Path, say: Callable[[str], None]) -> None:
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise NotHad("this is no Debian or Ubuntu: it has no apt-get")
        self._home, self._say = home, say
        self._config = home / "apt.conf"
        self._updated = False

    def prepare(self) -> None:
        """Lay the folder and take over the system's lists: while they are new, the network isn't asked for any."""
        for folder in ("state/lists/partial", "cache/archives/partial", "log", "debs"):
            (self._home / folder).mkdir(parents=True, exist_ok=True)
        self._config.write_text(_SETTINGS.format(home=self._home))
        lists = self._home / "state/lists"
        if any(path.is_file() for path in lists.iterdir()) or not os.access(_SYSTEM_LISTS, os.R_OK):
            return
        for path in _SYSTEM_LISTS.iterdir():
            if path.is_file() and path.name != "lock" and os.access(path, os.R_OK):
                shutil.copy2(path, lists)

    def fetch(self, package: str, extras: tuple[str, ...], into: Path) -> str:
        """Unpack a package, others beside it, and the libraries that this machine lacks; return its version."""
        try:
            return self._fetch(package, extras, into)
        except NotHad:
            if self._updated:
                raise
        self._say("fetching the lists of packages")
        self._run("apt-get", "update", timeout_s=_UPDATE_S)
        self._updated = True
        return self._fetch(package, extras, into)

    def _fetch(self, package: str, extras: tuple[str, ...], into: Path) -> str:
        plan = self._run("apt-get", "install", "--simulate", package, *extras, timeout_s=60)
        wanted: dict[str, str] = dict(re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", plan, re.MULTILINE))
        if package not in wanted:
            raise NotHad(f"apt would not install {package}: {_last_line(plan)}")
        chosen = {
            name: version
            for name, version in wanted.items()
            if name in {package, *extras} or (name.startswith("lib") and not _OF_THE_SYSTEM.match(name))
        }
        debs = self._home / "debs"
        self._say(f"fetching {', '.join(f'{name} {version}' for name, version in sorted(chosen.items()))}")
        self._run(
            "apt-get",
            "download",
            *(f"{name}={version}" for name, version in chosen.items()),
            cwd=debs,
            timeout_s=_DOWNLOAD_S,
        )
        try:
            for deb in sorted(debs.glob("*.deb")):
                self._run("dpkg-deb", "--extract", str(deb), str(into), timeout_s=_DOWNLOAD_S)
        finally:
            for deb in debs.glob("*.deb"):
                deb.unlink()
        return wanted[package]

    def _run(self, *command: str, timeout_s: float, cwd: Path | None = None) -> str:
        # The last file read wins, so what the system's own configuration says of folders doesn't count.
        program, *words = command
        settings = ["-c", str(self._config)] if program == "apt-get" else []
        try:
            done = subprocess.run(
                [program, *settings, *words],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_s,
                check=False,
                env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            )
        except subprocess.TimeoutExpired as late:
            raise NotHad(f"{program} {words[0]} took longer than {timeout_s:.0f} s") from late
        if done.returncode != 0:
            raise NotHad(f"{program} {words[0]}: {_last_line(done.stdout)}")
        return done.stdout


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "dpkg-deb: error"))]
    return (errors or lines or ["it said nothing"])[-1]
