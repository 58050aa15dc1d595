"""Reading tables: what is taken, and how each bad file is refused."""

import json
from typing import Any

import pytest

from agentmesh.sdk import InputFile, Rejected
from agentmesh_runner.agents.data_analysis.columns import TypedTable, settle
from agentmesh_runner.agents.data_analysis.csv_reading import find_delimiter
from agentmesh_runner.agents.data_analysis.options import AnalysisOptions
from agentmesh_runner.agents.data_analysis.reading import choose, read_table


def load(data: bytes | str, name: str = "t.csv", media_type: str = "", **options: Any) -> TypedTable:
    content = data.encode() if isinstance(data, str) else data
    chosen = AnalysisOptions(**options)
    return settle(read_table(InputFile(name=name, media_type=media_type, data=content), chosen), chosen)


def refusal(data: bytes | str, name: str = "t.csv", **options: Any) -> tuple[str, str]:
    with pytest.raises(Rejected) as caught:
        load(data, name, **options)
    return caught.value.reason, caught.value.message


@pytest.mark.parametrize("data", [b"", b"\n\n", b"  \n", b"\xef\xbb\xbf", b"a,b\n", b"a,b\n\n\n"])
def test_empty_csv_is_refused_as_empty(data: bytes) -> None:
    reason, message = refusal(data)
    assert reason == "CSV_EMPTY"
    assert "row" in message


def test_ragged_csv_is_refused_with_its_line_numbers() -> None:
    reason, message = refusal("a,b,c\n1,2,3\n\n4,5\n6,7,8\n9,10,11,12\n")
    assert reason == "CSV_RAGGED"
    assert "line 4 has 2 fields where the header has 3 (2 such lines: 4, 6)" in message


def test_line_number_counts_lines_inside_quoted_fields() -> None:
    _, message = refusal('a,b\n"one\ntwo\nthree",2\n3\n')
    assert "line 5 has 1 fields" in message


def test_csv_with_an_open_quote_is_refused_with_the_line_where_it_begins() -> None:
    reason, message = refusal('a,b\n1,2\n"never closed,3\n4,5\n')
    assert reason == "CSV_MALFORMED"
    assert "begins in line 3" in message


@pytest.mark.parametrize(
    ("options", "word"), [({"max_rows": 2}, "rows"), ({"max_columns": 1}, "columns"), ({"max_bytes": 10}, "bytes")]
)
def test_csv_over_a_bound_is_refused_and_the_bound_is_named(options: dict[str, int], word: str) -> None:
    reason, message = refusal("a,b\n1,2\n3,4\n5,6\n", **options)
    assert reason == "CSV_TOO_LARGE"
    assert word in message
    assert f"{next(iter(options.values()))}" in message


def test_csv_at_its_bounds_is_read() -> None:
    table = load("a,b\n1,2\n3,4\n", max_rows=2, max_columns=2, max_bytes=12)
    assert len(table.frame) == 2


def test_bounds_can_be_narrowed_and_never_widened() -> None:
    with pytest.raises(ValueError, match="max_rows"):
        AnalysisOptions(max_rows=1_000_001)
    with pytest.raises(ValueError, match="max_bytes"):
        AnalysisOptions(max_bytes=64 * 1024 * 1024 + 1)


def test_csv_that_is_not_utf8_is_refused_with_the_offset_of_the_byte() -> None:
    reason, message = refusal("name,n\nZürich,1\n".encode("latin-1"))
    assert reason == "CSV_NOT_UTF8"
    assert "byte 8 (line 2)" in message
    assert "UTF-8" in message


def test_offset_counts_the_byte_order_mark() -> None:
    _, message = refusal(b"\xef\xbb\xbfa\n\xff\n")
    assert "byte 5 (line 2)" in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_with_a_byte_order_mark_is_read(encoding: str) -> None:
    table = load("stadt,n\nZürich,1\nKöln,2\n".encode(encoding))
    assert list(table.frame.columns) == ["stadt", "n"]
    assert list(table.frame["stadt"]) == ["Zürich", "Köln"]


@pytest.mark.parametrize(("text", "delimiter"), [("a;b\n1,5;2\n", ";"), ("a\tb\n1\t2\n", "\t"), ("a|b\n1|2\n", "|")])
def test_delimiter_is_found(text: str, delimiter: str) -> None:
    assert find_delimiter(text) == delimiter


def test_decimal_commas_are_read_as_numbers() -> None:
    table = load("a;b\n1,5;x\n-2,25;y\n3;x\n")
    assert table.kinds["a"] == "number"
    assert list(table.frame["a"]) == [1.5, -2.25, 3.0]


def test_few_words_in_a_numeric_column_count_as_missing_and_are_noted() -> None:
    table = load("a\n" + "\n".join(["1"] * 99 + ["oops"]) + "\n")
    assert table.kinds["a"] == "number"
    assert int(table.frame["a"].isna().sum()) == 1
    assert any("'oops'" in note for note in table.notes)


def test_infinite_values_count_as_missing_and_are_noted() -> None:
    table = load("a\n1\ninf\n3\n")
    assert int(table.frame["a"].isna().sum()) == 1
    assert any("infinite" in note for note in table.notes)


