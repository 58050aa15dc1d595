"""Doctor's checks of this machine: the interpreter, the libraries, the data folder."""

import importlib.metadata
import os
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agentmesh.cli.serve import entry_point
from agentmesh.kit import names
from agentmesh.kit.settings import Settings

_OLDEST_GRPC = (1, 84)
_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. A note is worth knowing and no fault; `advice` is what to do."""

    name: str
    status: Literal["ok", "note", "failed"]
    detail: str
    advice: str = ""


def of_installation() -> list[Check]:
    """Check what is installed."""
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] >= _OLDEST_PYTHON
    checks = [Check("python", "ok" if good else "failed", version, "" if good else "install Python 3.11 or newer")]
    grpc = importlib.metadata.version("grpcio")
    new_enough = tuple(map(int, grpc.split(".")[:2])) >= _OLDEST_GRPC
    checks.append(
        Check("grpcio", "ok" if new_enough else "failed", grpc, "" if new_enough else "pip install 'grpcio>=1.84'")
    )
    missing = [role for role in names.ROLES if entry_point(role) is None]
    return checks + [Check(role, "failed", "is not installed", "pip install 'agentmesh[all]'") for role in missing]


def of_data_folder(settings: Settings) -> list[Check]:
    """Check the folder that holds the database, the artifacts and the token."""
    folder = settings.data_dir
    if not folder.exists():
        parent = next(parent for parent in folder.absolute().parents if parent.exists())
        if os.access(parent, os.W_OK):
            return [Check("data folder", "ok", f"{folder} does not exist yet; `agentmesh up` makes it")]
        return [
            Check("data folder", "failed", f"{folder} can't be made", f"make {parent} writable, or pass --data-dir")
        ]
    checks = [_writable(folder)]
    token = folder / "service-token"
    if token.exists():
        mode = stat.S_IMODE(token.stat().st_mode)
        if os.name != "nt" and mode & 0o077:
            checks.append(Check("service token", "failed", f"others may read it ({mode:04o})", f"chmod 600 {token}"))
        else:
            checks.append(Check("service token", "ok", f"{token}, mode {mode:04o}"))
    return checks


def _writable(folder: Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check("data folder", "ok", f"{folder} is writable")
    except OSError as error:
        return Check("data folder", "failed", f"{folder}: {error.strerror}", "make it writable, or pass --data-dir")
