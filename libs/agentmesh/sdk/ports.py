"""What a context needs from whatever runs the agent."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.api.types.v1 import types_pb2


class Mesh(Protocol):
    """The rest of the mesh, as one attempt sees it."""

    async def say(self, events: Sequence[events_pb2.TaskEvent], steps: Sequence[runner_pb.StepRecord] = ()) -> None:
        """Put events, with the steps they complete, at the end of the log; waits while too much is unread."""

    async def settled(self) -> None:
        """Wait until everything said so far is durable."""

    def generate(self, request: llm_pb.GenerateRequest) -> AsyncGenerator[llm_pb.Delta, None]:
        """Stream a model's answer; raises MeshError."""

    async def store_artifact(self, name: str, media_type: str, data: bytes) -> types_pb2.Artifact:
        """Store bytes; they are hidden until an artifact event is committed."""

    async def load_artifact(self, artifact_id: str) -> tuple[types_pb2.Artifact, bytes]:
        """Return an artifact and its bytes."""

    async def spawn(self, step_key: str, spec: task_pb2.TaskSpec) -> task_pb2.Task:
        """Make a child task, or return the one that this step made before."""

    async def child_ended(self, task_id: str) -> task_pb2.Task:
        """Wait until a child has ended."""

    async def input_given(self, input_id: str) -> types_pb2.Message:
        """Wait until a question is answered."""

    def waiting(self, awaited_task_ids: Sequence[str] | None) -> None:
        """Tell that the attempt does nothing but wait for these children or for input; None: it goes on."""
