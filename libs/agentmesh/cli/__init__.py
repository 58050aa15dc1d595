"""The `agentmesh` command, which is how services start, too."""

import gc
import os
import sys

# Processes are started, never forked: gRPC need not prepare for it, nor say on standard error that it could not.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# gRPC reads this when it is imported. Without it every byte that comes or goes passes through a thread pool, at a fifth
# more CPU for each call; docs/adr/0006 has the figures. Who sets it otherwise keeps what they set.
if sys.platform == "linux":
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
# What a program imports stays: meanwhile there is nothing for the collector to find.
gc.set_threshold(50_000)
