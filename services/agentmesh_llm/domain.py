"""What is asked of a model and what it answers, free of any provider's or protocol's form.

What every call makes is a named tuple: a frozen dataclass takes three times as long to make.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar

V = TypeVar("V")


class Role(Enum):
    """Who said a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class ToolMode(Enum):
    """How free the model is to call tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


class FinishReason(Enum):
    """Why an answer ended."""

    UNKNOWN = "unknown"
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


class Effort(Enum):
    """How much a model thinks, in its own measure."""

    NONE = "none"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"
    MAX = "max"


class Thinking(Enum):
    """Whether a model thinks, apart from the effort; as it is used to for HABIT."""

    OFF = "off"
    ON = "on"
    HABIT = "habit"


class Priority(Enum):
    """Who goes first where calls have to wait."""

    INTERACTIVE = "interactive"
    BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class MediaPart:
    """An image, a sound or a file: its bytes, or the address where the provider can read it."""

    media_type: str
    data: bytes = field(default=b"", repr=False)
    url: str = ""
    filename: str = ""


@dataclass(frozen=True, slots=True)
class DataPart:
    """A JSON value."""

    value: Any


Part = TextPart | MediaPart | DataPart


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call of a tool; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of reasoning that the provider can be shown again: `signature` and `redacted` are in its own writing.

    As a delta it ends a thought, whose text is the reasoning before it.
    """

    text: str = ""
    signature: str = ""
    redacted: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class CacheBreakpoint:
    """An end for the provider's own prompt cache, after part number `part`; 0 seconds leave the time to it.

    The tool calls of a message come after its parts.
    """

    part: int = 0
    ttl_s: float = 0.0


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Role
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolUse, ...] = ()
    tool_call_id: str = ""
    thoughts: tuple[Thought, ...] = ()
    cache_breakpoints: tuple[CacheBreakpoint, ...] = ()
    tool_failed: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that the model may call; `parameters` is a JSON Schema."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool | None = None
    cache_breakpoint: CacheBreakpoint | None = None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """Asks for JSON: any object, or one that fits `schema`."""

    name: str = ""
    schema: dict[str, Any] | None = None
    strict: bool = False


class Sampling(NamedTuple):
    """Steers the writing; 0 tokens and None leave the choice to the provider."""

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How much the model thinks first, and whether that is told; 0 tokens leave it to the effort, None to the model.

    A `mode` of None is what the effort says.
    """

    effort: Effort | None = None
    max_tokens: int = 0
    shown: bool | None = None
    mode: Thinking | None = None


class Question(NamedTuple):
    """A whole request for an answer."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_mode: ToolMode = ToolMode.AUTO
    tool_name: str = ""
    response_format: ResponseFormat | None = None
    sampling: Sampling = Sampling()
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    top_logprobs: int | None = None
    priority: Priority = Priority.INTERACTIVE
    prompt_cache_key: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text to append."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Reasoning to append."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of call number `index`; id and name come with the call's first piece."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was, and `alternatives` in its place; `utf8` need not be whole characters."""

    token: str
    logprob: float
    utf8: bytes = b""
    alternatives: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class LogprobsDelta:
    """How likely the next tokens of the text were."""

    tokens: tuple[TokenLogprob, ...]


class Usage(NamedTuple):
    """Tokens that a call consumed; 0 where the provider doesn't tell.

    The cost is in billionths of a US dollar, where the model has a price. Of `input_tokens`, some were read from the
    provider's prompt cache and some written into it; of `output_tokens`,
    some went into thinking.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int = 0


class Finish(NamedTuple):
    """The end, the last delta of every whole answer; `model` is the one that the provider named.

    Who was asked is added to it: the provider, and which of its models as PROVIDER/MODEL.
    """

    reason: FinishReason
    model: str = ""
    provider: str = ""
    deployment: str = ""


Delta = TextDelta | ReasoningDelta | Thought | ToolCallDelta | LogprobsDelta | Usage | Finish

_WRITTEN = (TextDelta, ReasoningDelta)
_SMALL_DELTA_BYTES = 64


def size_of(delta: Delta) -> int:
    """Return roughly how many bytes a delta takes on the wire, never too few for ASCII."""
    if isinstance(delta, _WRITTEN):
        return len(delta.text) + _SMALL_DELTA_BYTES
    if isinstance(delta, ToolCallDelta):
        return len(delta.id) + len(delta.name) + len(delta.arguments) + _SMALL_DELTA_BYTES
    if isinstance(delta, Thought):
        texts = (delta.text, delta.signature, delta.redacted, delta.id)
        return sum(map(len, texts)) + _SMALL_DELTA_BYTES
    if isinstance(delta, LogprobsDelta):
        return sum(map(_size_of_logprob, delta.tokens)) + _SMALL_DELTA_BYTES
    return _SMALL_DELTA_BYTES


def _size_of_logprob(token: TokenLogprob) -> int:
    nested = sum(map(_size_of_logprob, token.alternatives))
    return len(token.token) + len(token.utf8) + nested + _SMALL_DELTA_BYTES


def size_of_text(delta: Delta) -> int:
    """Return how many characters a delta adds to the answer."""
    if isinstance(delta, _WRITTEN):
        return len(delta.text)
    return len(delta.name) + len(delta.arguments) if isinstance(delta, ToolCallDelta) else 0


@dataclass(frozen=True, slots=True)
class EmbedQuestion:
    """Texts to be turned into vectors of `dimensions` numbers, or of the model's own length if 0."""

    model: str
    inputs: tuple[str, ...]
    dimensions: int = 0


@dataclass(frozen=True, slots=True)
class Vectors:
    """A vector for each text, in order."""

    values: list[list[float]]
    usage: Usage
    model: str = ""


@dataclass(frozen=True, slots=True)
class RerankQuestion:
    """Documents to be held against a query."""

    model: str
    query: str
    documents: tuple[str, ...]


class PromptsQuestion(NamedTuple):
    """Texts that a model is to go on with, each by itself."""

    model: str
    prompts: tuple[str, ...]
    sampling: Sampling = Sampling()


@dataclass(frozen=True, slots=True)
class Completion:
    """How a text goes on, and why that ended."""

    text: str
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Batch(Generic[V]):
    """What one call made of several texts, in their order."""

    values: Sequence[V]
    usage: Usage
    model: str = ""


class Ability(Enum):
    """What a model can be asked for."""

    ANSWER = "answers"
    EMBED = "makes vectors"
    RERANK = "orders documents"
    COMPLETE = "goes on with texts"


@dataclass(frozen=True, slots=True)
class Model:
    """A configured model under the id that requests use; `name` is what its provider calls it.

    One that several providers serve, or that stands for others, names them all, parted by commas.
    """

    id: str
    name: str
    provider: str
    is_default: bool
    embeddings: bool
    reranks: bool = False
