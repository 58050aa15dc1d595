"""Writes configuration.md and configs/schema.json from the settings; with --check, says whether both are current."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentmesh.kit import config

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "configuration.md"
SCHEMA = ROOT / "configs" / "schema.json"
BEGINNING = Path(__file__).with_name("beginning.md")

Json = dict[str, Any]

# No key but durations goes as far as this.
A_YEAR_S = 31_536_000
# Texts that follow a rule of their own, by the pattern that the schema has for them.
_PATTERNS = {
    "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$": "name",
    "^[0-9a-f]{64}$": "64 hexadecimal digits",
}


def schema() -> str:
    """Return the JSON Schema of a configuration file as it stands in configs/schema.json."""
    return json.dumps(config.json_schema(), indent=2, ensure_ascii=False) + "\n"


def page() -> str:
    """Return the page: what is written by hand, then a table for each section."""
    definitions = config.json_schema()["$defs"]
    parts = [BEGINNING.read_text(encoding="utf-8").rstrip()]
    for path, about, section in _sections("", "", definitions["Settings"], definitions):
        rows = [_row(key, field, section) for key, field in _keys(section)]
        lines = ["| key | type | default | what |", "|---|---|---|---|", *rows]
        parts.append("\n".join([f"## {path or 'Beside the sections'}", "", *([about, ""] if path else []), *lines]))
    return "\n\n".join(parts) + "\n"


def _sections(path: str, about: str, section: Json, definitions: Json) -> Iterator[tuple[str, str, Json]]:
    """Yield a section and all below it: the path, with [] for each entry of a list; what it is for; its schema."""
    yield path, about, section
    for key, field in section["properties"].items():
        below = f"{path}.{key}".removeprefix(".")
        if (name := _name(field)) or (name := _name(field.get("items", {}))):
            is_list = "items" in field
            texts = (definitions[name]["description"], "" if is_list else field.get("description", ""))
            told = " ".join(" ".join(texts).split())
            yield from _sections(below + "[]" * is_list, told, definitions[name], definitions)


def _keys(section: Json) -> Iterator[tuple[str, Json]]:
    return ((key, field) for key, field in section["properties"].items() if not _name(field))


def _name(field: Json) -> str:
    return str(field.get("$ref", "")).rpartition("/")[2]


def _row(key: str, field: Json, section: Json) -> str:
    meaning = " ".join(field["description"].split())
    cells = (f"`{key}`", _type(field), _default(key, field, section), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(field: Json) -> str:
    """Say in words which values a key takes."""
    choices = [choice for choice in field.get("anyOf", ()) if choice["type"] != "null"]
    if {choice["type"] for choice in choices} == {"string", "array"}:
        return "list, or text with commas"
    if choices:
        return " or ".join(_type(choice) for choice in choices)
    if values := field.get("enum"):
        return " or ".join(f"`{value}`" for value in values)
    if field["type"] == "array":
        items = field["items"]
        return "list of sections" if _name(items) else f"list of {_type(items).replace(' or ', ', ')}"
    if field["type"] in ("integer", "number"):
        return "seconds" if field.get("maximum") == A_YEAR_S else field["type"] + _bounds(field)
    if field["type"] == "string":
        if field.get("writeOnly"):
            return "text, secret"
        return _PATTERNS.get(field.get("pattern", ""), "path" if field.get("format") == "path" else "text")
    return str(field["type"])


def _bounds(field: Json) -> str:
    above, least, most = field.get("exclusiveMinimum"), field.get("minimum"), field.get("maximum")
    if above is not None:
        return f", more than {above:,}, at most {most:,}"
    if least is None:
        return ""
    return f", {least:,} to {most:,}" if most is not None else f", {least:,} or more"


def _default(key: str, field: Json, section: Json) -> str:
    if "default" not in field:
        return "needed" if key in section.get("required", ()) else "see there"
    default = field["default"]
    if default is None or default == []:
        return "none"
    if isinstance(default, list):
        return ", ".join(f"`{value}`" for value in default)
    return f"`{json.dumps(default)}`" if not isinstance(default, str) else f"`{default}`"


def main() -> int:
    """Write both files, or with --check name those that are out of date; return the exit code."""
    stale = [
        file
        for file, text in ((PAGE, page()), (SCHEMA, schema()))
        if not file.exists() or file.read_text(encoding="utf-8") != text
    ]
    for file in stale:
        if "--check" in sys.argv[1:]:
            print(f"{file.relative_to(ROOT)} is out of date: run make reference", file=sys.stderr)
        else:
            file.write_text(page() if file == PAGE else schema(), encoding="utf-8")
            print(f"wrote {file.relative_to(ROOT)}")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
