"""The README does what it says: each of its blocks is run, and prints what is printed there."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentmesh.kit import config
from tests.support.go_tools import go_tool
from tests.support.markdown import Block, Terminal, blocks_of, says

ROOT = Path(__file__).resolve().parents[2]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
BLOCKS = blocks_of(README)
# The first use of grpcurl builds it.
pytestmark = pytest.mark.timeout(300)

MAKE = {"make demo": "agentmesh demo", "make test": "-m pytest"}
START = ".venv/bin/agentmesh dev hello.py"
# Blocks that run as they are, by a part of their code, and something that they must print besides what is shown.
RUN = {
    "agentmesh demo --kill": "verdict: lost 0, doubled 0, gaps 0, reordered 0",
    "agentmesh run hello": "Hello Ada!",
    "from agentmesh.client import Client\n": "COMPLETED",
    "from agentmesh.client import AsyncClient\n": "one task: True",
    "grpcurl ": '"text": "Hello Ada!"',
    "curl -sN": '"state":"TASK_STATE_COMPLETED"',
    "from openai import": "Offline model: Rivers carry water.",
}


def links_of(page: Path) -> list[str]:
    """Return where a page's links within the repository lead, in order."""
    return re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A folder with hello.py, and the mesh that the README starts around it."""
    terminal = Terminal(tmp_path_factory.mktemp("reader"))
    (agent,) = [block for block in BLOCKS if block.code.startswith("# hello.py")]
    (terminal.folder / "hello.py").write_text(agent.code)
    try:
        assert "agentmesh is up" in terminal.start(START)
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_does_what_the_readme_says(block: Block, terminal: Terminal, tmp_path: Path) -> None:
    code = block.code.strip()
    if code in MAKE:
        steps = subprocess.run(["make", "-n", *code.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
        assert MAKE[code] in steps.stdout
    elif block.language == "yaml":
        (tmp_path / "models.yaml").write_text(block.code)
        settings = config.load(tmp_path / "models.yaml", environ={"OPENAI_API_KEY": "a-key"})
        assert [provider.name for provider in settings.llm.providers] == ["openai", "local", "offline"]
    elif code != START and not code.startswith("# hello.py") and block.language != "mermaid":
        markers = [marker for marker in RUN if marker in block.code]
        assert len(markers) == 1, f"no test knows what {block} should do"
        if code.startswith("grpcurl"):
            terminal.add_to_path(go_tool("github.com/fullstorydev/grpcurl/cmd/grpcurl", "v1.9.3").parent)
        printed = terminal.run(block)
        assert RUN[markers[0]] in printed
        assert says(printed, block.output) == ""


def test_the_demo_prints_what_the_readme_shows(terminal: Terminal) -> None:
    (shown,) = [block.output for block in BLOCKS if block.code.strip() == "make demo"]
    printed = terminal.run(Block("sh", "agentmesh demo", 0))
    assert says(printed, shown) == ""


def test_the_readme_has_every_block_that_is_promised() -> None:
    codes = [block.code.strip() for block in BLOCKS]
    assert [code for code in (*MAKE, START) if code not in codes] == []
    assert [marker for marker in RUN if not any(marker in block.code for block in BLOCKS)] == []


@pytest.mark.parametrize("page", [README, CHINESE], ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    targets = links_of(page)
    assert len(targets) > 5
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_chinese_readme_has_the_same_blocks_which_are_run_once_for_both() -> None:
    english = [(block.language, block.code, block.output) for block in BLOCKS]
    assert [(block.language, block.code, block.output) for block in blocks_of(CHINESE)] == english


def test_the_chinese_readme_has_the_same_parts_tables_and_links() -> None:
    def shape(page: Path) -> list[str]:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        return re.findall(r"^(#+|\|)(?= )", text, re.MULTILINE)

    assert shape(CHINESE) == shape(README)
    assert (links_of(README)[0], links_of(CHINESE)[0]) == (CHINESE.name, README.name)
    assert set(links_of(CHINESE)[1:]) == set(links_of(README)[1:])
