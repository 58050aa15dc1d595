"""gRPC reads its switches when it is imported, so that the command has to set them before."""

import os
import subprocess
import sys

import pytest

_SCRIPT = "import os, sys, agentmesh.cli; print(os.environ['GRPC_EXPERIMENTS'], 'grpc' in sys.modules)"


@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux, and set there only")
@pytest.mark.parametrize(
    ("given", "kept"),
    [(None, "-event_engine_client,-event_engine_listener"), ("", ""), ("event_engine_fork", "event_engine_fork")],
)
def test_the_command_sets_grpcs_switches_first_unless_somebody_did(given: str | None, kept: str) -> None:
    others = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    environment = others if given is None else {**others, "GRPC_EXPERIMENTS": given}
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert run.stdout == f"{kept} False\n"
