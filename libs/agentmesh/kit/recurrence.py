"""When something recurs: the times of a cron expression in a time zone, or of a fixed interval.

An expression is read as local time there. A time that a change of the clocks leaves out happens when the gap ends, one
that it repeats happens the first time. An expression for every hour goes by the time that has passed: it has nothing to
say in an hour that does not exist, and goes on through one that comes twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MAX_CRON_CHARS = 256
_MAX_ZONE_CHARS = 64
_EVERY_HOUR = set(range(24))
_NO_ZONES = frozenset({"localtime", "posixrules", "Factory"})  # what they are depends on the machine
_LAST_MS = 250_000_000_000_000  # in the year 9892: cronsim looks 50 years ahead, and a datetime ends with 9999


class RecurrenceFault(ValueError):
    """Why there are no times: `field` is cron or time_zone."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field} {description}")
        self.field = field
        self.description = description


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Either a cron expression of five fields (or six, the first of them seconds), or an interval from an anchor."""

    cron: str = ""
    time_zone: str = ""
    interval_ms: int = 0
    anchor_ms: int = 0

    def after(self, ms: int) -> Iterator[int]:
        """Yield the times after a moment, in order, as milliseconds since 1970; ends if there are none any more.

        Raises RecurrenceFault for an expression or a time zone that can't be read.
        """
        return _cron_times(self.cron, zone_of(self.time_zone), ms) if self.cron else self._interval_times(ms)

    def next_after(self, ms: int) -> int | None:
        """Return the first time after a moment; None if there is none. Raises as `after`."""
        return next(self.after(ms), None)

    def _interval_times(self, ms: int) -> Iterator[int]:
        number = max(0, (ms - self.anchor_ms) // self.interval_ms + 1)
        while (time_ms := self.anchor_ms + number * self.interval_ms) <= _LAST_MS:
            yield time_ms
            number += 1


@lru_cache(maxsize=256)
def zone_of(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name, UTC if empty; raise RecurrenceFault if there is none."""
    if not name:
        return ZoneInfo("UTC")
    try:
        if len(name) > _MAX_ZONE_CHARS or name in _NO_ZONES:
            raise ValueError
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise RecurrenceFault("time_zone", "is no time zone: give a name such as Europe/Berlin") from None


def _cron_times(text: str, zone: ZoneInfo, after_ms: int) -> Iterator[int]:
    if len(text) > MAX_CRON_CHARS:
        raise RecurrenceFault("cron", f"must be at most {MAX_CRON_CHARS} characters")
    # A datetime begins in the year 1, and nobody asks what was due before this.
    start = datetime.fromtimestamp(min(max(0, after_ms), _LAST_MS) // 1000, UTC).astimezone(zone)
    try:
        by_elapsed_time = CronSim(text, start).hours == _EVERY_HOUR
        times = CronSim(text, start if by_elapsed_time else start.replace(tzinfo=None))
    except CronSimError as error:
        raise RecurrenceFault("cron", f"is no cron expression: {str(error).lower()}") from None
    # A generator would raise its faults only when it is asked for the first time.
    return _instants(times, zone, after_ms)


def _instants(times: CronSim, zone: ZoneInfo, after_ms: int) -> Iterator[int]:
    last = after_ms
    for time in times if after_ms <= _LAST_MS else ():
        instant = int((time if time.tzinfo else _first_instant(time, zone)).timestamp()) * 1000
        if instant > _LAST_MS:
            return
        if instant > last:
            yield instant
            last = instant


def _first_instant(local: datetime, zone: ZoneInfo) -> datetime:
    """Return when a local time comes first; if it never does, when the clocks have jumped past it."""
    moment = local.replace(tzinfo=zone, fold=0)
    while moment.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != moment.replace(tzinfo=None):
        moment = moment.replace(second=0) + timedelta(minutes=1)
    return moment
