"""Reads delimited text; the standard csv module finds the line that is wrong, pandas does the bulk."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from agentmesh.sdk import Rejected
from agentmesh_runner.agents.data_analysis.options import AnalysisOptions

if TYPE_CHECKING:
    import pandas as pd

_DELIMITERS = ",;\t|"
_SAMPLE_CHARACTERS = 64 * 1024
_RAGGED_SHOWN = 5


def read_csv(text: str, name: str, options: AnalysisOptions) -> tuple[pd.DataFrame, str, list[str]]:
    """Return the frame, the form of the text, and notes on what was assumed.

    Raises Rejected CSV_EMPTY, CSV_RAGGED, CSV_TOO_LARGE or CSV_MALFORMED.
    """
    import pandas as pd

    delimiter = find_delimiter(text)
    header = _scan(text, delimiter, name, options)
    notes: list[str] = []
    headless = all(_is_number(field) for field in header)
    if headless:
        notes.append("The first line holds only numbers, so it was read as data; columns are numbered.")
    names = column_names([""] * len(header) if headless else header, notes)
    try:
        frame = pd.read_csv(
            io.StringIO(text),
            sep=delimiter,
            header=None if headless else 0,
            names=names,
            index_col=False,
            low_memory=False,
        )
    except (pd.errors.ParserError, ValueError, OverflowError) as error:
        raise Rejected("CSV_MALFORMED", f"{name} can't be read as CSV; check its quotes and export it again") from error
    form = "CSV" if delimiter == "," else {"\t": "TSV"}.get(delimiter, f"CSV with {delimiter!r}")
    return frame, form, notes


def find_delimiter(text: str) -> str:
    """Return the delimiter by which most lines of the first 64 KiB have as many fields as the first."""
    sample = text[:_SAMPLE_CHARACTERS]
    if len(text) > len(sample):
        sample = sample[: sample.rfind("\n") + 1] or sample
    best, best_score = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        try:
            widths = [len(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row]
        except csv.Error:
            continue
        if not widths or widths[0] < 2:
            continue
        score = (sum(width == widths[0] for width in widths) / len(widths), widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def column_names(header: list[str], notes: list[str]) -> list[str]:
    """Make every name non-empty, unique, of one line and at most 200 characters; note what was changed."""
    names: list[str] = []
    taken: set[str] = set()
    for position, field in enumerate(header, start=1):
        wanted = " ".join(field.split())[:200] or f"column_{position}"
        name, copy = wanted, 2
        while name in taken:
            name, copy = f"{wanted}_{copy}", copy + 1
        if name != wanted:
            notes.append(f"Column {position} repeats the name {wanted!r}; it is called {name!r} here.")
        names.append(name)
        taken.add(name)
    return names


def _scan(text: str, delimiter: str, name: str, options: AnalysisOptions) -> list[str]:
    """Hold every record against the header and the bounds; return the header."""
    records = _records(text, delimiter, name)
    _, header = next(records, (0, []))
    if not header:
        raise Rejected("CSV_EMPTY", f"{name} has no lines with data; give a file with a header and rows")
    if len(header) > options.max_columns:
        raise Rejected(
            "CSV_TOO_LARGE",
            f"{name} has {len(header):,} columns and at most {options.max_columns:,} are read; "
            "keep only the columns that matter",
        )
    rows = 0
    ragged: list[tuple[int, int]] = []
    ragged_count = 0
    for line, record in records:
        rows += 1
        if rows > options.max_rows:
            raise Rejected(
                "CSV_TOO_LARGE",
                f"{name} has more than {options.max_rows:,} rows; split it, sample it or sum it up first",
            )
        if len(record) != len(header):
            ragged_count += 1
            if len(ragged) < _RAGGED_SHOWN:
                ragged.append((line, len(record)))
    if ragged:
        line, width = ragged[0]
        shown = ", ".join(str(line) for line, _ in ragged) + (", …" if ragged_count > len(ragged) else "")
        raise Rejected(
            "CSV_RAGGED",
            f"{name}: line {line} has {width} fields where the header has {len(header)} "
            f"({ragged_count:,} such lines: {shown}); put quotes round fields that hold {delimiter!r}, "
            "or add the missing fields",
        )
    if rows == 0 and not all(_is_number(field) for field in header):
        raise Rejected("CSV_EMPTY", f"{name} has a header and no rows; give at least one row of data")
    return header


def _records(text: str, delimiter: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the record's first line, fields), without blank lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begin = 1
    try:
        for record in reader:
            if record and (len(record) > 1 or record[0].strip()):
                yield begin, record
            begin = reader.line_num + 1
    except csv.Error as error:
        raise Rejected(
            "CSV_MALFORMED",
            f"{name}: the record that begins in line {begin} can't be read ({error}); "
            'check its quotes: a quote inside a quoted field is written twice ("")',
        ) from error


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
