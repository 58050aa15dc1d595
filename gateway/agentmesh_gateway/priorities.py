"""How a client of OpenAI's or Anthropic's interface says that nobody waits for an answer."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh_gateway import problems

HEADER: Final = "x-agentmesh-priority"

_PRIORITIES = {"interactive": pb.PRIORITY_INTERACTIVE, "background": pb.PRIORITY_BACKGROUND}
_FLEX = "flex"  # OpenAI's own word for "cheaper, and later"


def obey(request: Request, body: Mapping[str, Any], asked: pb.GenerateRequest) -> None:
    """Take over who goes first: the header says, else `service_tier: "flex"`; raise what becomes 400."""
    said = request.headers.get(HEADER)
    if said is None:
        if body.get("service_tier") == _FLEX:
            asked.priority = pb.PRIORITY_BACKGROUND
        return
    priority = _PRIORITIES.get(said.strip().lower())
    if priority is None:
        raise problems.invalid(HEADER, f"must be {' or '.join(_PRIORITIES)}")
    asked.priority = priority
