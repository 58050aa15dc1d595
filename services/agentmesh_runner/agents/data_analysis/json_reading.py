"""Reads JSON records, columns and JSON Lines into a flat frame."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agentmesh.sdk import Rejected
from agentmesh_runner.agents.data_analysis.csv_reading import column_names
from agentmesh_runner.agents.data_analysis.options import AnalysisOptions

if TYPE_CHECKING:
    import pandas as pd

_FLATTEN_LEVELS = 3


def read_json(text: str, name: str, options: AnalysisOptions) -> tuple[pd.DataFrame, str, list[str]]:
    """Return the frame, the form of the text, and notes on what was assumed.

    Taken are a list of objects, an object of lists of equal length, an object with one list of objects in
    it, and JSON Lines. Raises Rejected JSON_EMPTY, JSON_MALFORMED, JSON_NOT_RECORDS or JSON_TOO_LARGE.
    """
    import pandas as pd

    value, form = _parse(text, name)
    records = _as_records(value, name)
    if not records:
        raise Rejected("JSON_EMPTY", f"{name} holds no records; give at least one")
    if len(records) > options.max_rows:
        raise Rejected(
            "JSON_TOO_LARGE",
            f"{name} has {len(records):,} records and at most {options.max_rows:,} are read; "
            "split it, sample it or sum it up first",
        )
    columns = {key for record in records for key in record}
    if len(columns) > options.max_columns:
        raise Rejected(
            "JSON_TOO_LARGE",
            f"{name} has {len(columns):,} fields and at most {options.max_columns:,} are read; "
            "keep only the fields that matter",
        )
    notes: list[str] = []
    nested = any(isinstance(value, dict) for record in records for value in record.values())
    frame = pd.json_normalize(records, max_level=_FLATTEN_LEVELS) if nested else pd.DataFrame(records)
    if nested:
        notes.append("Objects inside records were flattened; a dot joins the names of their levels.")
    if len(frame.columns) > options.max_columns:
        raise Rejected("JSON_TOO_LARGE", f"{name} has more than {options.max_columns:,} fields once flattened")
    frame.columns = pd.Index(column_names([str(column) for column in frame.columns], notes))
    for column in frame.columns:
        if frame[column].map(lambda cell: isinstance(cell, list | dict)).any():
            frame[column] = frame[column].map(_cell_text)
            notes.append(f"Column {column!r} holds lists or objects; they are treated as text.")
    return frame, form, notes


def _parse(text: str, name: str) -> tuple[Any, str]:
    try:
        return json.loads(text), "JSON"
    except RecursionError as error:
        raise Rejected("JSON_MALFORMED", f"{name} is nested too deeply; give flat records") from error
    except ValueError as error:
        first_line = text.lstrip().split("\n", 1)[0].strip()
        if first_line.startswith("{") and first_line.endswith("}"):
            return _parse_lines(text, name), "JSON Lines"
        where = f"line {error.lineno}, column {error.colno}: " if isinstance(error, json.JSONDecodeError) else ""
        raise Rejected("JSON_MALFORMED", f"{name} is not JSON ({where}{_why(error)}); export it again") from error


def _parse_lines(text: str, name: str) -> list[Any]:
    values: list[Any] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise Rejected(
                "JSON_MALFORMED",
                f"{name}: line {number} is not JSON ({_why(error)}); each line must be one whole object",
            ) from error
    return values


def _why(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply or not valid"


def _as_records(value: Any, name: str) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        lists = {key: item for key, item in value.items() if isinstance(item, list)}
        if lists and len(lists) == len(value) and len({len(item) for item in lists.values()}) == 1:
            columns = list(lists)
            if not any(isinstance(cell, dict) for item in lists.values() for cell in item):
                return [dict(zip(columns, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        if len(lists) == 1:
            value = next(iter(lists.values()))
    if not isinstance(value, list):
        raise Rejected("JSON_NOT_RECORDS", f"{name} holds no table; give a list of objects, one object for each row")
    for position, record in enumerate(value):
        if not isinstance(record, dict):
            raise Rejected(
                "JSON_NOT_RECORDS",
                f"{name}: item {position + 1} of the list is not an object; give one object for each row",
            )
    return value


def _cell_text(cell: Any) -> Any:
    return json.dumps(cell, ensure_ascii=False, sort_keys=True) if isinstance(cell, list | dict) else cell
