"""What tools there are, which Debian package has each, and under which names a machine may have it already."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

# Debian puts servers where the PATH of a normal user doesn't look.
_SERVERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True, slots=True)
class Tool:
    """A program: `packages` are tried in turn, `binaries` are paths inside them."""

    name: str
    commands: tuple[str, ...]
    packages: tuple[str, ...]
    binaries: tuple[str, ...]
    remedy: str
    # Packages beside the libraries that it needs; the same for all tools of one package.
    extras: tuple[str, ...] = ()
    # Folders of its package that it looks for at the root of the file system: proot shows them there.
    fixed: tuple[str, ...] = ()
    # Too large to be fetched before each run of the tests: only when asked for.
    large: bool = False
    version: str = "--version"

    def installed(self) -> Path | None:
        """Return where this machine has it, if it does."""
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SERVERS])
        found = next((found for command in self.commands if (found := shutil.which(command, path=path))), None)
        return Path(found) if found else None


_PROMETHEUS = "install prometheus (brew install prometheus; https://prometheus.io/download)"
_ALERTMANAGER = "install alertmanager (https://prometheus.io/download)"

TOOLS = {
    tool.name: tool
    for tool in (
        Tool("promtool", ("promtool",), ("prometheus",), ("usr/bin/promtool",), _PROMETHEUS),
        Tool("prometheus", ("prometheus",), ("prometheus",), ("usr/bin/prometheus",), _PROMETHEUS),
        Tool(
            "amtool",
            ("amtool",),
            ("prometheus-alertmanager",),
            ("usr/bin/amtool",),
            _ALERTMANAGER,
            extras=("proot",),
        ),
        Tool(
            "alertmanager",
            ("alertmanager", "prometheus-alertmanager"),
            ("prometheus-alertmanager",),
            ("usr/bin/prometheus-alertmanager",),
            _ALERTMANAGER,
            extras=("proot",),
            fixed=("usr/share/prometheus",),
        ),
        Tool(
            "nginx",
            ("nginx",),
            ("nginx",),
            ("usr/sbin/nginx",),
            "install nginx (brew install nginx; https://nginx.org/en/download.html)",
            extras=("nginx-common",),
            version="-v",
        ),
        Tool(
            "chromium",
            ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome"),
            ("chromium-headless-shell", "chromium"),
            (
                "usr/lib/chromium/headless_shell",
                "usr/lib/chromium/chromium-headless-shell",
                "usr/lib/chromium/chromium",
            ),
            "install Chromium or Chrome (brew install --cask chromium)",
            extras=("chromium-common", "fontconfig-config", "fonts-dejavu-core"),
            large=True,
        ),
    )
}
SMALL = tuple(name for name, tool in TOOLS.items() if not tool.large)
