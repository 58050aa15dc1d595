"""Shows which statements a service has its database run, without their values and without drowning the log."""

import sqlite3
import time
from collections.abc import Callable
from threading import Lock
from typing import Any

from agentmesh.kit import telemetry

log = telemetry.logger(__name__)

_EVERY_S = 60.0
_MAX_REMEMBERED = 1024


class SqlEcho:
    """Logs a statement when it is run first, and once a minute how often it was run since and how long that took."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = Lock()  # SQLite's statements come from several threads
        self._ran: dict[str, tuple[float, int, float]] = {}  # since when, how often, how long

    def note(self, statement: str, elapsed_s: float) -> None:
        """Take in that a statement was run."""
        now = self._now()
        with self._lock:
            if len(self._ran) >= _MAX_REMEMBERED:
                self._ran.clear()
            since, times, total_s = self._ran.get(statement, (now - _EVERY_S, 0, 0.0))
            times, total_s = times + 1, total_s + elapsed_s
            if now - since < _EVERY_S:
                self._ran[statement] = since, times, total_s
                return
            self._ran[statement] = now, 0, 0.0
        log.info("sql", statement=" ".join(statement.split()), times=times, elapsed_s=round(total_s, 6))


def connection_class(echo: SqlEcho | None) -> type[sqlite3.Connection]:
    """Return what `sqlite3.connect` makes connections of; one that echoes, if there is an echo."""
    if echo is None:
        return sqlite3.Connection
    shown = echo

    class Echoing(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            return _timed(shown, sql, lambda: super(Echoing, self).execute(sql, *parameters))

        def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
            return _timed(shown, sql, lambda: super(Echoing, self).executemany(sql, parameters))

    return Echoing


def _timed(echo: SqlEcho, statement: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
    began = time.perf_counter()
    try:
        return run()
    finally:
        echo.note(statement, time.perf_counter() - began)
