"""What an agent sees of its task, and everything that it can do there."""

import asyncio
import hashlib
import inspect
import json
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf import json_format

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.answers import NOT_ASKED_FOR, AnswerBuilder
from agentmesh.kit.errors import Unavailable
from agentmesh.kit.structs import to_python
from agentmesh.kit.wire import TERMINAL
from agentmesh.sdk.agent import to_struct
from agentmesh.sdk.errors import AgentError, ChildFailed
from agentmesh.sdk.journal import Journal, digest_of
from agentmesh.sdk.llm import Effort, LlmAnswer, LlmMessage, build_request, from_response
from agentmesh.sdk.ports import Mesh
from agentmesh.sdk.steps import Steps, enter_scope, open_step, timed, to_json
from agentmesh.sdk.tool_calls import call_tool
from agentmesh.sdk.tools import Tool, tool

Event = events_pb2.TaskEvent

_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that the task was given. `name` is the caller's label."""

    name: str
    media_type: str
    data: bytes


class Child:
    """A child task."""

    def __init__(self, context: "TaskContext", task: task_pb2.Task) -> None:
        self._context = context
        self.task_id = task.id
        self._task = task

    async def result(self) -> events_pb2.TaskResult:
        """Wait for the child and return its result; raises ChildFailed if it has none."""
        if self._task.state not in TERMINAL:
            self._task = await self._context._wait_for(self._context._mesh.child_ended(self.task_id), [self.task_id])
        if self._task.state != events_pb2.TASK_STATE_COMPLETED:
            state = events_pb2.TaskState.Name(self._task.state).removeprefix("TASK_STATE_")
            raise ChildFailed(self.task_id, state, self._task.error.message)
        return self._task.result


