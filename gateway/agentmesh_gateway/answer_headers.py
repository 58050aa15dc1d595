"""What a whole answer tells in headers, because the vendors' bodies have no place for it: its origin and its cost."""

from typing import Any, Final

from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.usages import NANO
from agentmesh_gateway import cache_control

COST: Final = "x-agentmesh-cost-usd"
"""What the call cost in US dollars, by the operator's prices."""


def headers_of(answer: Any) -> dict[str, str]:
    """Return the headers of a GenerateResponse."""
    return cache_control.outcome_header(answer.cache) | cost_header(answer.usage)


def cost_header(usage: types_pb2.Usage) -> dict[str, str]:
    """Return the header for what a call cost, none where it has no price."""
    cost = usage.cost_nano_usd
    return {COST: f"{cost // NANO}.{cost % NANO:09d}"} if cost else {}
