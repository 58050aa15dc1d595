"""The pages under docs/ do what they say: each of their blocks is run, and prints what is printed there."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from pydantic import BaseModel

from agentmesh.kit.settings import Settings
from tests.support.markdown import Block, Terminal, blocks_of, says
from tests.support.ports import free_ports
from tests.support.postgres import Postgres
from tests.support.redis import RedisServer

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = blocks_of(ROOT / "docs" / "quickstart.md")
PRODUCTION = blocks_of(ROOT / "docs" / "guides" / "production.md")
PAGES = [ROOT / "docs" / "protocol.md", ROOT / "docs" / "guides" / "production.md"]

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


class ProductionReader:
    """Runs the blocks of the guide to production with real servers, and with ports that nobody else has."""

    def __init__(self, folder: Path, postgres: Postgres, redis: RedisServer) -> None:
        self.terminal = Terminal(folder)
        first = free_ports(20)
        named = sorted({port for block in PRODUCTION for port in _PORT.findall(block.code)})
        assert len(named) <= 20
        self._ports = {port: str(first + index) for index, port in enumerate(named)}
        self._urls = {
            "postgresql://mesh:secret@127.0.0.1:5432/mesh": postgres.new_database(),
            "redis://127.0.0.1:6379/0": redis.url(),
        }

    def run(self, block: Block) -> str:
        """Run a block and return what it printed."""
        code = block.code if block.language == "python" else f"{_PORTS_OF_A_READER}\n{block.code}"
        for shown, real in self._urls.items():
            code = code.replace(shown, real)
        code = _PORT.sub(lambda match: self._ports[match[0]], code)
        return self.terminal.run(replace(block, code=code.replace("localhost", "127.0.0.1")))

    def close(self) -> None:
        """End whatever the page started."""
        for file in self.terminal.folder.glob("run/*.pid"):
            try:
                process = psutil.Process(int(file.read_text()))
                process.kill()
                process.wait(5)
            except psutil.NoSuchProcess:
                continue
        self.terminal.close()


# What a reader has who sets nothing; Terminal's would have others.
_PORTS_OF_A_READER = "export " + " ".join(
    f"AGENTMESH_SERVICES__{role.upper()}__PORT={port}"
    for role, port in (("router", 50051), ("runner", 50052), ("llm", 50053), ("storage", 50054), ("gateway", 8000))
)
_PORT = re.compile(r"\b(?:50\d{3}|80\d0|9[01]\d\d)\b")


@pytest.fixture(scope="module")
def production(
    tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, redis_server: RedisServer
) -> Iterator[ProductionReader]:
    """A folder in which the guide to production is followed from its first block on."""
    reader = ProductionReader(tmp_path_factory.mktemp("production"), postgres, redis_server)
    try:
        yield reader
    finally:
        reader.close()


@pytest.mark.parametrize("block", PRODUCTION, ids=str)
def test_a_block_does_what_the_guide_to_production_says(block: Block, production: ProductionReader) -> None:
    assert says(production.run(block), block.output) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_is_there(page: Path) -> None:
    sections = {name for name, field in Settings.model_fields.items() if _is_section(field.annotation)}
    named = re.findall(r"`([a-z_]+)\.([a-z_]+)`", page.read_text(encoding="utf-8"))
    settings = [(section, key) for section, key in named if section in sections]
    assert len(settings) > 5
    assert [one for one in settings if one[1] not in Settings.model_fields[one[0]].annotation.model_fields] == []  # type: ignore[union-attr]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_that_are_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert targets
    assert [target for target in targets if not (page.parent / target).exists()] == []


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def test_what_is_promised_but_not_printed_is_found() -> None:
    printed = "step one done in 5 ms\nsaved in 01a20ab3-165d-7461-bd00-a6f9f6c326a2\nend"
    assert says(printed, "step one done in 71 ms\n…\nend\n") == ""
    assert says(printed, "saved in 01a20ab5-d1e8-7778-8000-2cc6f9cfce7a\n") == ""
    assert says(printed, "step two done in 5 ms\n") == "step two done in 5 ms"
    assert says(printed, "end\nstep one done in 5 ms\n") == "step one done in 5 ms"
