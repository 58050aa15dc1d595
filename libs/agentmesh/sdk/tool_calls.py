"""Calls of tools: shown in the log, journaled, and never made twice unless the tool says that this is harmless."""

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from agentmesh.api.task.v1 import events_pb2
from agentmesh.kit.errors import Unavailable, to_status
from agentmesh.sdk.agent import to_struct
from agentmesh.sdk.errors import ToolOutcomeUnknown
from agentmesh.sdk.journal import digest_of
from agentmesh.sdk.steps import Event, Steps, open_step, to_json
from agentmesh.sdk.tools import Tool

_MAX_SHOWN_RESULT = 16 * 1024


async def call_tool(steps: Steps, tool: Tool, arguments: dict[str, Any], given_key: str) -> Any:
    """Return a tool's JSON-able result.

    Before a tool runs that is not idempotent, a record of the intent is durable. Who finds one without an outcome
    does not know whether the tool did its work: then ToolOutcomeUnknown is raised, in every later attempt alike.
    """
    key = steps.key("tool", tool.name, digest_of(arguments), given_key)
    call = _Call(steps, tool, arguments, key)
    if not tool.idempotent and steps.is_intended(key):
        await call.report_unknown()
        raise ToolOutcomeUnknown(tool.name)
    return json.loads(await steps.run("tool", tool.name, key, call.run))


class _Call:
    def __init__(self, steps: Steps, tool: Tool, arguments: dict[str, Any], key: str) -> None:
        self._steps = steps
        self._tool = tool
        self._arguments = arguments
        self._key = key

    async def run(self) -> bytes:
        # What doesn't fit never reaches the function.
        guarded = not self._tool.idempotent and self._tool.fits(self._arguments)
        if guarded:
            await self._steps.intend(self._tool.name, self._call())
        else:
            await self._steps.say(self._call())
        try:
            result = await self._tool.call(self._arguments)
        except Exception:
            failed = self._failed("TOOL_FAILED", "the tool failed")
            if guarded:
                await self._steps.withdraw(self._tool.name, failed, failed.tool_result.error)
            else:
                await self._steps.say(failed)
            raise
        return await self._answer(result)

    async def report_unknown(self) -> None:
        """Say that the call was begun before: not within its step, which will never finish."""
        unknown = ToolOutcomeUnknown(self._tool.name)
        await self._steps.say(self._call())
        await self._steps.say(self._failed(unknown.reason, unknown.message))

    async def _answer(self, result: Any) -> bytes:
        try:
            data = to_json(self._tool.name, result)
        except Exception:
            await self._steps.say(self._failed("TOOL_FAILED", "the tool's result is no JSON"))
            raise
        shown = data if len(data) <= _MAX_SHOWN_RESULT else b'"(too large to be shown)"'
        answer = events_pb2.ToolResult(call_id=self._key, name=self._tool.name)
        answer.result.CopyFrom(json_format.Parse(shown, Value()))
        open_step().held.append(Event(tool_result=answer))
        return data

    def _call(self) -> Event:
        arguments: dict[str, Any] = json.loads(json.dumps(self._arguments, default=str))
        call = events_pb2.ToolCall(call_id=self._key, name=self._tool.name, arguments=to_struct(arguments))
        return Event(tool_call=call)

    def _failed(self, reason: str, message: str) -> Event:
        answer = events_pb2.ToolResult(call_id=self._key, name=self._tool.name)
        answer.error.CopyFrom(to_status(Unavailable(message, reason=reason)))
        return Event(tool_result=answer)
