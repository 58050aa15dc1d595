"""Keeps gRPC's own thread from interrupting the event loop at every event; docs/adr/0006 has what that costs."""

import os
import threading
from contextlib import suppress
from typing import Final

# As grpc.aio calls it, in grpcio 1.85; where it has another name nothing happens, and a test says so.
_POLLER: Final = "_poll_wrapper"


def calm_poller() -> None:
    """Schedule the thread that reads and writes for grpc.aio as SCHED_BATCH: it never preempts who runs.

    An event wakes it. Otherwise it takes the core from the loop to hand over that event, some eight times a call; so it
    runs when the loop waits, or on another core, and hands over all that has come. Call it once there is a server or a
    channel, as often as you like. On systems without that kind of scheduling it does nothing.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    for thread in threading.enumerate():
        if _POLLER in thread.name and thread.native_id is not None:
            with suppress(OSError):
                os.sched_setscheduler(thread.native_id, os.SCHED_BATCH, os.sched_param(0))
