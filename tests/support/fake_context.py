"""A TaskContext in memory, for unit tests of agents only: it keeps what the agent said, and journals nothing."""

import asyncio
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentmesh.sdk import InputFile


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered."""

    text: str
    model: str
    provider: str
    finish_reason: str = "stop"
    usage: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kept:
    """An artifact as the agent gave it."""

    artifact_id: str
    name: str
    data: bytes
    media_type: str
    description: str


def last_lines(prompt: str) -> str:
    """Answer like an extractive model: the last three lines of the prompt, word for word."""
    return " ".join(prompt.split("\n")[-4:]).strip() or "There is nothing to say."


class FakeContext:
    """Runs steps at once, answers prompts by a function, and holds results to what a journal demands."""

    def __init__(
        self,
        prompt: str = "",
        *,
        files: Sequence[tuple[str, str, bytes]] = (),
        constraints: dict[str, Any] | None = None,
        write: Callable[[str], str] = last_lines,
        provider: str = "fake",
        error: Exception | None = None,
    ) -> None:
        self.prompt = prompt
        self.constraints = constraints or {}
        self.labels: dict[str, str] = {}
        self.attempt = 1
        self.history: list[Any] = []
        self.said: list[str] = []
        self.logged: list[tuple[str, str]] = []
        self.fractions: list[float] = []
        self.steps: list[str] = []
        self.prompts: list[str] = []
        self.systems: list[str] = []
        self.artifacts: dict[str, Kept] = {}
        self._files = [InputFile(name=name, media_type=media_type, data=data) for name, media_type, data in files]
        self._write = write
        self._provider = provider
        self._error = error

    async def files(self) -> list[InputFile]:
        return list(self._files)

    async def llm(
        self,
        prompt: str,
        *,
        system: str = "",
        model: str = "",
        max_output_tokens: int = 0,
        temperature: float | None = None,
        stream: bool = True,
        name: str = "llm",
        key: str = "",
    ) -> Answer:
        if self._error is not None:
            raise self._error
        self.prompts.append(prompt)
        self.systems.append(system)
        return Answer(self._write(prompt), model or "fake-1", self._provider)

    async def step(self, name: str, fn: Callable[..., Any], *args: Any) -> Any:
        self.steps.append(name)
        result = await asyncio.to_thread(fn, *args)
        if inspect.isawaitable(result):
            result = await result
        # A journal holds strict JSON: a NaN or a data frame must not get this far.
        return json.loads(json.dumps(result, allow_nan=False))

    async def emit(self, text: str) -> None:
        self.said.append(text)

    async def progress(self, fraction: float, message: str) -> None:
        assert 0 <= fraction <= 1
        assert message
        self.fractions.append(fraction)

    async def log(self, level: str, message: str) -> None:
        self.logged.append((level, message))

    async def artifact(self, name: str, data: bytes | str, media_type: str, description: str = "") -> Kept:
        assert 0 < len(name) <= 255
        assert name not in self.artifacts
        content = data.encode() if isinstance(data, str) else data
        kept = Kept(f"artifact-{len(self.artifacts) + 1}", name, content, media_type, description)
        self.artifacts[name] = kept
        return kept
