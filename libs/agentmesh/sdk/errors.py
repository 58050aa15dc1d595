"""How an agent says that it can't go on."""


class AgentError(Exception):
    """The attempt failed. `reason` is UPPER_SNAKE; with `retryable`, the task's retry policy decides."""

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable


class Rejected(Exception):
    """The agent won't take the task, now or later; `message` tells the client what to do instead."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ChildFailed(AgentError):
    """A child task ended without a result."""

    def __init__(self, task_id: str, state: str, message: str) -> None:
        super().__init__("CHILD_FAILED", f"the child task ended {state}: {message}" if message else f"a child {state}")
        self.task_id = task_id
        self.state = state


class ToolOutcomeUnknown(AgentError):
    """An earlier attempt began to call a tool and was lost: whether the tool did its work is not known.

    The tool is not run again under the same key. An agent that knows better catches this; a tool that may be
    run twice is declared `idempotent`.
    """

    def __init__(self, tool: str) -> None:
        super().__init__(
            "TOOL_OUTCOME_UNKNOWN",
            f"an earlier attempt began to call {tool!r} and was lost; whether the tool did its work is not known",
        )
        self.tool = tool
