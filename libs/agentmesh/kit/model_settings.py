"""Say which models there are, where they run and how they are reached."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from agentmesh.kit.setting_types import Credential, Name, Names, ProviderUrl, Seconds, Section
from agentmesh.kit.spend_settings import ModelPrice, Spending

ANTHROPIC_URL = "https://api.anthropic.com/v1"
OFFLINE_MODEL = "offline"
OFFLINE_EMBEDDING_MODEL = "offline-embedding"
OFFLINE_RERANK_MODEL = "offline-rerank"


class ProviderPool(Section):
    """One provider's HTTP connections and their deadlines."""

    connections: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Connections, at most."""
    per_host: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Of them to one host."""
    dns_ttl_s: Seconds = 300
    """How long an address is remembered."""
    keep_alive_s: Seconds = 30
    """How long a connection is kept that nobody uses."""
    connect_timeout_s: Seconds = 10
    """For making a connection, TLS included."""
    total_timeout_s: Seconds = 600
    """For a call that is not a stream: long answers take minutes."""
    idle_timeout_s: Seconds = 60
    """For a stream: the longest silence between two chunks."""
    max_in_flight: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Calls at a time, at most and to begin with; as many as connections if absent. Overload halves them."""
    min_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Calls at a time that overload leaves."""
    max_waiting: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Calls that wait for their turn beyond; the next one is refused."""

    @field_validator("max_in_flight")
    @classmethod
    def _no_call_waits_for_a_connection(cls, most: int | None, info: ValidationInfo) -> int | None:
        connections = min(info.data.get("per_host", 10_000), info.data.get("connections", 10_000))
        if most is not None and most > connections:
            raise ValueError("must be at most per_host and connections: more would wait for a connection")
        return most


class Provider(Section):
    """A server that answers model calls, and the models it is asked for."""

    name: Name
    """What models are called by, as in NAME/MODEL; in metrics and usage, too."""
    kind: Literal["openai_compatible", "anthropic", "offline"] = "openai_compatible"
    """Which language it speaks; offline is the built-in model that needs no network."""
    base_url: ProviderUrl | None = None
    """Up to and with the version, as in `http://127.0.0.1:11434/v1`; by default Anthropic's own for kind anthropic."""
    api_key: Credential | None = None
    """What it wants to see; write `${NAME}` and give the variable, not the key itself."""
    api: Literal["chat_completions", "responses"] = "chat_completions"
    """In which of OpenAI's two forms a server of kind openai_compatible is asked for answers."""
    transport: Literal["http", "sdk"] = "http"
    """Over our own connections, or through the vendor's Python library, which the extra `sdk` installs."""
    models: Names = ()
    """Asked for answers."""
    embedding_models: Names = ()
    """Asked for vectors."""
    embedding_batch: Annotated[int, Field(ge=1, le=2048)] = 256
    """Texts in one call for embeddings, at most."""
    rerank_models: Names = ()
    """Asked at `/rerank`, as vLLM, Jina, Cohere and others serve it."""
    rerank_batch: Annotated[int, Field(ge=1, le=2048)] = 256
    """Documents in one call, at most."""
    completion_models: Names = ()
    """Asked at `/completions`, with prompts in place of a conversation; they may be in `models` as well."""
    completion_batch: Annotated[int, Field(ge=1, le=256)] = 32
    """Prompts in one call, at most."""
    share_batches: bool = False
    """Whether texts of several tenants may go in one call; each still pays for its own alone."""
    send_traceparent: bool = False
    """Tell the provider which trace a call belongs to, in a `traceparent` header: for servers of your own."""
    pool: ProviderPool = ProviderPool()

    @property
    def every_model(self) -> tuple[str, ...]:
        """Every model that is asked for, whatever it does, once."""
        lists = (self.models, self.embedding_models, self.rerank_models, self.completion_models)
        return tuple(dict.fromkeys(model for models in lists for model in models))

    @field_validator("base_url")
    @classmethod
    def _a_server_has_an_address(cls, base_url: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind")
        if kind == "openai_compatible" and base_url is None:
            raise ValueError("is needed for kind openai_compatible")
        return ANTHROPIC_URL if kind == "anthropic" and base_url is None else base_url

    @field_validator("api", "transport")
    @classmethod
    def _only_servers_are_asked(cls, value: str, info: ValidationInfo) -> str:
        kind = info.data.get("kind")
        if value == "responses" and kind in ("anthropic", "offline"):
            raise ValueError(f"is for kind openai_compatible only, not for {kind}")
        if value == "sdk" and kind == "offline":
            raise ValueError("is for servers only: kind offline needs no network")
        return value

    @field_validator("embedding_models", "rerank_models", "completion_models")
    @classmethod
    def _anthropic_only_answers(cls, models: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if models and info.data.get("kind") == "anthropic":
            raise ValueError("must be empty for kind anthropic, which has none of them")
        return models

    @field_validator("completion_models")
    @classmethod
    def _some_model_is_named(cls, models: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        others = [info.data.get(name) for name in ("models", "embedding_models", "rerank_models")]
        if not models and None not in others and not any(others):
            raise ValueError("models, or one of the other lists of models, must name at least one")
        return models


class ModelAlias(Section):
    """A name of your own for models at one or several providers, which share the calls."""

    name: Name
    """What callers ask for."""
    models: Annotated[Names, Field(min_length=1)]
    """Ids of models, PROVIDER/MODEL or as `agentmesh models` lists them; the least loaded that works is asked."""
    fallbacks: Names = ()
    """Asked in turn where none of `models` can be."""


OFFLINE_PROVIDER = Provider(
    name="offline",
    kind="offline",
    models=(OFFLINE_MODEL,),
    embedding_models=(OFFLINE_EMBEDDING_MODEL,),
    rerank_models=(OFFLINE_RERANK_MODEL,),
    completion_models=(OFFLINE_MODEL,),
)


def _with_offline(providers: tuple[Provider, ...]) -> tuple[Provider, ...]:
    if not any(provider.kind == "offline" for provider in providers):
        providers = (*providers, OFFLINE_PROVIDER)
    names = [provider.name for provider in providers]
    if len(set(names)) < len(names):
        raise ValueError("each provider needs a name of its own; `offline` belongs to kind offline")
    return providers


def _first_model(data: dict[str, Any]) -> str:
    return next((model for provider in data.get("providers", ()) for model in provider.models), OFFLINE_MODEL)


class Llm(Section):
    """The providers in order of preference; one of kind offline is always there, last unless placed."""

    providers: Annotated[tuple[Provider, ...], AfterValidator(_with_offline)] = ()
    """Servers in order of preference; without any, those that the environment has keys for."""
    aliases: tuple[ModelAlias, ...] = ()
    """Names that stand for models; such a name may be that of a model, which it then hides."""
    default_model: str = Field(default_factory=_first_model)
    """By default the first model of the first provider that has one."""
    join_grace_s: Seconds = 60
    """How long a keyed call goes on after its caller is lost, so that the next attempt can join it."""
    join_max_bytes: Annotated[int, Field(ge=1024, le=1_073_741_824)] = 1_048_576
    """Bytes kept of one such call."""
    share_wait_s: Seconds = 20
    """How long a call waits for the same one at another llm-proxy before it asks itself; needs Redis for the cache."""
    prices: tuple[ModelPrice, ...] = ()
    """The first one that fits a model counts; a model without a price costs nothing."""
    spending: Spending = Spending()

    @field_validator("aliases")
    @classmethod
    def _what_an_alias_stands_for_is_served(
        cls, aliases: tuple[ModelAlias, ...], info: ValidationInfo
    ) -> tuple[ModelAlias, ...]:
        kinds: dict[str, str] = {}
        for provider in info.data.get("providers", ()):
            for models, kind in (
                (provider.models, "answers"),
                (provider.embedding_models, "vectors"),
                (provider.rerank_models, "scores"),
                (provider.completion_models, "completions"),
            ):
                for model in models:
                    kinds.setdefault(f"{provider.name}/{model}", kind)
                    kinds.setdefault(model, kind)
        for alias in aliases:
            for model in (*alias.models, *alias.fallbacks):
                if kinds and model not in kinds:
                    raise ValueError(f"{alias.name} stands for {model}, which is in no provider's models")
            if len({kinds.get(model) for model in (*alias.models, *alias.fallbacks)}) > 1:
                raise ValueError(f"{alias.name} stands for models that do different things")
        if len({alias.name for alias in aliases}) < len(aliases):
            raise ValueError("names one twice")
        return aliases

    @field_validator("default_model")
    @classmethod
    def _default_model_is_served(cls, model: str, info: ValidationInfo) -> str:
        known = [model for provider in info.data.get("providers", ()) for model in provider.models]
        known += [alias.name for alias in info.data.get("aliases", ())]
        if known and model not in known:
            raise ValueError(f"is in no provider's models; known: {', '.join(known)}")
        return model
