"""The pages under docs/ do what they say: each of their blocks is run, and prints what is printed there."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.markdown import Block, Terminal, blocks_of, says

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = blocks_of(ROOT / "docs" / "quickstart.md")

START = "agentmesh dev counter.py"
# First lines of the blocks that run as they are.
RUN = {
    "agentmesh agents counter",
    "agentmesh run counter number --param to=2",
    "TASK=$(agentmesh run counter number --param to=4 --detach)",
    "cat > prices.csv <<'END'",
    "TASK=$(agentmesh run counter number --param to=1000 --param pause_s=0.1 --detach)",
    "from agentmesh.client import Client",
    'agentmesh run counter number --param to=0 || echo "exit code: $?"',
}


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A folder with counter.py, and the mesh that the quickstart starts around it."""
    terminal = Terminal(tmp_path_factory.mktemp("reader"))
    (agent,) = [block for block in BLOCKS if block.code.startswith("# counter.py")]
    (start,) = [block for block in BLOCKS if block.code.strip() == START]
    (terminal.folder / "counter.py").write_text(agent.code)
    try:
        assert says(terminal.start(START), start.output) == ""
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_does_what_the_quickstart_says(block: Block, terminal: Terminal) -> None:
    code = block.code.strip()
    if code == "make install":
        steps = subprocess.run(["make", "-n", "install"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert steps.returncode == 0, steps.stderr
    elif code != START and not code.startswith("# counter.py"):
        assert code.splitlines()[0] in RUN, f"no test knows what {block} should do"
        assert block.output, f"{block} is not said to print anything"
        assert says(terminal.run(block), block.output) == ""


def test_what_is_promised_but_not_printed_is_found() -> None:
    printed = "step one done in 5 ms\nsaved in 01a20ab3-165d-7461-bd00-a6f9f6c326a2\nend"
    assert says(printed, "step one done in 71 ms\n…\nend\n") == ""
    assert says(printed, "saved in 01a20ab5-d1e8-7778-8000-2cc6f9cfce7a\n") == ""
    assert says(printed, "step two done in 5 ms\n") == "step two done in 5 ms"
    assert says(printed, "end\nstep one done in 5 ms\n") == "step one done in 5 ms"
