"""The pages under docs/guides/ do what they say: each of their blocks is run, and prints what is printed there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.markdown import Block, Terminal, blocks_of, says

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
SCHEDULES = blocks_of(GUIDES / "schedules.md")
START = "agentmesh up"


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
