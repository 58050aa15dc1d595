"""Free ports for meshes that tests start."""

import os
import random
import socket

_RUN = 10
# A range for each worker of a parallel run, below the ports that the system hands out by itself.
_FIRST = 20_000


def free_ports() -> int:
    """Return N such that N to N+9 are free now."""
    worker = int("".join(filter(str.isdigit, os.environ.get("PYTEST_XDIST_WORKER", "0"))) or 0)
    choices = range(_FIRST + worker * 1000, _FIRST + worker * 1000 + 1000 - _RUN, _RUN)
    for first in random.sample(choices, len(choices)):
        if all(_is_free(port) for port in range(first, first + _RUN)):
            return first
    raise RuntimeError("no ten free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
