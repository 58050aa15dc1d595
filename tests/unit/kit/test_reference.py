"""docs/reference/configuration.md and configs/schema.json say what the settings are, and are what editors can use."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from agentmesh.kit import config
from agentmesh.kit.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
WRITER = ROOT / "docs" / "reference" / "write.py"
PAGE = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
SCHEMA = json.loads((ROOT / "configs" / "schema.json").read_text(encoding="utf-8"))
ENVIRONMENTS = sorted((ROOT / "configs" / "environments").glob("*.yaml"))


def checked(*command: str, **environment: str) -> str:
    """Run Python in the checkout and return what it prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_reference_and_the_schema_are_current() -> None:
    checked(str(WRITER), "--check")


def test_what_is_out_of_date_is_named_and_fails(tmp_path: Path) -> None:
    written = tmp_path / "docs" / "reference"
    written.mkdir(parents=True)
    for name in ("write.py", "beginning.md"):
        (written / name).write_text((WRITER.parent / name).read_text(encoding="utf-8"), encoding="utf-8")
    (written / "configuration.md").write_text(PAGE.replace("| `pool_size` |", "| `pools` |"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(written / "write.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "configuration.md is out of date" in done.stderr
    assert "schema.json is out of date" in done.stderr


@pytest.mark.parametrize("seed", ["0", "7"])
def test_the_schema_for_editors_is_what_the_command_prints_on_any_machine(seed: str) -> None:
    printed = checked("-m", "agentmesh", "config", "schema", PYTHONHASHSEED=seed)
    assert json.loads(printed) == SCHEMA


def test_the_schema_holds_nothing_of_the_machine_that_wrote_it() -> None:
    defaults = [field.get("default") for field in _fields()]
    assert not any(isinstance(default, dict) for default in defaults)
    runner = SCHEMA["$defs"]["Runner"]["properties"]
    assert "default" not in runner["name"]
    assert "default" not in runner["hosts"]


@pytest.mark.parametrize("file", ENVIRONMENTS, ids=lambda file: file.name)
def test_editors_find_the_schema_of_each_environment_and_nothing_wrong(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named, "the first line names no schema"
    assert (file.parent / named[1]).resolve() == ROOT / "configs" / "schema.json"
    jsonschema.validate(yaml.safe_load(text), SCHEMA)
    wrong = yaml.safe_load(text.replace("backend:", "backends:"))
    with pytest.raises(jsonschema.ValidationError, match="backends"):
        jsonschema.validate(wrong, SCHEMA)


def test_editors_of_this_checkout_know_the_schema() -> None:
    known = json.loads((ROOT / ".vscode" / "settings.json").read_text(encoding="utf-8"))["yaml.schemas"]
    ((schema, files),) = known.items()
    assert (ROOT / schema).resolve() == ROOT / "configs" / "schema.json"
    assert "configs/environments/*.yaml" in files


def test_every_key_says_what_it_does() -> None:
    for name, definition in SCHEMA["$defs"].items():
        keys = definition["properties"].items()
        silent = [key for key, field in keys if "$ref" not in field and not field.get("description")]
        assert silent == [], name


def test_every_key_of_the_settings_has_a_row_below_its_section() -> None:
    sections = dict(_tables())
    missing = [
        path
        for path in _paths(Settings.model_json_schema())
        if f"\n| `{path.rpartition('.')[2]}` |"
        not in sections.get(path.rpartition(".")[0] or "Beside the sections", "")
    ]
    assert missing == []
    assert len(list(_paths(Settings.model_json_schema()))) > 150


# Names in quotes that are variables, and one that processes of the mesh set for each other.
_IN_CODE = re.compile(r"\"((?:AGENTMESH|OPENAI|ANTHROPIC)_[A-Z_]*[A-Z]|(?:DATABASE|REDIS)_URL)\"")
_AMONG_THEMSELVES = {"AGENTMESH_LIFELINE"}


def test_every_variable_that_the_code_reads_is_in_the_table_and_no_other() -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "libs" / "agentmesh").rglob("*.py"))
    read = set(_IN_CODE.findall(code)) - _AMONG_THEMSELVES
    table = PAGE.partition("| variable |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", table)) - {"OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert named == read
    assert "`ENVIRONMENT`" in table


def test_each_variable_of_the_table_that_is_a_key_sets_it(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("environment: development\ndevelopment:\n")
    given = {"DATABASE_URL": "postgresql://here/a", "REDIS_URL": "redis://here", "OPENAI_API_KEY": "key"}
    settings = config.load(tmp_path / "empty.yaml", environ=given)
    assert settings.database.url
    assert settings.cache.url
    assert settings.llm.providers[0].name == "openai"
    files = {}
    for name, value in given.items():
        (tmp_path / name).write_text(value)
        files[f"{name}_FILE"] = str(tmp_path / name)
    assert config.load(tmp_path / "empty.yaml", environ=files) == settings


def test_the_beginning_of_the_page_is_written_by_hand() -> None:
    written = runpy.run_path(str(WRITER))
    assert PAGE.startswith((WRITER.parent / "beginning.md").read_text(encoding="utf-8"))
    assert written["page"]() == PAGE


def _fields() -> Iterator[dict[str, Any]]:
    for definition in SCHEMA["$defs"].values():
        yield from definition["properties"].values()


def _tables() -> Iterator[tuple[str, str]]:
    for part in PAGE.split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        yield title, text


def _paths(schema: dict[str, Any], path: str = "", definitions: dict[str, Any] | None = None) -> Iterator[str]:
    """Yield the dotted path of each key that is no section, [] for each entry of a list."""
    definitions = definitions or schema["$defs"]
    for key, field in schema["properties"].items():
        here = f"{path}.{key}".removeprefix(".")
        if here == "environment":
            continue
        if "$ref" in field:
            yield from _paths(definitions[field["$ref"].rpartition("/")[2]], here, definitions)
            continue
        yield here
        if "$ref" in field.get("items", {}):
            yield from _paths(definitions[field["items"]["$ref"].rpartition("/")[2]], here + "[]", definitions)
