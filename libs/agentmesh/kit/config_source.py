"""Remembers where settings came from, so that they can be read again when that has changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentmesh.kit.settings import Settings


@dataclass(frozen=True, eq=False)
class Source:
    """What `load` was called with, the file that it found, and how its files looked before they were read."""

    config: Path | None
    environ: Mapping[str, str] | None
    overrides: Mapping[str, object]
    file: Path
    unused: frozenset[str] = frozenset()
    looked: tuple[tuple[int, int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "looked", self.look())

    def __eq__(self, other: object) -> bool:
        """Settings that say the same are the same, wherever they came from."""
        return True

    __hash__ = object.__hash__

    def look(self) -> tuple[tuple[int, int, int], ...]:
        """Return what is another one once a file has changed; going away is a change, and coming back another."""
        marks = []
        for file in (self.file, *((Path(".env"),) if self.environ is None else ())):
            try:
                status = file.stat()
                marks.append((status.st_mtime_ns, status.st_ino, status.st_size))
            except OSError:
                marks.append((0, 0, 0))
        return tuple(marks)


def variable(path: str) -> str:
    """Return the name of the environment variable that sets a configuration key."""
    return "AGENTMESH_" + path.replace(".", "__").upper()


def variables(config_file: Path | None, overrides: Mapping[str, object]) -> dict[str, str]:
    """Return the variables that give a child process the configuration of `load(config_file, overrides=overrides)`."""
    found = {variable(path): str(value) for path, value in overrides.items()}
    if config_file is not None:
        found["AGENTMESH_CONFIG"] = str(config_file.resolve())
    return found


def file_of(settings: Settings) -> Path | None:
    """Return the file that settings were read from, if there is one."""
    return settings._source.file if isinstance(settings._source, Source) else None


def variables_of(settings: Settings) -> dict[str, str]:
    """Return the variables that give a child process these settings, beside the environment of this one."""
    source = settings._source
    return variables(source.config, source.overrides) if isinstance(source, Source) else {}


class Watch:
    """Tells whether the files that settings came from have changed since they were read, or since it last told."""

    def __init__(self, settings: Settings) -> None:
        source = settings._source
        self._source = source if isinstance(source, Source) else None
        self._seen = self._source.looked if self._source else ()

    def changed(self) -> bool:
        """Look again; never changed are settings that came from no file."""
        now = self._source.look() if self._source else ()
        changed, self._seen = now != self._seen, now
        return changed
