"""Which migrations a database still lacks: numbered SQL files, each applied once and never edited again.

A file may say `-- runs-with: N`: releases that ship schema N can still run once it is applied. Without it, only
releases that ship the file itself can.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentmesh.kit.errors import WrongState

_RUNS_WITH = re.compile(r"^-- runs-with: (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file; `runs_with` is the oldest schema whose releases can run on it."""

    version: int
    name: str
    sql: str
    checksum: str
    runs_with: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What a database says of a migration that it has."""

    checksum: str
    runs_with: int


def shipped(folder: Path) -> list[Migration]:
    """Return the migrations in a folder, in order."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        sql = path.read_text(encoding="utf-8")
        version = int(path.stem.partition("_")[0])
        oldest = _RUNS_WITH.search(sql)
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        found.append(Migration(version, path.stem, sql, checksum, int(oldest[1]) if oldest else version))
    return found


def lacking(known: Sequence[Migration], applied: Mapping[int, Applied]) -> list[Migration]:
    """Return what is still to be applied; raise WrongState if this release can't run on the database."""
    newest = known[-1].version
    oldest_release = max((has.runs_with for version, has in applied.items() if version > newest), default=0)
    if oldest_release > newest:
        raise WrongState("the database is newer than this release: run a newer agentmesh", reason="DATABASE_TOO_NEW")
    for migration in known:
        has = applied.get(migration.version)
        if has is not None and has.checksum != migration.checksum:
            raise WrongState(
                f"migration {migration.version} was edited after it was applied: restore the shipped file",
                reason="MIGRATION_EDITED",
            )
    return [migration for migration in known if migration.version not in applied]


def check_all_applied(waiting: Sequence[Migration]) -> None:
    """Raise WrongState if a migration is missing that this process may not apply itself."""
    if waiting:
        raise WrongState(
            f"the database lacks migration {waiting[0].name}: run agentmesh migrate up", reason="NOT_MIGRATED"
        )


def rows(known: Sequence[Migration], waiting: set[str], done: set[str]) -> list[dict[str, str]]:
    """Return each migration with applied, pending or done, as `agentmesh migrate` shows them."""
    shown = []
    for migration in known:
        status = "done" if migration.name in done else "pending" if migration.name in waiting else "applied"
        shown.append({"name": migration.name, "status": status})
    return shown
