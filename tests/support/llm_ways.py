"""The ways to a provider that must all mean the same: each wire, over our own connections and a vendor's library."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from tests.support import fake_anthropic, fake_openai, fake_responses


@dataclass(frozen=True)
class Way:
    """One wire over one transport, and the fake provider's half that speaks it."""

    kind: Literal["openai_compatible", "anthropic"]
    fake: ModuleType
    api: Literal["chat_completions", "responses"] = "chat_completions"
    transport: Literal["http", "sdk"] = "http"

    @property
    def settings(self) -> dict[str, Any]:
        """Return what says this of a provider."""
        return {"kind": self.kind, "api": self.api, "transport": self.transport}


WAYS = {
    "chat": Way("openai_compatible", fake_openai),
    "chat-sdk": Way("openai_compatible", fake_openai, transport="sdk"),
    "responses": Way("openai_compatible", fake_responses, "responses"),
    "responses-sdk": Way("openai_compatible", fake_responses, "responses", "sdk"),
    "anthropic": Way("anthropic", fake_anthropic),
    "anthropic-sdk": Way("anthropic", fake_anthropic, transport="sdk"),
}
