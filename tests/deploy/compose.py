"""The Compose file as tests see it: read as Compose does, and its topology as processes of this machine."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.dockerfile import stages_of

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "compose"
FILE = FOLDER / "compose.yaml"
# Which role a service runs, by the last word of its command.
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::-([^}]*))?\})")
_ABSOLUTE = re.compile(r"^/")


def read(file: Path = FILE) -> dict[str, Any]:
    """Return the document with its anchors merged and its variables as an empty environment leaves them."""
    return dict(_interpolated(yaml.safe_load(file.read_text(encoding="utf-8"))))


def of_the_mesh(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the services that run our image."""
    services: dict[str, dict[str, Any]] = document["services"]
    return {name: service for name, service in services.items() if service["image"].startswith("agentmesh")}


def role_of(service: Mapping[str, Any]) -> str:
    """Return the role that a service serves, or nothing."""
    return str(service["command"][1]) if service["command"][0] == "serve" else ""


def mounts_of(service: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield what of the repository is mounted, and where."""
    for mount in service.get("volumes", []):
        source, target, *_ = mount.split(":")
        if source.startswith("."):
            yield (FOLDER / source).resolve(), target


def environment_of(service: Mapping[str, Any], secrets: Path) -> dict[str, str]:
    """Return what a container is told: the image's variables and its own, secrets where they are on this machine."""
    ours = stages_of(ROOT / "deploy" / "docker" / "Dockerfile")[-1].variables()
    given = {name: str(value) for name, value in service["environment"].items()}
    for name, value in given.items():
        if value.startswith("/run/secrets/"):
            secret = value.removeprefix("/run/secrets/")
            assert secret in service["secrets"], f"{name} names a secret that is not mounted"
            given[name] = str(secrets / secret)
    return {**{name: value for name, value in ours.items() if name not in ("PATH", "HOME")}, **given}


def make_secrets(folder: Path) -> str:
    """Run secrets.sh and return what it said."""
    command = ["sh", str(FOLDER / "secrets.sh"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout


def agentmesh(service: Mapping[str, Any], words: list[str]) -> list[str]:
    """Return what the image's entry point makes of a command, on this machine."""
    assert "entrypoint" not in service
    return [sys.executable, "-m", "agentmesh", *words]


def tool(name: str) -> str | None:
    """Return the path of a program that came from PyPI, or of the machine's."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def _interpolated(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item) for item in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: match[1] or match[3] or "", value)
    return value
