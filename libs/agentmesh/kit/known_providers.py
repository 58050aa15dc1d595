"""Knows which providers a key in the environment stands for, so that nothing else has to be configured."""

from collections.abc import Mapping
from typing import Any

_OPENAI_URL = "https://api.openai.com/v1"
_OPENAI_MODELS = ("gpt-4o-mini", "gpt-4o", "gpt-4.1-mini", "gpt-4.1")
_OPENAI_EMBEDDING_MODELS = ("text-embedding-3-small", "text-embedding-3-large")

# The cheapest first: the first is asked where no model is named.
_ANTHROPIC_MODELS = ("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5", "claude-haiku-4-5")
_ANTHROPIC_PREFIX = "claude"

Found = tuple[str, dict[str, Any]]


def of_environment(variables: Mapping[str, str], default_model: str) -> list[Found]:
    """Return the providers, each after the variable that brought it; OpenAI comes first where there are both.

    `default_model`, if set, is offered as well: by Anthropic if it is named like one of Anthropic's, else by OpenAI.
    """
    is_claude = default_model.startswith(_ANTHROPIC_PREFIX)
    found = []
    openai_key, openai_url = variables.get("OPENAI_API_KEY"), variables.get("OPENAI_BASE_URL")
    if openai_key or openai_url:
        provider = {
            "name": "openai",
            "base_url": openai_url or _OPENAI_URL,
            "api_key": openai_key,
            # A server of one's own may serve a model of any name; without Anthropic's key there is nobody else.
            "models": _with("" if is_claude and "ANTHROPIC_API_KEY" in variables else default_model, _OPENAI_MODELS),
            "embedding_models": list(_OPENAI_EMBEDDING_MODELS),
        }
        found.append(("OPENAI_BASE_URL" if openai_url else "OPENAI_API_KEY", provider))
    # An address alone is no wish to use it: other programs' users set it for a gateway with another credential.
    if anthropic_key := variables.get("ANTHROPIC_API_KEY"):
        url = variables.get("ANTHROPIC_BASE_URL")
        provider = {
            "name": "anthropic",
            "kind": "anthropic",
            "base_url": _with_version(url) if url else None,
            "api_key": anthropic_key,
            "models": _with(default_model if is_claude else "", _ANTHROPIC_MODELS),
        }
        found.append(("ANTHROPIC_BASE_URL" if url else "ANTHROPIC_API_KEY", provider))
    return found


def _with(default_model: str, models: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys([default_model, *models] if default_model else models))


def _with_version(url: str) -> str:
    # Anthropic's own clients want this variable without the version that our `base_url` ends with.
    bare = url.rstrip("/")
    return bare if bare.endswith("/v1") else f"{bare}/v1"
