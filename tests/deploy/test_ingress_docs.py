"""The commands of docs/deploy/ingress.md do what is said, against the real Envoy in front of a live mesh."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.conftest import KEYS, members
from tests.deploy.envoy import Envoy
from tests.support.fleet import Fleet
from tests.support.markdown import Block, blocks_of
from tests.support.needs import missing

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "deploy" / "ingress.md"
# What can't run here: it needs a domain, the images' paths, or a program that no test has.
SHOWN = ("certbot", "envoy --mode validate", "import {")
BLOCKS = [block for block in blocks_of(PAGE) if not block.code.startswith(SHOWN)]


@pytest.fixture(scope="module")
def envoy(fleet: Fleet, tls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    """The shipped Envoy before the mesh."""
    folder = tmp_path_factory.mktemp("envoy")
    with Envoy(folder, tls, routers=fleet.routers, gateways=members(fleet, "gateway")) as started:
        yield started


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_does_what_the_page_says(block: Block, envoy: Envoy, tls: Path, tmp_path: Path) -> None:
    for program in ("bash", "curl", "openssl"):
        if shutil.which(program) is None:
            missing(program, f"install {program}")
    shutil.copytree(ROOT / "gateway" / "envoy", tmp_path / "gateway" / "envoy")
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MESH": envoy.address,
        "KEY": KEYS["acme"],
        "CURL_CA_BUNDLE": str(tls / "ca.crt"),
    }
    code = re.sub(r"(?m)^grpcurl .*$", "", block.code)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.splitlines())
    for promised in block.output.splitlines():
        pattern = ".*".join(map(re.escape, promised.split("…")))
        assert any(re.fullmatch(pattern, line) for line in lines), f"{promised!r} is not in {done.stdout}"


def test_the_protoset_that_grpcurl_is_given_names_the_method_that_is_called() -> None:
    (called,) = re.findall(r"grpcurl .* agentmesh\.api\.task\.v1\.TaskService/(\w+)", PAGE.read_text())
    assert called.encode() in (ROOT / "gateway" / "envoy" / "agentmesh.binpb").read_bytes()


def test_metrics_and_files_that_the_page_names_exist(envoy: Envoy) -> None:
    page = PAGE.read_text()
    shown = envoy.asked("/stats/prometheus")
    named = set(re.findall(r"`(envoy_\w+)`", page))
    assert len(named) > 4
    assert not {name for name in named if name not in shown}
    for file in set(re.findall(r"`(gateway/[\w./-]+)`", page)):
        assert (ROOT / file).exists(), file
