"""`make tools`: programs from PATH, else from Debian packages without root, else a line that says what to do."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.deploy_tools import tool
from tests.tools.apt import Apt, NotHad
from tests.tools.fetch import tools

_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "words"),
    [("promtool", "--version"), ("prometheus", "--version"), ("amtool", "--version"), ("nginx", "-v")],
)
def test_a_tool_that_a_test_asks_for_runs(name: str, words: str) -> None:
    done = subprocess.run([tool(name), words], capture_output=True, text=True, timeout=20, check=True)
    assert f"{name}" in done.stdout + done.stderr


def test_what_is_there_is_named_with_its_version_and_asked_for_nowhere(tmp_path: Path) -> None:
    path = tool("promtool")
    done = _run("promtool", "--json", PATH=os.defpath)
    had = json.loads(done.stdout)["promtool"]
    assert had["version"].startswith("promtool, version ")
    assert had["path"] == str(path) or had["source"] == "this machine"
    assert done.stderr == ""


def test_a_program_on_path_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "bin" / "promtool"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\necho promtool, version 99\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(own.parent), prepend=os.pathsep)
    had = tools(("promtool",), home=tmp_path / "home")["promtool"]
    assert (had.path, had.version, had.source) == (str(own), "promtool, version 99", "this machine")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_machine_without_apt_is_told_what_to_do(tmp_path: Path, ci: str, code: int) -> None:
    done = _run("promtool", "amtool", "--into", str(tmp_path), PATH=str(tmp_path), CI=ci)
    assert done.returncode == code
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["promtool", "amtool"]
    assert "missing: this is no Debian or Ubuntu: it has no apt-get; install prometheus" in lines[0]


def test_an_unknown_tool_is_refused_with_the_known_ones() -> None:
    done = _run("hammer")
    assert done.returncode == 2
    assert "there is no tool hammer; there are promtool" in done.stderr


def test_apt_keeps_all_it_writes_in_its_own_folder(tmp_path: Path) -> None:
    apt = _apt(tmp_path)
    apt.prepare()
    dump = subprocess.run(
        ["apt-config", "-c", tmp_path / "apt.conf", "dump"], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    said = dict(line.rstrip(";").split(" ", 1) for line in dump.splitlines() if line.startswith("Dir::"))
    for folder in ("Dir::State", "Dir::Cache", "Dir::Log", "Dir::State::extended_states"):
        assert said[folder].strip('"').startswith(str(tmp_path))
    for inside in ("Dir::State::lists", "Dir::Cache::archives"):
        assert not said[inside].strip('"').startswith("/")


class _CountingApt(Apt):
    """Stands in for the network: unpacks a script, slowly, and counts."""

    calls = 0

    def __init__(self) -> None:
        pass

    def prepare(self) -> None:
        pass

    def fetch(self, package: str, extras: tuple[str, ...], into: Path) -> str:
        _CountingApt.calls += 1
        binary = into / "usr/bin/promtool"
        binary.parent.mkdir(parents=True)
        binary.write_text("#!/bin/sh\necho promtool, version 2\n")
        binary.chmod(0o755)
        return "2-1"


def test_callers_at_once_fetch_a_tool_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_CountingApt, "calls", 0)
    monkeypatch.setenv("PATH", str(tmp_path))

    def ask(_: int) -> str:
        return tools(("promtool",), home=tmp_path, make_apt=lambda *_: _CountingApt())["promtool"].source

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {"prometheus 2-1"}
    assert _CountingApt.calls == 1


def test_a_refusal_is_believed_by_tests_and_asked_again_by_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    asked: list[Path] = []

    def refuse(home: Path, _: object) -> Apt:
        asked.append(home)
        raise NotHad("the network is down")

    for believe in (True, True, False):
        had = tools(("promtool",), home=tmp_path, make_apt=refuse, believe=believe)["promtool"]
        assert had.why.startswith("the network is down; install prometheus")
    assert len(asked) == 2


def _apt(home: Path) -> Apt:
    try:
        return Apt(home, lambda _: None)
    except NotHad as why:
        pytest.skip(str(why))


def _run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.tools", *words],
        cwd=_ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
