"""Turns the bytes of a file into a table, or says exactly what is wrong with them."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentmesh.sdk import InputFile, Rejected
from agentmesh_runner.agents.data_analysis.csv_reading import read_csv
from agentmesh_runner.agents.data_analysis.json_reading import read_json
from agentmesh_runner.agents.data_analysis.options import AnalysisOptions

if TYPE_CHECKING:
    import pandas as pd

# The longer mark first: UTF-32's little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BINARY = (
    (b"PK\x03\x04", "a spreadsheet or an archive", "save the sheet as CSV"),
    (b"PAR1", "Parquet", "export it as CSV or JSON"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it first"),
    (b"%PDF", "a PDF", "export the table as CSV"),
    (b"\x89PNG", "an image", "give the table itself"),
)


@dataclass(frozen=True, slots=True)
class RawTable:
    """A table as it stood in the file; types are not settled yet."""

    name: str
    format: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


def choose(files: list[InputFile], wanted: str) -> InputFile:
    """Return the file to analyse.

    Raises Rejected INPUT_MISSING without any file, FILE_UNKNOWN if none has the wanted name.
    """
    if not files:
        raise Rejected("INPUT_MISSING", "no file was given; attach a CSV or JSON file to the task")
    if not wanted:
        return files[0]
    for file in files:
        if file.name == wanted:
            return file
    names = ", ".join(file.name for file in files[:10])
    raise Rejected("FILE_UNKNOWN", f"no file is named {wanted!r}; the task has: {names}")


def read_table(file: InputFile, options: AnalysisOptions) -> RawTable:
    """Read a CSV, TSV, JSON or JSON Lines file within the bounds of `options`.

    Raises Rejected with a reason that begins with CSV_ or JSON_ and a message that says what to do.
    """
    for magic, what, advice in _BINARY:
        if file.data.startswith(magic):
            raise Rejected("FILE_TYPE_UNSUPPORTED", f"{file.name} is {what}, not a CSV or JSON file; {advice}")
    kind = "JSON" if _looks_like_json(file) else "CSV"
    if len(file.data) > options.max_bytes:
        raise Rejected(
            f"{kind}_TOO_LARGE",
            f"{file.name} has {len(file.data):,} bytes and at most {options.max_bytes:,} are read; "
            "split the file or keep fewer rows",
        )
    text = decode(file, kind)
    if not text.strip():
        raise Rejected(f"{kind}_EMPTY", f"{file.name} is empty; give a file with a header and rows")
    if kind == "JSON":
        frame, form, notes = read_json(text, file.name, options)
    else:
        frame, form, notes = read_csv(text, file.name, options)
    return RawTable(file.name, form, frame, tuple(notes))


def decode(file: InputFile, kind: str) -> str:
    """Decode by the byte order mark, or as UTF-8. Raises Rejected with the offset of the first bad byte."""
    mark, encoding = next(((mark, encoding) for mark, encoding in _MARKS if file.data.startswith(mark)), (b"", "utf-8"))
    try:
        return file.data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        offset = len(mark) + error.start
        line = file.data.count(b"\n", 0, offset) + 1
        raise Rejected(
            f"{kind}_NOT_UTF8",
            f"{file.name}: byte {offset} (line {line}) is not {encoding.upper()}; "
            "save the file as UTF-8 (a spreadsheet calls it 'CSV UTF-8')",
        ) from error


def _looks_like_json(file: InputFile) -> bool:
    suffix = file.name.rsplit(".", 1)[-1].lower() if "." in file.name else ""
    if suffix in {"json", "jsonl", "ndjson"}:
        return True
    if suffix in {"csv", "tsv", "tab"} or "csv" in file.media_type:
        return False
    return "json" in file.media_type or re.match(rb"(\xef\xbb\xbf)?\s*[\[{]", file.data) is not None
