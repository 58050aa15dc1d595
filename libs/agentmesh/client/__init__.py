"""The public Python client: `AsyncClient`, `Client`, and what they return.

async with AsyncClient() as client:
    result = await client.run("echo", "hello")
    print(result.text)
"""

from agentmesh.client.asynchronous import AsyncClient
from agentmesh.client.event import TERMINAL, Event
from agentmesh.client.fold import Folder
from agentmesh.client.lane import Lane
from agentmesh.client.result import Result
from agentmesh.client.schedules import Overlap
from agentmesh.client.spec import Json, RetryPolicy, TaskOptions
from agentmesh.client.synchronous import Client
from agentmesh.kit.errors import MeshError

__all__ = [
    "TERMINAL",
    "AsyncClient",
    "Client",
    "Event",
    "Folder",
    "Json",
    "Lane",
    "MeshError",
    "Overlap",
    "Result",
    "RetryPolicy",
    "TaskOptions",
]
