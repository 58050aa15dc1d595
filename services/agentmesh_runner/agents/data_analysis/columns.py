"""Settles what each column of a table holds, and which one trends run along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentmesh.sdk import Rejected
from agentmesh_runner.agents.data_analysis.dates import parse_dates, parse_numbered_days
from agentmesh_runner.agents.data_analysis.model import Kind
from agentmesh_runner.agents.data_analysis.options import AnalysisOptions
from agentmesh_runner.agents.data_analysis.reading import RawTable

if TYPE_CHECKING:
    import pandas as pd

# A text column is taken for numbers if at least this share of its values is; the rest count as missing.
_NUMBER_SHARE = 0.95
_CATEGORY_LEVELS = 50
_CATEGORY_SHARE = 0.5
# Fourth powers of these still fit a float, and a regression needs them.
_LARGEST, _SMALLEST = 1e70, 1e-70


@dataclass(frozen=True, slots=True)
class TypedTable:
    """A table whose columns have settled types; `axis` is what trends run along, or empty."""

    name: str
    format: str
    frame: pd.DataFrame
    kinds: dict[str, Kind]
    axis: str
    notes: tuple[str, ...]

    def of_kind(self, *kinds: Kind) -> list[str]:
        """Return the names of the columns of these kinds, in the table's order."""
        return [name for name, kind in self.kinds.items() if kind in kinds]


def settle(table: RawTable, options: AnalysisOptions) -> TypedTable:
    """Type the chosen columns and find the axis.

    Raises Rejected COLUMN_UNKNOWN, TARGET_NOT_NUMERIC or DATE_COLUMN_UNREADABLE.
    """
    import pandas as pd

    present = [str(name) for name in table.frame.columns]
    _known((*options.columns, options.date_column, options.target), present)
    wanted = {*options.columns, options.date_column, options.target} if options.columns else set(present)
    notes = list(table.notes)
    series: dict[str, pd.Series] = {}
    kinds: dict[str, Kind] = {}
    for name in present:
        if name in wanted:
            series[name], kinds[name] = _typed(table.frame[name], name, notes)
    if options.target and kinds[options.target] != "number":
        raise Rejected(
            "TARGET_NOT_NUMERIC",
            f"column {options.target!r} holds {kinds[options.target]}, not numbers; name a numeric column",
        )
    if options.date_column and kinds[options.date_column] != "date":
        name = options.date_column
        days = parse_numbered_days(series[name]) if kinds[name] == "number" else None
        if days is not None:
            series[name], kinds[name] = days, "date"
        elif kinds[name] != "number":
            raise Rejected(
                "DATE_COLUMN_UNREADABLE",
                f"column {name!r} holds neither dates nor numbers; write dates as YYYY-MM-DD",
            )
    frame = pd.DataFrame(series)
    axis = options.date_column or _find_axis(frame, kinds)
    return TypedTable(table.name, table.format, frame, kinds, axis, tuple(notes))


def _known(names: tuple[str, ...], present: list[str]) -> None:
    for name in names:
        if name and name not in present:
            shown = ", ".join(present[:20]) + (", …" if len(present) > 20 else "")
            raise Rejected("COLUMN_UNKNOWN", f"there is no column {name!r}; the table has: {shown}")


def _typed(column: pd.Series, name: str, notes: list[str]) -> tuple[pd.Series, Kind]:
    import numpy as np
    import pandas as pd

    present = column.dropna()
    if present.empty:
        return column, "empty"
    if pd.api.types.is_bool_dtype(column) or set(map(type, present)) <= {bool, np.bool_}:
        return column.astype("object"), "boolean"
    if pd.api.types.is_numeric_dtype(column):
        return _within_range(column.astype("float64"), name, notes), "number"
    texts = present.astype(str).str.strip()
    numbers = _numbers(texts)
    rubbish = int(numbers.isna().sum())
    if rubbish <= len(texts) * (1 - _NUMBER_SHARE):
        if rubbish:
            shown = ", ".join(repr(value) for value in texts[numbers.isna()].unique()[:3])
            notes.append(f"{rubbish} values of {name!r} are not numbers ({shown}) and count as missing.")
        return _within_range(numbers.reindex(column.index), name, notes), "number"
    dates = parse_dates(texts)
    if dates is not None:
        notes.extend(f"{name!r}: {note}" for note in dates.notes)
        return dates.values.reindex(column.index), "date"
    levels = texts.nunique()
    few = levels <= _CATEGORY_LEVELS and levels <= max(2, len(texts) * _CATEGORY_SHARE)
    return texts.astype("object").reindex(column.index), "category" if few else "text"


def _numbers(texts: pd.Series) -> pd.Series:
    """Read numbers, with a decimal comma where every comma can be one."""
    import pandas as pd

    numbers = pd.to_numeric(texts, errors="coerce").astype("float64")
    if numbers.notna().mean() < _NUMBER_SHARE and texts.str.contains(",", regex=False).any():
        comma = texts.where(texts.str.fullmatch(r"[+-]?\d+(,\d+)?"))
        numbers = pd.to_numeric(comma.str.replace(",", ".", regex=False), errors="coerce").astype("float64")
    return numbers


def _within_range(column: pd.Series, name: str, notes: list[str]) -> pd.Series:
    """Drop what can't be squared and summed without overflow or underflow."""
    import numpy as np

    size = column.abs()
    huge, tiny = size > _LARGEST, (size > 0) & (size < _SMALLEST)
    if huge.any():
        notes.append(f"{np.count_nonzero(huge)} values of {name!r} are infinite or beyond 1e70; they count as missing.")
    if tiny.any():
        notes.append(f"{np.count_nonzero(tiny)} values of {name!r} are below 1e-70 and count as 0.")
    return column.mask(huge).mask(tiny, 0.0) if huge.any() or tiny.any() else column


def _find_axis(frame: pd.DataFrame, kinds: dict[str, Kind]) -> str:
    """Return the date column with fewest gaps, else the first column of whole numbers that only rises."""
    dates = [name for name, kind in kinds.items() if kind == "date" and frame[name].nunique() > 2]
    if dates:
        return max(dates, key=lambda name: len(frame[name].dropna()))
    for name, kind in kinds.items():
        column = frame[name]
        if kind == "number" and len(column) > 2 and column.notna().all():
            steps = column.diff().iloc[1:]
            if bool((steps > 0).all()) and bool((column % 1 == 0).all()):
                return name
    return ""
