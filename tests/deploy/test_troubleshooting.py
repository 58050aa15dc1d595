"""docs/troubleshooting.md: what it says that one sees is seen, and what it says to type is typed."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentmesh.kit import config, names
from tests.deploy import page_names
from tests.deploy.monitoring import ROOT
from tests.support.markdown import Block, Terminal, blocks_of, says
from tests.support.ports import free_ports

PAGE = ROOT / "docs" / "troubleshooting.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = blocks_of(PAGE)
SHELL = [block for block in BLOCKS if block.language == "sh"]
SEEN = [block for block in BLOCKS if block.language == "log"]
# First words of blocks that need what a test has not: a server outside, PostgreSQL's client.
ELSEWHERE = ("openssl s_client", "curl -sS https://api.openai.com", "psql ")
# Words of gRPC, of other programs, and of the Compose file.
OTHERS = frozenset({"CERTIFICATE_VERIFY_FAILED", "HTTPS_PROXY", "RUNNER_MEMORY"})


class Reader:
    """Somebody in front of a terminal, in a folder where a mesh runs."""

    def __init__(self, folder: Path) -> None:
        self.terminal = Terminal(folder)
        self.first = self.terminal.first_port

    def types(self, command: str, **environment: str) -> str:
        """Return what a command prints, ports as they are unless somebody changes them; it may fail."""
        variables = "".join(f"{name}='{value}' " for name, value in environment.items())
        block = Block("sh", f"env {variables}timeout 40 {command} || true", 0)
        return self.as_on_the_page(self.terminal.run(block))

    def as_on_the_page(self, printed: str) -> str:
        """Write the ports that a mesh has unless it is told otherwise."""
        for number, port in enumerate((50051, 50052, 50053, 50054, 8000)):
            printed = printed.replace(str(self.first + number), str(port))
        return printed


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The folder of the page's reader, and the mesh in it."""
    reader = Reader(tmp_path_factory.mktemp("reader"))
    try:
        assert "agentmesh is up" in reader.terminal.start("agentmesh up")
        yield reader
    finally:
        reader.terminal.close()


def alone(reader: Reader) -> str:
    """Return what `agentmesh health` says of a router that has no storage."""
    first = free_ports()
    ports = {role: f"AGENTMESH_SERVICES__{role.upper()}__PORT={first + n}" for n, role in enumerate(names.ROLES)}
    start = "agentmesh serve router --data-dir alone"
    ask = "{ agentmesh health router --data-dir alone || true; } | grep NOT_SERVING"
    code = f"export AGENTMESH_MONITORING__METRICS=false {' '.join(ports.values())}\n"
    code += f"{start} & trap 'kill %1; wait' EXIT\nfor _ in $(seq 20); do {ask} && exit; done"
    return reader.terminal.run(Block("sh", code, 0))


# What a reader does who sees what the page shows, by the heading.
SCENES: dict[str, Callable[[Reader], str]] = {
    "A port is in use": lambda reader: reader.types(f"agentmesh up --data-dir other --ports-from {reader.first}"),
    "The data folder is in use": lambda reader: reader.types(f"agentmesh up --ports-from {free_ports()}"),
    "The configuration is refused": lambda reader: reader.types(
        "agentmesh config check", AGENTMESH_DATABASE__POOLSIZE="3"
    ),
    "Production refuses SQLite": lambda reader: reader.types(
        "agentmesh config check",
        ENVIRONMENT="production",
        DATABASE_URL="sqlite:///./mesh.db",
        REDIS_URL="redis://127.0.0.1",
    ),
    "It refuses to listen": lambda reader: reader.types(
        f"agentmesh serve router --port {free_ports(1)}", AGENTMESH_SERVICES__ROUTER__HOST="0.0.0.0"
    ),
    "The database is behind or ahead": lambda reader: reader.types(
        f"agentmesh serve storage --data-dir behind --port {free_ports(1)}", AGENTMESH_DATABASE__CREATE_TABLES="false"
    ),
    "A file with a secret can't be read": lambda reader: reader.types(
        "agentmesh config check", DATABASE_URL_FILE="/run/secrets/database_url"
    ),
    "Health says NOT_SERVING": alone,
    "No agent is known yet": lambda reader: reader.types("agentmesh run ekho hello"),
    "The service can't be reached": lambda reader: reader.types(
        f"agentmesh run echo hello --address 127.0.0.1:{free_ports(1)}"
    ),
    "The gateway answers to localhost only": lambda reader: reader.types(
        "curl -s -H 'host: mesh.example.com' localhost:8000/v1/agents"
    ),
}


