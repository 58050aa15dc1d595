"""A log file that is begun anew when it is full; the ones before it are kept under numbers."""

import os
from pathlib import Path


class LogFile:
    """Appends to `path`; beyond `max_bytes` it becomes `path.1`, that one `path.2`, and so on up to `backups`.

    A file that somebody else moved away, such as logrotate, is begun anew as well. With `max_bytes` 0 it only grows.
    """

    def __init__(self, path: Path, *, max_bytes: int, backups: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._open()

    def descriptor_for(self, size: int) -> int:
        """Return where the next `size` bytes go."""
        if self._written and (self._moved() or 0 < self._max_bytes < self._written + size):
            self._begin_anew()
        self._written += size
        return self._descriptor

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        opened = os.fstat(self._descriptor)
        self._written, self._identity = opened.st_size, (opened.st_dev, opened.st_ino)

    def _moved(self) -> bool:
        try:
            found = os.stat(self._path)
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != self._identity

    def _begin_anew(self) -> None:
        full = self._descriptor
        try:
            if not self._moved():
                self._shift()
            self._open()
        except OSError:  # no right to rename or to create here: better a file that is too long than none
            self._descriptor = full
            return
        os.close(full)

    def _shift(self) -> None:
        if not self._backups:
            self._path.unlink()
            return
        for number in range(self._backups - 1, 0, -1):
            if self._numbered(number).exists():
                self._numbered(number).replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
