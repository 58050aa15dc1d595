"""Documentation as tests see it: the code blocks of a page, run against a mesh, and what they are said to print."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from agentmesh.kit import names
from tests.support.ports import free_ports

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_METRICS_PORT = re.compile(r"\b909([0-4])\b")
_RUN_TIMEOUT_S = 50.0
# What differs from run to run, and from machine to machine.
_VARYING = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+Z)?"), "TIME"),
    (re.compile(r"\d+(\.\d+)? (ms|s|KiB|B)\b"), "SIZE"),
    (re.compile(r"\d+ tokens in, \d+ out"), "TOKENS"),
    (re.compile(r"on \S+:\d+ \("), "on RUNNER ("),
    (re.compile(r"\b(pid|after sequence) \d+"), r"\1 N"),
    (re.compile(r"\d+( of its)? events"), "N events"),
    (re.compile(r"\b(router|runner)-2\b"), r"\1"),
)


@dataclass(frozen=True)
class Block:
    """A fenced code block; `output` is the text block that follows it, if one does before the next code."""

    language: str
    code: str
    line: int
    output: str = ""

    def __str__(self) -> str:
        return f"line {self.line}: {self.code.splitlines()[0]}"


def blocks_of(page: Path) -> list[Block]:
    """Return a page's code blocks in order; those of language text are outputs of the block before."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in _FENCE.finditer(text):
        language, code, line = match[1], match[2], text.count("\n", 0, match.start()) + 1
        if language == "text" and found and not found[-1].output:
            before = found.pop()
            found.append(Block(before.language, before.code, before.line, code))
        else:
            found.append(Block(language, code, line))
    return found


def says(printed: str, promised: str) -> str:
    """Return the first promised line that was not printed, in order; empty if all were.

    Times, sizes, ids and addresses may differ. A line of … stands for anything; other lines need not be neighbours.
    """
    rest = iter([_masked(line) for line in printed.splitlines()])
    for line in promised.splitlines():
        if line.strip() in ("", "…"):
            continue
        if not any(_masked(line) == other for other in rest):
            return line
    return ""


def _masked(line: str) -> str:
    for pattern, word in _VARYING:
        line = pattern.sub(word, line)
    return line.rstrip()


class Terminal:
    """A folder and a mesh of its own, in which the commands of a page are run as a reader would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._first_port = free_ports()
        self._mesh: subprocess.Popen[str] | None = None
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AGENTMESH_", "OPENAI_", "ANTHROPIC_"))},
            "PYTHONUNBUFFERED": "1",
            "AGENTMESH_ADDRESS": f"127.0.0.1:{self._first_port}",
            **{
                f"AGENTMESH_SERVICES__{role.upper()}__{kind}": str(self._first_port + number)
                for number, (kind, role) in enumerate(product(("PORT", "METRICS_PORT"), names.ROLES))
            },
            "AGENTMESH_LOGGING__CONSOLE": "false",
            "AGENTMESH_DRAIN_TIMEOUT_S": "5",
        }
        self.add_to_path(Path(sys.executable).parent)

    def add_to_path(self, folder: Path) -> None:
        """Let commands in a folder be found before all others."""
        self._environment["PATH"] = f"{folder}{os.pathsep}{self._environment['PATH']}"

    @property
    def first_port(self) -> int:
        """Return the router's port; the other services have the next four, their metrics the five after."""
        return self._first_port

    def start(self, command: str) -> str:
        """Start the mesh by a command such as `agentmesh up`, and return what it says when it is up."""
        self._mesh = subprocess.Popen(
            [*self._here(command).split(), "--ports-from", str(self._first_port)],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._mesh.stdout is not None
        said = ""
        for line in self._mesh.stdout:
            said += line
            if line.startswith("Stop with"):
                return said
        raise AssertionError(f"{command} ended with {self._mesh.wait(5)}: {said}")

    def run(self, block: Block) -> str:
        """Run a block of sh or python and return what a terminal would show; fails if the block does."""
        code = self._here(block.code)
        command = (
            [sys.executable, "-c", code] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", code]
        )
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_RUN_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{block} exited with {done.returncode}: {done.stdout}"
        return done.stdout

    def close(self) -> None:
        """Stop the mesh."""
        if self._mesh is not None and self._mesh.stdout is not None:
            self._mesh.send_signal(signal.SIGTERM)
            self._mesh.wait(20)
            self._mesh.stdout.close()

    def _here(self, code: str) -> str:
        code = code.replace(".venv/bin/", "").replace("localhost:8000", f"127.0.0.1:{self._first_port + 4}")
        code = code.replace("127.0.0.1:50051", f"127.0.0.1:{self._first_port}")
        return _METRICS_PORT.sub(lambda match: str(self._first_port + 5 + int(match[1])), code)