def test_csv_without_a_header_is_read_and_that_is_noted() -> None:
    table = load("1,2\n3,4\n5,6\n")
    assert list(table.frame.columns) == ["column_1", "column_2"]
    assert len(table.frame) == 3
    assert any("first line" in note for note in table.notes)


def test_repeated_and_empty_names_become_unique() -> None:
    table = load("a,a,\nx,y,z\n")
    assert list(table.frame.columns) == ["a", "a_2", "column_3"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("2024-02-01", "2024-02-29", "2024-02-29"),
        ("2024/02/01", "2024/02/29", "2024-02-29"),
        ("01.02.2024", "29.02.2024", "2024-02-29"),
        ("02/01/2024", "02/29/2024", "2024-02-29"),
        ("01/02/2024", "29/02/2024", "2024-02-29"),
        ("1 Feb 2024", "29 Feb 2024", "2024-02-29"),
        ("2024-02-01T12:00:00Z", "2024-02-29T23:30:00-01:00", "2024-03-01"),
    ],
)
def test_dates_are_read_in_their_format(first: str, second: str, expected: str) -> None:
    table = load(f"when;n\n{first};1\n{second};2\n")
    assert table.kinds["when"] == "date"
    assert f"{table.frame['when'].iloc[1]:%Y-%m-%d}" == expected


def test_dates_whose_day_and_month_cannot_be_told_apart_are_noted() -> None:
    table = load("when,n\n01/02/2024,1\n03/04/2024,2\n")
    assert any("month first" in note for note in table.notes)


def test_numbered_days_are_dates_when_named() -> None:
    table = load("day,n\n20240131,1\n20240201,5\n20240202,3\n", date_column="day")
    assert table.kinds["day"] == "date"
    assert table.axis == "day"


def test_rising_whole_numbers_are_the_axis_where_there_is_no_date() -> None:
    assert load("year,v\n2001,5\n2002,3\n2004,9\n").axis == "year"
    assert load("x,v\n2001,5\n2002,3\n2002,9\n").axis == ""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"columns": ("nope",)}, "COLUMN_UNKNOWN"),
        ({"target": "nope"}, "COLUMN_UNKNOWN"),
        ({"target": "word"}, "TARGET_NOT_NUMERIC"),
        ({"date_column": "word"}, "DATE_COLUMN_UNREADABLE"),
    ],
)
def test_wrong_column_is_refused(options: dict[str, Any], reason: str) -> None:
    assert refusal("n,word\n1,a\n2,a\n3,a\n4,b\n", **options)[0] == reason


RECORDS = [{"a": 1, "b": "x"}, {"a": 2.5}, {"a": None, "b": "y"}]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RECORDS),
        "\n".join(json.dumps(record) for record in RECORDS),
        json.dumps({"a": [1, 2.5, None], "b": ["x", None, "y"]}),
        json.dumps({"data": RECORDS, "total": 3}),
    ],
)
def test_json_records_lines_and_columns_give_the_same_table(text: str) -> None:
    table = load(text, "t.json")
    assert table.kinds["a"] == "number"
    assert table.frame["a"].dropna().tolist() == [1.0, 2.5]
    assert table.frame["b"].dropna().tolist() == ["x", "y"]


def test_nested_json_is_flattened_and_lists_become_text() -> None:
    table = load(json.dumps([{"p": {"x": 1}, "l": [1, 2]}, {"p": {"x": 2}, "l": []}]), "t.json")
    assert set(table.frame.columns) == {"p.x", "l"}
    assert table.frame["l"].iloc[0] == "[1, 2]"


@pytest.mark.parametrize(
    ("text", "reason", "word"),
    [
        ("[1, 2", "JSON_MALFORMED", "line 1"),
        ('{"a": 1}\n{"a": \n', "JSON_MALFORMED", "line 2"),
        ("[]", "JSON_EMPTY", "records"),
        ("[1, 2]", "JSON_NOT_RECORDS", "item 1"),
        ("3", "JSON_NOT_RECORDS", "list of objects"),
        ("[" * 100_000, "JSON_MALFORMED", "deeply"),
    ],
)
def test_bad_json_is_refused_with_a_reason(text: str, reason: str, word: str) -> None:
    found, message = refusal(text, "t.json")
    assert found == reason
    assert word in message


def test_json_over_a_bound_is_refused() -> None:
    assert refusal(json.dumps(RECORDS), "t.json", max_rows=2)[0] == "JSON_TOO_LARGE"


def test_spreadsheet_is_refused_with_what_to_do() -> None:
    reason, message = refusal(b"PK\x03\x04rest", "t.xlsx")
    assert reason == "FILE_TYPE_UNSUPPORTED"
    assert "CSV" in message


def test_task_without_a_file_is_refused() -> None:
    with pytest.raises(Rejected) as caught:
        choose([], "")
    assert caught.value.reason == "INPUT_MISSING"


def test_file_is_chosen_by_name() -> None:
    files = [InputFile(name=name, media_type="", data=b"") for name in ("a.csv", "b.csv")]
    assert choose(files, "").name == "a.csv"
    assert choose(files, "b.csv").name == "b.csv"
    with pytest.raises(Rejected, match=r"a\.csv, b\.csv"):
        choose(files, "c.csv")
