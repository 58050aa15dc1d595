"""docs/deploy/local.md: who follows it has a mesh, and editors that are set up as it says."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator

import pytest

from agentmesh.kit import config
from agentmesh.kit.settings import Settings
from tests.deploy import page_names
from tests.deploy.monitoring import ROOT
from tests.support.markdown import Block, Terminal, blocks_of, says

PAGE = ROOT / "docs" / "deploy" / "local.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = blocks_of(PAGE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
START = "agentmesh up"
INSTALL = [block for block in BLOCKS if block.code.startswith("git clone")]


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A folder with what a checkout has at its top, and the mesh in it."""
    terminal = Terminal(tmp_path_factory.mktemp("checkout"))
    (terminal.folder / ".env.example").write_text((ROOT / ".env.example").read_text())
    try:
        assert "agentmesh is up" in terminal.start(START)
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b not in INSTALL and b.code.strip() != START], ids=str)
def test_a_block_does_what_the_page_says(block: Block, terminal: Terminal) -> None:
    assert block.output, f"{block} is not said to print anything"
    assert says(terminal.run(block), block.output) == ""


@pytest.mark.parametrize("block", INSTALL, ids=["pip", "uv"])
def test_what_is_installed_is_what_the_project_offers(block: Block) -> None:
    read = subprocess.run(["bash", "-n", "-c", block.code], capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")
    if "pip install" in block.code:
        (extra,) = re.findall(r"pip install -e '\.\[(\w+)\]'", block.code)
        assert extra in PROJECT["project"]["optional-dependencies"]
    else:
        assert "uv sync\n" in block.code
        assert PROJECT["dependency-groups"]["dev"] == ["agentmesh[all]"]


def test_the_mesh_of_the_page_runs_with_the_development_files_keys() -> None:
    rows = re.findall(r"^\| (`[a-z_.`, ]+`) \| ([^|]+) \|", TEXT.partition("## Tests")[0], re.MULTILINE)
    settings = config.load(ROOT / "configs" / "environments" / "development.yaml", environ={})
    shown = dict(pair for keys, values in rows for pair in _pairs(keys, values))
    assert len(shown) == 15
    assert {key: _word(settings, key) for key in shown} == shown


def _pairs(keys: str, values: str) -> list[tuple[str, str]]:
    names = keys.replace("`", "").split(", ")
    told = values.replace("`", "").split(", ")
    return list(zip(names, told * len(names) if len(told) == 1 else told, strict=False))


def _word(settings: Settings, key: str) -> str:
    value: object = settings
    for part in key.split("."):
        value = getattr(value, part)
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_editors_are_set_up_as_the_page_says() -> None:
    settings, launch, extensions = (
        json.loads((ROOT / ".vscode" / f"{name}.json").read_text()) for name in ("settings", "launch", "extensions")
    )
    sources = PROJECT["tool"]["hatch"]["build"]["dev-mode-dirs"]
    assert settings["python.analysis.extraPaths"] == sources
    assert all(f"`{folder}`" in TEXT for folder in sources)
    assert settings["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    assert settings["python.testing.pytestArgs"] == ["tests"]
    assert settings["[python]"]["editor.defaultFormatter"] in extensions["recommendations"]
    assert settings["[python]"]["editor.rulers"] == [PROJECT["tool"]["ruff"]["line-length"]]
    named = set(re.findall(r"`((?:up|serve|dev|pytest): [^`]+)`", TEXT))
    assert named == {one["name"] for one in launch["configurations"]}
    assert len(re.findall(r"^\d\. ", TEXT.partition("## PyCharm")[2], re.MULTILINE)) == 6


def test_what_the_page_names_is_there() -> None:
    assert page_names.broken_links(PAGE) == []
    assert page_names.unknown_settings(TEXT) == []
    assert page_names.unknown_names(TEXT) == []
    assert page_names.unknown_variables(TEXT) == []
