import os
import threading

import pytest

from agentmesh.kit.auth import Authenticator, Keyring
from agentmesh.kit.rpc_client import open_channel
from agentmesh.kit.rpc_server import build_server


def policies() -> set[int]:
    """Return how the threads that wait for gRPC are scheduled."""
    pollers = [thread.native_id for thread in threading.enumerate() if "_poll_wrapper" in thread.name]
    return {os.sched_getscheduler(native_id) for native_id in pollers if native_id is not None}


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this system has no SCHED_BATCH")
async def test_grpcs_thread_waits_its_turn_in_servers_and_in_clients() -> None:
    server = build_server(Authenticator(Keyring("a secret"), anonymous=True), [])
    assert policies() == {os.SCHED_BATCH}
    async with open_channel("127.0.0.1:1"):
        assert policies() == {os.SCHED_BATCH}
    await server.stop(0)
    assert os.sched_getscheduler(threading.get_native_id()) == os.SCHED_OTHER
