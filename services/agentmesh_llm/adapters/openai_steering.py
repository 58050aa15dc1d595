"""Writes what steers an answer for servers that speak OpenAI's wire, which don't all know the same fields.

The rule: a field that changes the answer is sent to every server when the caller gave it, and never otherwise; a server
that doesn't know it then refuses the request or does without, which is the caller's to see. Where it is known that
the field is no use, the request is refused here. A field that changes nothing in the answer is sent only to servers
that are known to take it, because others may refuse what they don't know.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.domain import Effort, Question, Reasoning, Thinking

# Its hosts for regions are eu.api.openai.com and the like.
_OPENAI_HOST = "api.openai.com"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server is known to take."""

    max_tokens_key: str = "max_tokens"
    """Older servers know max_tokens only, OpenAI's newer models refuse it."""
    top_k: bool = True
    """vLLM, Ollama, llama.cpp and their like sample from the k likeliest; OpenAI never does."""
    reasoning_content: bool = True
    """Some servers want what was thought back with the answers of tools; OpenAI takes it in its Responses API only."""
    prompt_cache_key: bool = False


OPENAI = Dialect("max_completion_tokens", top_k=False, reasoning_content=False, prompt_cache_key=True)
OTHERS = Dialect()


def dialect_of(base_url: str) -> Dialect:
    """Return what the server at an address takes."""
    host = urlsplit(base_url).hostname or ""
    return OPENAI if host == _OPENAI_HOST or host.endswith(f".{_OPENAI_HOST}") else OTHERS


def steering(question: Question, dialect: Dialect) -> dict[str, Any]:
    """Return the fields that the caller gave; raise InvalidRequest for one that the server has no form for."""
    sampling = question.sampling
    if sampling.top_k is not None and not dialect.top_k:
        raise errors.not_here("sampling.top_k", "this provider doesn't sample from the k likeliest tokens")
    optional = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        dialect.max_tokens_key: sampling.max_output_tokens or None,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        # A server refuses it where there is nothing to call.
        "parallel_tool_calls": question.parallel_tool_calls if question.tools else None,
        "reasoning_effort": effort_of(question.reasoning),
        "logprobs": None if question.top_logprobs is None else True,
        "top_logprobs": question.top_logprobs or None,
        "prompt_cache_key": (question.prompt_cache_key or None) if dialect.prompt_cache_key else None,
    }
    return {key: value for key, value in optional.items() if value is not None}


def effort_of(reasoning: Reasoning | None) -> str | None:
    """Return how much a model is to think in OpenAI's words, nothing if that is left to it."""
    # A number of tokens is for providers that take one.
    if reasoning is None:
        return None
    effort = Effort.NONE if reasoning.mode is Thinking.OFF else reasoning.effort
    return effort.value if effort is not None else None
