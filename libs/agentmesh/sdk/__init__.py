"""What the author of an agent imports."""

from agentmesh.sdk.agent import Agent, Check, Result, Skill, Verdict, agent
from agentmesh.sdk.context import InputFile, TaskContext
from agentmesh.sdk.errors import AgentError, ChildFailed, Rejected, ToolOutcomeUnknown
from agentmesh.sdk.llm import LlmAnswer, LlmMessage, Thought, ToolUse
from agentmesh.sdk.tools import Tool, tool

__all__ = [
    "Agent",
    "AgentError",
    "Check",
    "ChildFailed",
    "InputFile",
    "LlmAnswer",
    "LlmMessage",
    "Rejected",
    "Result",
    "Skill",
    "TaskContext",
    "Thought",
    "Tool",
    "ToolOutcomeUnknown",
    "ToolUse",
    "Verdict",
    "agent",
    "tool",
]
