"""The same context for agents that are plain functions: its methods block the agent's thread, not the loop."""

import asyncio
import inspect
from typing import Any

from agentmesh.sdk.context import TaskContext


class SyncTaskContext:
    """Every async method of TaskContext as a blocking one; attributes as they are."""

    def __init__(self, context: TaskContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._context, name)
        if not inspect.iscoroutinefunction(value):
            return value

        def blocking(*args: Any, **kwargs: Any) -> Any:
            result = asyncio.run_coroutine_threadsafe(value(*args, **kwargs), self._loop).result()
            return _SyncChild(result, self._loop) if name == "spawn" else result

        return blocking


class _SyncChild:
    def __init__(self, child: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._child = child
        self._loop = loop
        self.task_id: str = child.task_id

    def result(self) -> Any:
        return asyncio.run_coroutine_threadsafe(self._child.result(), self._loop).result()
