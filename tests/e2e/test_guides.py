"""The pages under docs/guides/ do what they say: each of their blocks is run, and prints what is printed there."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from agentmesh.kit import config
from tests.support.markdown import Block, Terminal, blocks_of, says
from tests.support.needs import missing

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
PROXY = blocks_of(GUIDES / "llm-proxy.md")
SCHEDULES = blocks_of(GUIDES / "schedules.md")
SPENDING = blocks_of(GUIDES / "spending.md")
START = "agentmesh up"
START_SPENDING = "agentmesh serve llm gateway --config mesh.yaml"
START_PROXY = "agentmesh serve llm gateway"


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A folder, and the mesh that the guide starts in it."""
    terminal = Terminal(tmp_path_factory.mktemp("reader"))
    try:
        assert "agentmesh is up" in terminal.start(START)
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize("block", [block for block in SCHEDULES if block.code.strip() != START], ids=str)
def test_a_block_does_what_the_guide_to_schedules_says(block: Block, terminal: Terminal) -> None:
    assert block.output, f"{block} is not said to print anything"
    assert says(terminal.run(block), block.output) == ""


def test_the_guide_begins_with_the_mesh_that_the_test_starts() -> None:
    assert [block.code.strip() for block in SCHEDULES].count(START) == 1


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A folder, and the llm-proxy with its gateway that the guide starts in it."""
    terminal = Terminal(tmp_path_factory.mktemp("reader"))
    try:
        assert "agentmesh is up" in terminal.start(START_PROXY)
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize("block", [block for block in PROXY if block.code.strip() != START_PROXY], ids=str)
def test_a_block_does_what_the_guide_to_the_llm_proxy_says(block: Block, proxy: Terminal, tmp_path: Path) -> None:
    if block.language == "yaml":
        (tmp_path / "development.yaml").write_text(block.code)
        settings = config.load(tmp_path / "development.yaml", environ={})
        assert [provider.name for provider in settings.llm.providers] == ["local", "offline"]
        assert settings.security.authentication
        return
    for package in ("openai", "anthropic"):
        if f"from {package} import" in block.code and find_spec(package) is None:
            missing(f"the package {package}", "it is in the extra `test`")
    assert block.output, f"{block} is not said to print anything"
    assert says(proxy.run(block), block.output) == ""


def test_the_guide_to_the_llm_proxy_begins_with_what_the_test_starts() -> None:
    assert [block.code.strip() for block in PROXY].count(START_PROXY) == 1


@pytest.fixture(scope="module")
def spending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A folder with the guide's configuration, and what the guide starts in it."""
    terminal = Terminal(tmp_path_factory.mktemp("reader"))
    (written,) = [block.code for block in SPENDING if block.language == "yaml"]
    (terminal.folder / "mesh.yaml").write_text(written)
    try:
        assert "agentmesh is up" in terminal.start(START_SPENDING)
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize("block", [block for block in SPENDING if block.output], ids=str)
def test_a_block_does_what_the_guide_to_spending_says(block: Block, spending: Terminal) -> None:
    assert says(spending.run(block), block.output) == ""


def test_the_guide_to_spending_says_what_comes_of_each_command_but_the_one_that_starts_it() -> None:
    silent = [block.code.strip() for block in SPENDING if not block.output and block.language != "yaml"]
    assert silent == [START_SPENDING]
