"""The ports of a demo."""

import socket
from contextlib import ExitStack

import pytest

from agentmesh.cli import demo_mesh
from agentmesh.cli.demo_mesh import PORTS, free_ports
from agentmesh.kit.errors import Unavailable


def test_demos_at_once_get_ports_of_their_own() -> None:
    with ExitStack() as demos:
        firsts = [demos.enter_context(free_ports()) for _ in range(50)]
        taken = [port for first in firsts for port in range(first, first + PORTS)]
        assert len(set(taken)) == len(taken)


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with free_ports() as first:
        pass
    monkeypatch.setattr(demo_mesh, "_FIRST_PORT", first - 1)
    monkeypatch.setattr(demo_mesh, "_LAST_PORT", first + PORTS - 1)
    with free_ports() as again:
        assert again == first
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", first + PORTS - 1))
        with pytest.raises(Unavailable, match=f"no {PORTS} free ports"), free_ports():
            pass