def _heading_of(block: Block) -> str:
    before = TEXT.splitlines()[: block.line - 1]
    return next(line.removeprefix("### ") for line in reversed(before) if line.startswith("### "))


@pytest.mark.parametrize("block", SEEN, ids=_heading_of)
def test_what_the_page_shows_is_what_one_sees(block: Block, reader: Reader) -> None:
    printed = SCENES[_heading_of(block)](reader)
    if block.code.startswith('"message"'):  # a part of a JSON object
        assert block.code.strip() in printed
    else:
        assert says(printed, block.code) == "", printed


def test_every_scene_is_on_the_page() -> None:
    assert [_heading_of(block) for block in SEEN] == list(SCENES)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_what_the_page_says_to_type_can_be_typed(block: Block, reader: Reader) -> None:
    if block.code.startswith(ELSEWHERE):
        read = subprocess.run(["bash", "-n", "-c", block.code], capture_output=True, text=True, check=False)
        assert (read.returncode, read.stderr) == (0, "")
        return
    assert block.output, f"{block} is not said to print anything"
    printed = reader.terminal.run(block)
    assert says(printed, block.output) == "", printed


def test_models_are_listed_and_answer_as_the_page_asks_them(reader: Reader) -> None:
    (asks,) = [block for block in SHELL if "/v1/chat/completions" in block.code]
    assert "Offline model: Rivers carry water." in reader.terminal.run(asks)


def test_memory_of_every_service_is_told_where_the_machine_tells_it(reader: Reader) -> None:
    (asks,) = [block for block in SHELL if "agentmesh_memory" in block.code]
    printed = reader.terminal.run(asks)
    assert printed.count("agentmesh_memory_limit_bytes") == len(names.ROLES)
    held = [float(line.split()[1]) for line in printed.splitlines() if line.startswith("agentmesh_memory_bytes")]
    assert len(held) == len(names.ROLES)
    if os.path.isdir("/proc/self"):
        assert all(40 * 2**20 < each < 160 * 2**20 for each in held), "the page says about 70 MiB each"


def test_the_provider_of_the_page_has_patience(tmp_path: Path) -> None:
    (written,) = [block.code for block in BLOCKS if block.language == "yaml"]
    (tmp_path / "mesh.yaml").write_text(written)
    provider = config.load(tmp_path / "mesh.yaml", environ={}).llm.providers[0]
    assert (provider.pool.idle_timeout_s, provider.pool.total_timeout_s) == (300, 1800)


def test_reasons_log_events_metrics_settings_and_variables_of_the_page_are_there() -> None:
    assert page_names.unknown_names(TEXT) == []
    assert page_names.unknown_reasons(TEXT, elsewhere=OTHERS) == []
    assert page_names.unknown_settings(TEXT) == []
    assert page_names.unknown_variables(TEXT) == []


def test_links_and_anchors_of_the_page_lead_somewhere() -> None:
    assert page_names.broken_links(PAGE) == []


def test_the_page_begins_with_a_way_to_every_case() -> None:
    cases = re.findall(r"^#{2,3} (.*)$", TEXT, re.MULTILINE)
    beginning = TEXT.partition("\n## ")[0]
    ways = set(re.findall(r"\]\(#([^)]+)\)", beginning))
    assert page_names.anchors(PAGE) - ways == {"troubleshooting"}
    assert len(cases) > 30


def test_the_guides_own_cases_are_there() -> None:
    for words in ("docker stats", "--memory 4g", "connect_timeout_s", "back-off", "pool_recycle", "agentmesh debug"):
        assert words in TEXT
