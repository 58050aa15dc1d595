"""What a client of OpenAI's or Anthropic's interface may say to the cache of answers, in HTTP's own words."""

from typing import Final

from starlette.requests import Request

from agentmesh.api.llm.v1 import llm_service_pb2 as pb

OUTCOME: Final = "x-agentmesh-cache"
"""The header that tells what the cache had to do with an answer: hit, miss or coalesced."""

_Policy = pb.CachePolicy
_MODES = (
    ("no-store", _Policy.MODE_BYPASS),
    ("only-if-cached", _Policy.MODE_ONLY_IF_CACHED),
    ("no-cache", _Policy.MODE_REFRESH),
)
_OUTCOMES = {
    pb.CACHE_OUTCOME_HIT: "hit",
    pb.CACHE_OUTCOME_MISS: "miss",
    pb.CACHE_OUTCOME_COALESCED: "coalesced",
}


def obey(request: Request, policy: pb.CachePolicy) -> None:
    """Read a request's Cache-Control (RFC 9111, section 5.2.1); what it doesn't say is left to the llm-proxy."""
    said = {part.strip().lower() for part in request.headers.get("cache-control", "").split(",")}
    mode = next((mode for directive, mode in _MODES if directive in said), None)
    if mode is not None:
        policy.mode = mode


def outcome_header(outcome: "pb.CacheOutcome.ValueType") -> dict[str, str]:
    """Return the header for an answer, none if the cache was not looked at."""
    return {OUTCOME: _OUTCOMES[outcome]} if outcome in _OUTCOMES else {}
