"""Reads columns of dates without guessing row by row: one format for the whole column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_DAYS = (
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%m-%d-%Y",
    "%d-%m-%Y",
    "%d-%b-%Y",
    "%d %b %Y",
    "%d %B %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%b %Y",
    "%B %Y",
)
_TIMES = ("", " %H:%M:%S", " %H:%M")
_MIRRORED = {"%m/%d/%Y": "%d/%m/%Y", "%m-%d-%Y": "%d-%m-%Y"}
_SAMPLE = 100
_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Dates:
    """Parsed dates, without time zone (UTC if the text named one), and what was assumed."""

    values: pd.Series
    notes: tuple[str, ...] = ()


def parse_dates(texts: pd.Series) -> Dates | None:
    """Parse non-missing texts by the one format that fits them; None if fewer than 95 % fit any."""
    sample = texts.iloc[:_SAMPLE]
    if not sample.str.contains(r"\d", regex=True).all():
        return None
    if _fits(sample, "ISO8601"):
        return _whole(texts, "ISO8601", "")
    for day in _DAYS:
        for time in _TIMES:
            if _fits(sample, day + time):
                mirrored = _MIRRORED.get(day)
                note = ""
                if mirrored:
                    whole = _whole(texts, day + time, "")
                    if whole is None or whole.values.isna().any():
                        # A day above 12 further down settles the question for day first.
                        return _whole(texts, mirrored + time, "") or whole
                    if _fits(texts, mirrored + time):
                        note = "months and days can't be told apart; read with the month first."
                return _whole(texts, day + time, note)
    return None


def parse_numbered_days(numbers: pd.Series) -> pd.Series | None:
    """Parse whole numbers like 20120131 as days; None if one is not such a day."""
    import pandas as pd

    present = numbers.dropna()
    if present.empty or not present.between(10_000_101, 99_991_231).all() or (present % 1 != 0).any():
        return None
    days = pd.to_datetime(present.astype("int64").astype(str), format="%Y%m%d", errors="coerce")
    return None if days.isna().any() else days.reindex(numbers.index)


def _fits(texts: pd.Series, form: str) -> bool:
    return bool(_parsed(texts, form).notna().mean() >= _SHARE)


def _whole(texts: pd.Series, form: str, note: str) -> Dates | None:
    values = _parsed(texts, form)
    bad = int(values.isna().sum())
    if bad > len(texts) * (1 - _SHARE):
        return None
    notes = [note] if note else []
    if bad:
        notes.append(f"{bad} values are not dates and count as missing.")
    return Dates(values, tuple(notes))


def _parsed(texts: pd.Series, form: str) -> pd.Series:
    import pandas as pd

    return pd.to_datetime(texts, format=form, errors="coerce", utc=True).dt.tz_localize(None)
