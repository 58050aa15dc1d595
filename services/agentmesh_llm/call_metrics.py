"""Counts each call to a provider. Labels come from the configuration and from fixed lists, never from a request."""

from prometheus_client import Histogram

from agentmesh.kit import names, telemetry
from agentmesh.kit import semantic_names as semantic
from agentmesh_llm.books.records import NANO
from agentmesh_llm.calls import CallRecord

_PLACE = ("provider", "model")
_CALL = tuple(map(semantic.label, (semantic.OPERATION_NAME, semantic.PROVIDER_NAME, semantic.REQUEST_MODEL)))

_calls = telemetry.counter(names.LLM_CALLS_TOTAL, "Calls to model providers", (*_PLACE, "status"))
_tokens = telemetry.counter(names.LLM_TOKENS_TOTAL, "Tokens that calls consumed", (*_PLACE, "kind"))
_cost = telemetry.counter(names.LLM_COST_TOTAL, "What calls cost in US dollars", _PLACE)
_duration = Histogram(
    semantic.OPERATION_DURATION,
    "How long calls to model providers took",
    (*_CALL, semantic.label(semantic.ERROR_TYPE)),
    buckets=semantic.DURATION_BUCKETS,
)
_first_word = Histogram(
    semantic.TIME_TO_FIRST_CHUNK,
    "How long providers took to begin to answer",
    _CALL,
    buckets=semantic.FIRST_CHUNK_BUCKETS,
)
_usage = Histogram(
    semantic.TOKEN_USAGE,
    "Tokens of a call",
    (*_CALL, semantic.label(semantic.TOKEN_TYPE)),
    buckets=semantic.TOKEN_BUCKETS,
)


def count(record: CallRecord) -> None:
    """Count a call that has ended."""
    place = (record.provider, record.model)
    call = (record.operation, *place)
    _calls.labels(*place, record.status).inc()
    _duration.labels(*call, "" if record.status == "success" else record.status).observe(record.duration_s)
    if record.first_word_s is not None:
        _first_word.labels(*call).observe(record.first_word_s)
    _count_tokens(record, place, call)
    if record.usage.cost_nano_usd:
        _cost.labels(*place).inc(record.usage.cost_nano_usd / NANO)


def _count_tokens(record: CallRecord, place: tuple[str, str], call: tuple[str, str, str]) -> None:
    usage = record.usage
    suffix = "_estimated" if record.estimated else ""
    for kind, tokens in (
        ("input", usage.input_tokens),
        ("output", usage.output_tokens),
        ("cached_input", usage.cached_input_tokens),
        ("cache_write", usage.cache_write_tokens),
        ("reasoning", usage.reasoning_tokens),
    ):
        if tokens > 0:
            _tokens.labels(*place, kind + suffix).inc(tokens)
    for kind, tokens in ((semantic.INPUT, usage.input_tokens), (semantic.OUTPUT, usage.output_tokens)):
        if tokens > 0:
            _usage.labels(*call, kind).observe(tokens)
