"""The ports of a demo."""

import socket
from contextlib import ExitStack

import pytest

from agentmesh.cli import demo_mesh
from agentmesh.cli.demo_mesh import free_ports
from agentmesh.kit.errors import Unavailable


def test_demos_at_once_get_ports_of_their_own() -> None:
    with ExitStack() as demos:
        firsts = [demos.enter_context(free_ports(14)) for _ in range(50)]
        taken = [port for first in firsts for port in range(first, first + 14)]
        assert len(set(taken)) == len(taken)


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with free_ports(4) as first:
        pass
    monkeypatch.setattr(demo_mesh, "_FIRST_PORT", first - 1)
    monkeypatch.setattr(demo_mesh, "_LAST_PORT", first + 4)
    with free_ports(4) as again:
        assert again == first
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", first + 3))
        with pytest.raises(Unavailable, match="no 4 free ports"), free_ports(4):
            pass