class TaskContext:
    """One attempt at a task. What is journaled is done once, whatever happens to the runner."""

    def __init__(self, assignment: runner_pb.Assignment, mesh: Mesh, journal: Journal) -> None:
        spec = assignment.spec
        self.task_id = assignment.task_id
        self.tenant = assignment.tenant
        self.attempt = assignment.attempt
        self.prompt = spec.prompt
        self.parameters: dict[str, Any] = to_python(spec.parameters)
        self.constraints: dict[str, Any] = to_python(spec.constraints)
        self.labels = dict(spec.labels)
        self.context_id = spec.context_id
        self.history: list[types_pb2.Message] = list(assignment.history)
        self.artifacts: list[types_pb2.Artifact] = []
        self._spec = spec
        self._mesh = mesh
        self._journal = journal
        self._steps = Steps(mesh, journal)
        self._branches = 1  # leaves of the tree of gathers
        self._waiters = 0
        self._awaited: dict[str, int] = {}

    # -- saying -------------------------------------------------------------------------------------------

    async def emit(self, text: str) -> None:
        """Say a whole message. Inside a step it is held until the step finishes, and then said with it."""
        message = types_pb2.Message(role=types_pb2.ROLE_AGENT, parts=[types_pb2.Part(text=text)])
        await self._steps.say(Event(message=message), hold=True)

    async def emit_delta(self, text: str) -> None:
        """Say a piece of the answer's text at once."""
        if text:
            await self._steps.say(Event(text_delta=events_pb2.TextDelta(text=text)))

    async def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the work is, from 0 to 1; negative when unknown."""
        await self._steps.say(Event(progress=events_pb2.Progress(fraction=fraction, message=message)))

    async def log(self, level: str, message: str) -> None:
        """Say a line for a person who debugs; without secrets."""
        await self._steps.say(Event(log=events_pb2.Log(level=level, message=message)))

    async def artifact(
        self, name: str, data: bytes | str, media_type: str = "text/plain", description: str = ""
    ) -> types_pb2.Artifact:
        """Store a file and show it to whoever watches the task. Journaled."""
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise AgentError("ARTIFACT_NAME", "an artifact's name is 1 to 255 printable characters")
        content = data.encode() if isinstance(data, str) else data
        digest = hashlib.blake2b(content, digest_size=6).hexdigest()

        async def store() -> bytes:
            artifact = await self._mesh.store_artifact(name, media_type, content)
            artifact.description = description
            await self._steps.say(Event(artifact=artifact), hold=True)
            stored: bytes = artifact.SerializeToString()
            return stored

        key = self._steps.key("step", f"artifact:{name}", digest)
        record = await self._steps.run("step", f"artifact:{name}", key, store)
        artifact = types_pb2.Artifact.FromString(record)
        self.artifacts.append(artifact)
        return artifact

    async def files(self) -> list[InputFile]:
        """Return everything that the task was given: input parts and artifacts, in this order."""
        found = []
        for number, part in enumerate(self._spec.input, 1):
            kind = part.WhichOneof("content")
            if kind == "data":
                data = json.dumps(json_format.MessageToDict(part.data)).encode()
            else:
                data = part.raw if kind == "raw" else part.text.encode()
            default = "text/plain" if kind == "text" else "application/octet-stream"
            found.append(InputFile(part.filename or f"input-{number}", part.media_type or default, data))
        for artifact_id in self._spec.artifact_ids:
            artifact, data = await self._mesh.load_artifact(artifact_id)
            found.append(InputFile(artifact.name, artifact.media_type, data))
        return found

    # -- steps --------------------------------------------------------------------------------------------

    async def step(self, name: str, function: Callable[..., Any], *args: Any, key: str = "") -> Any:
        """Call a function once in the task's life and return its JSON-able result, now and in later attempts.

        A plain function runs in a thread. What `function` emits is committed together with the result.
        """

        async def run() -> bytes:
            if inspect.iscoroutinefunction(function):
                result = await function(*args)
            else:
                result = await asyncio.to_thread(function, *args)
                if inspect.isawaitable(result):
                    result = await result
            return to_json(name, result)

        return json.loads(await self._steps.run("step", name, self._steps.key("step", name, digest_of(args), key), run))

    async def llm(
        self,
        prompt: str | Sequence[LlmMessage],
        *,
        system: str = "",
        model: str = "",
        max_output_tokens: int = 0,
        temperature: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        tools: Sequence[Tool] = (),
        response_schema: dict[str, Any] | None = None,
        effort: Effort | None = None,
        stream: bool = True,
        name: str = "llm",
        key: str = "",
    ) -> LlmAnswer:
        """Ask a model. Journaled: a finished answer is never paid twice. With `stream`, its text is said.

        `effort` is how much it thinks first. After a call of tools the next prompt holds `answer.as_message()`.
        """
        request = build_request(
            prompt,
            system=system,
            model=model,
            max_output_tokens=max_output_tokens,
            temperature=temperature,
            seed=seed,
            stop=stop,
            tools=tools,
            response_schema=response_schema,
            effort=effort,
        )
        digest = digest_of(request.SerializeToString(deterministic=True))

        async def ask() -> bytes:
            step = open_step()
            request.idempotency_key = f"{self.task_id}/{step.key}"
            response = await self._generate(request, stream)
            step.held.append(Event(usage=_paid(response)))
            data: bytes = response.SerializeToString()
            return data

        data = await self._steps.run("llm", name, self._steps.key("llm", name, digest, key), ask)
        return from_response(llm_pb.GenerateResponse.FromString(data))

    async def tool(self, function: Tool | Callable[..., Any], /, *, key: str = "", **arguments: Any) -> Any:
        """Call a tool and return its JSON-able result. Journaled; the log shows the call and the answer.

        Raises what the tool raises, and ToolOutcomeUnknown if an earlier attempt began the call and was lost.
        """
        called = function if isinstance(function, Tool) else _as_tool(function)

        return await call_tool(self._steps, called, arguments, key)

    # -- values that must not change between attempts ---------------------------------------------------------

    async def now(self) -> datetime:
        """Return the time; the same in every attempt."""
        return datetime.fromisoformat(await self._value("now", lambda: datetime.now(UTC).isoformat()))

    async def uuid(self) -> uuid.UUID:
        """Return a random UUID; the same in every attempt."""
        return uuid.UUID(await self._value("uuid", lambda: str(uuid.uuid4())))

    async def random(self) -> float:
        """Return a random number from 0 to below 1; the same in every attempt."""
        return float(await self._value("random", random.random))

    async def _value(self, name: str, make: Callable[[], Any]) -> Any:
        async def run() -> bytes:
            return json.dumps(make()).encode()

        return json.loads(await self._steps.run("value", name, self._steps.key("value", name, ""), run))

    # -- others -------------------------------------------------------------------------------------------

    async def spawn(
        self,
        agent: str,
        prompt: str = "",
        parameters: dict[str, Any] | None = None,
        *,
        artifact_ids: Sequence[str] = (),
        key: str = "",
    ) -> Child:
        """Make a child task; the same call is the same child in every attempt."""
        spec = task_pb2.TaskSpec(agent=agent, prompt=prompt, artifact_ids=artifact_ids, priority=self._spec.priority)
        if parameters:
            spec.parameters.CopyFrom(to_struct(parameters))
        digest = digest_of(spec.SerializeToString(deterministic=True))
        step_key = self._steps.key("child", agent, digest, key)
        return Child(self, await self._mesh.spawn(step_key, spec))

    async def gather(self, *work: Awaitable[Any]) -> list[Any]:
        """Run awaitables at once and return their results in order; the first error cancels the others.

        Each branch has a scope of its own, so that its steps are found again whatever order they finish in.
        """
        group = self._steps.key("gather", "", "")
        left = len(work)
        self._branches += left - 1

        async def branch(number: int, awaitable: Awaitable[Any]) -> Any:
            nonlocal left
            enter_scope(f"{group}.{number}/")
            try:
                return await awaitable
            finally:
                left -= 1
                if left:
                    self._branches -= 1
                    self._tell_waiting()

        if not work:
            self._branches += 1
            return []
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(branch(number, one)) for number, one in enumerate(work)]
        return [task.result() for task in running]

    async def input(self, prompt: str, schema: dict[str, Any] | None = None, *, key: str = "") -> types_pb2.Message:
        """Ask whoever watches, and wait for the answer; while waiting the task takes no slot."""
        input_id = self._steps.key("input", "", digest_of(prompt), key)
        record = self._journal.find(input_id)
        if record is not None:
            return types_pb2.Message.FromString(record.result)
        asked = events_pb2.InputRequest(input_id=input_id, prompt=prompt)
        if schema is not None:
            asked.schema.CopyFrom(to_struct(schema))
        changed = events_pb2.StateChanged(state=events_pb2.TASK_STATE_INPUT_REQUIRED, input_request=asked)
        # Not counted as said: storage closes the question when it is answered, so an attempt asks it again.
        await self._mesh.say([timed(Event(state_changed=changed))])
        message: types_pb2.Message = await self._wait_for(self._mesh.input_given(input_id), [])
        return message

    # -- inside -------------------------------------------------------------------------------------------

    async def _wait_for(self, event: Awaitable[Any], task_ids: list[str]) -> Any:
        self._waiters += 1
        for task_id in task_ids:
            self._awaited[task_id] = self._awaited.get(task_id, 0) + 1
        self._tell_waiting()
        try:
            return await event
        finally:
            self._waiters -= 1
            for task_id in task_ids:
                self._awaited[task_id] -= 1
            self._tell_waiting()

    def _tell_waiting(self) -> None:
        idle = self._waiters > 0 and self._waiters >= self._branches
        self._mesh.waiting([task_id for task_id, count in self._awaited.items() if count] if idle else None)

    async def _generate(self, request: llm_pb.GenerateRequest, stream: bool) -> llm_pb.GenerateResponse:
        # Asking again is the runner's business, which has one budget for all: see its retrying.py.
        builder = AnswerBuilder()
        async with aclosing(self._mesh.generate(request)) as answer:
            async for delta in answer:
                builder.add(delta)
                kind = delta.WhichOneof("kind")
                if stream and kind == "text" and delta.text:
                    await self._steps.say(Event(text_delta=events_pb2.TextDelta(text=delta.text)))
                elif stream and kind == "reasoning" and delta.reasoning:
                    reasoning = events_pb2.ReasoningDelta(text=delta.reasoning)
                    await self._steps.say(Event(reasoning_delta=reasoning))
        if not builder.finished:
            raise Unavailable("the model's answer was cut", reason="STREAM_INTERRUPTED")
        return builder.build()


def _paid(response: llm_pb.GenerateResponse) -> types_pb2.Usage:
    """Return what an answer cost: nothing if it was cached, or somebody else's answer to the same question."""
    if response.cache in NOT_ASKED_FOR:
        return types_pb2.Usage(model=response.model)
    paid = types_pb2.Usage()
    paid.CopyFrom(response.usage)
    paid.llm_calls, paid.model = 1, response.model
    return paid


def _as_tool(function: Callable[..., Any]) -> Tool:
    made: Tool = tool(function)
    return made
