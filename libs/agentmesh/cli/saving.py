"""Saves a task's artifacts into a folder: their names are a stranger's, so none may leave it or replace a file."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from agentmesh.api.types.v1 import types_pb2
from agentmesh.client import AsyncClient

_MAX_NAME_BYTES = 150
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_REFUSED = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')


def safe_name(name: str) -> str:
    """Return a file name, good on every system, for an artifact's name: the last part, without what is special."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/").rstrip("/").rpartition("/")[2])
    name = "".join(c for c in _REFUSED.sub("_", name) if unicodedata.category(c) not in ("Cf", "Cs", "Cc"))
    name = name.strip(". ")
    if not name:
        return "artifact"
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    stem, suffix = _split(name)
    while len((stem + suffix).encode()) > _MAX_NAME_BYTES:
        stem = stem[:-1]
    return stem + suffix


def numbered(name: str, number: int) -> str:
    """Return another name for the same thing: report.md, report-2.md, …; `number` counts from 1."""
    stem, suffix = _split(name)
    return name if number == 1 else f"{stem}-{number}{suffix}"


async def save_all(
    client: AsyncClient, artifacts: Iterable[types_pb2.Artifact], folder: Path
) -> list[tuple[types_pb2.Artifact, Path]]:
    """Write artifacts into a folder, which is made if there are any; return where each one is."""
    saved: dict[str, tuple[types_pb2.Artifact, Path]] = {}
    for artifact in artifacts:
        if artifact.artifact_id not in saved:
            _make(folder)
            saved[artifact.artifact_id] = (artifact, await _save(client, artifact, folder))
    return list(saved.values())


async def _save(client: AsyncClient, artifact: types_pb2.Artifact, folder: Path) -> Path:
    name = safe_name(artifact.name or artifact.artifact_id)
    number = 1
    while True:
        path = folder / numbered(name, number)
        try:
            if not artifact.parts:
                return await client.download(artifact.artifact_id, path)
            with path.open("xb") as file:
                file.write(b"".join(part.raw or part.text.encode() for part in artifact.parts))
            return path
        except FileExistsError:
            number += 1


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def _split(name: str) -> tuple[str, str]:
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix) if stem and len(suffix) <= 10 else (name, "")
