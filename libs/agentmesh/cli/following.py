"""Follows a task for a person or a script to its end: shows it, asks what it asks, lets go when told to."""

import asyncio
import json
import signal
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentmesh.api.task.v1 import events_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.cli import failures
from agentmesh.cli.asking import Asker
from agentmesh.cli.output import artifact_line, note, printable, shortened, state_word, usage_line
from agentmesh.cli.saving import save_all
from agentmesh.cli.views import View
from agentmesh.client import TERMINAL, AsyncClient, Event, Folder, Json
from agentmesh.client.result import total_usage
from agentmesh.kit.errors import MeshError, WrongState, from_status

_EXIT_CODES = {
    events_pb2.TASK_STATE_COMPLETED: failures.COMPLETED,
    events_pb2.TASK_STATE_FAILED: failures.FAILED,
    events_pb2.TASK_STATE_REJECTED: failures.FAILED,
    events_pb2.TASK_STATE_CANCELED: failures.CANCELED,
    events_pb2.TASK_STATE_INPUT_REQUIRED: failures.INPUT_REQUIRED,
}


def exit_code_for(state: events_pb2.TaskState.ValueType) -> int:
    """Return the exit code of `run` for the state that a task was left in."""
    return _EXIT_CODES.get(state, failures.FAILED)


@dataclass
class Follower:
    """Follows one task. With `asker`, a person is there to answer and to decide."""

    client: AsyncClient
    view: View
    asker: Asker | None
    folder: Folder = field(default_factory=Folder)
    task_id: str = ""
    end: events_pb2.StateChanged = field(default_factory=events_pb2.StateChanged)
    _answer: "asyncio.Future[str | None] | None" = None
    _question: events_pb2.InputRequest = field(default_factory=events_pb2.InputRequest)
    _choice: "asyncio.Future[str | None] | None" = None
    _was_asking: bool = False
    _interrupts: int = 0
    _interrupted: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, events: AsyncGenerator[Event, None]) -> int:
        """Show a task's events to the end; return the exit code. Raises MeshError."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(signal.SIGINT, self._interrupt)
        except (NotImplementedError, RuntimeError):  # Windows, or not the main thread
            self._interrupts = 0  # Ctrl-C then ends the command as usual; the task goes on
        try:
            return await self._follow(events)
        finally:
            self.view.close()

    async def _follow(self, events: AsyncGenerator[Event, None]) -> int:
        coming: asyncio.Future[Event | None] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(events, None))
                signalled = asyncio.ensure_future(self._interrupted.wait())
                # While the person decides, events wait: they would scroll the question away.
                waiting: list[asyncio.Future[Any]] = [signalled, self._choice or coming]
                waiting += [self._answer] if self._answer is not None else []
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                signalled.cancel()
                code = await self._decide()
                if code is None and self._choice is None and coming.done():
                    event, coming = coming.result(), None
                    code = await self._take(event) if event is not None else exit_code_for(self.end.state)
                if code is not None:
                    return code
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait({coming})
            await events.aclose()

    # -- events -------------------------------------------------------------------------------------------

    async def _take(self, event: Event) -> int | None:
        self.task_id = event.task_id
        retracted = self.folder.add(event.sequence, event.attempt, event.event)
        self.view.show(event, self.folder, len(retracted))
        if event.name != "state_changed":
            return None
        changed = event.event.state_changed
        if changed.state in TERMINAL:
            self.end = changed
            return exit_code_for(changed.state)
        if changed.state == events_pb2.TASK_STATE_INPUT_REQUIRED:
            return await self._asked(changed.input_request)
        self._answer = None
        return None

    async def _asked(self, question: events_pb2.InputRequest) -> int | None:
        task = await self.client.get(self.task_id)
        if task.state != events_pb2.TASK_STATE_INPUT_REQUIRED or task.input_request.input_id != question.input_id:
            return None  # an old question, that has its answer
        if self.asker is None:
            note(f"the task asks: {shortened(question.prompt)}")
            note(f"answer with: agentmesh tasks input {self.task_id} ANSWER")
            return failures.INPUT_REQUIRED
        self._question = question
        self._ask()
        return None

    def _ask(self) -> None:
        assert self.asker is not None
        self.view.pause()
        self._answer = self.asker.ask(f"? {printable(self._question.prompt)}\n>")

    async def _send_answer(self, line: str) -> None:
        answer: str | Mapping[str, Json] = line
        if self._question.HasField("schema"):
            try:
                value = json.loads(line)
            except ValueError:
                value = line
            answer = value if isinstance(value, dict) else line
        try:
            await self.client.send_input(self.task_id, self._question.input_id, answer)
        except WrongState as error:
            note(f"not sent: {error.message}")

    # -- Ctrl-C -------------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        self._interrupts += 1
        self._interrupted.set()

    async def _decide(self) -> int | None:
        """Do what the person said, if anything; return the exit code if that ends the command."""
        if self._interrupted.is_set():
            self._interrupted.clear()
            if self.asker is None or self._interrupts > 1 or not self.task_id:
                return self.detach()
            self.view.pause()
            self._was_asking, self._answer = self._answer is not None, None
            self._choice = self.asker.ask("\n[c]ancel the task, [d]etach and let it run, or Enter to go on?")
        if self._choice is not None and self._choice.done():
            choice, self._choice = (self._choice.result() or "").strip().lower(), None
            self._interrupts = 0
            self.view.resume()
            if choice.startswith("d"):
                return self.detach()
            if choice.startswith("c"):
                await self._cancel()
            elif self._was_asking:
                self._ask()
        elif self._answer is not None and self._answer.done():
            line, self._answer = self._answer.result(), None
            if line is None:  # end of input: nobody is there any more
                return failures.INPUT_REQUIRED
            self.view.resume()
            await self._send_answer(line)
        return None

    async def _cancel(self) -> None:
        try:
            await self.client.cancel(self.task_id)
        except MeshError as error:
            note(f"not canceled: {error.message}")

    def detach(self) -> int:
        """Leave the task running and say how to come back."""
        self.view.close()
        if self.task_id:
            note(f"detached; the task goes on. Come back with: agentmesh tasks watch {self.task_id}")
        return failures.INTERRUPTED

    # -- the end ------------------------------------------------------------------------------------------

    async def finish(self, output: Path, *, quiet: bool) -> None:
        """Save what the task made, and say how it ended; with `quiet`, nothing on standard output."""
        kept = [event for _, _, event in self.folder.events]
        artifacts: list[types_pb2.Artifact] = list(self.end.result.artifacts)
        if self.end.state != events_pb2.TASK_STATE_COMPLETED:
            artifacts = [event.artifact for event in kept if event.HasField("artifact")]
        saved = await save_all(self.client, artifacts, output)
        text = self.end.result.text
        if text and not quiet:
            print(printable(text), flush=True)
        for artifact, path in saved:
            note(f"saved {path}: {artifact_line(artifact)}")
        for check in self.end.result.verdict.checks:
            note(f"check {'passed' if check.passed else 'FAILED'}: {shortened(check.name)} {shortened(check.detail)}")
        if used := usage_line(total_usage(event.usage for event in kept if event.HasField("usage"))):
            note(used)
        if self.end.state != events_pb2.TASK_STATE_COMPLETED:
            self._explain()
        elif not quiet:
            note(f"completed: task {self.task_id}")

    def _explain(self) -> None:
        note(f"task {self.task_id} is {state_word(self.end.state)}")
        if self.end.HasField("error"):
            failures.report(from_status(self.end.error), of_task=True)
            note(f"  try again with: agentmesh tasks retry {self.task_id}")
