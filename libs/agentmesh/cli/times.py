"""Reads durations, moments and time zones from the command line, and says durations as people do."""

import re
from datetime import datetime
from zoneinfo import available_timezones

import click
from click.shell_completion import CompletionItem

_UNITS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_PART = re.compile(r"(\d+(?:\.\d+)?)([wdhms])", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+|\d+(?:\.\d+)?", re.ASCII)


class DurationType(click.ParamType):  # type: ignore[type-arg]
    """Seconds, written as 90, 90s, 15m, 1h30m, 2d or 1w."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        text = str(value).strip().lower()
        if not _WHOLE.fullmatch(text) or len(text) > 32:
            self.fail(f"{value!r} is no duration: write 30s, 15m, 1h30m or 2d", param, ctx)
        parts = _PART.findall(text)
        return sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else float(text)


class MomentType(click.ParamType):  # type: ignore[type-arg]
    """A date, or a date and a time, in ISO 8601; in this machine's time zone unless it names one."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return a moment with a time zone."""
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(str(value)).astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time: write 2026-01-31 or 2026-01-31T09:00", param, ctx)


class TimeZoneType(click.ParamType):  # type: ignore[type-arg]
    """The name of a time zone; the mesh says whether it knows it."""

    name = "name"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so."""
        begun = incomplete.lower()
        return [CompletionItem(zone) for zone in sorted(available_timezones()) if zone.lower().startswith(begun)]


def duration_text(seconds: float) -> str:
    """Return seconds as 1h30m; fractions of a second stay."""
    whole, text = int(seconds), ""
    for unit in ("d", "h", "m"):
        count, whole = divmod(whole, _UNITS[unit])
        text += f"{count}{unit}" if count else ""
    rest = whole + seconds - int(seconds)
    return text + (f"{rest:.6g}s" if rest or not text else "")
