"""Counts each call to a provider. Labels come from the configuration and from fixed lists, never from a request."""

from functools import lru_cache

from agentmesh.kit import names
from agentmesh.kit import semantic_names as semantic
from agentmesh.kit.tallies import Spreads, Tallies
from agentmesh.kit.usages import NANO
from agentmesh_llm.domain import Usage
from agentmesh_llm.watching.calls import CallRecord

_MAX_SERIES = 4096  # whose labels are remembered
_PLACE = ("provider", "model")
_CALL = tuple(map(semantic.label, (semantic.OPERATION_NAME, semantic.PROVIDER_NAME, semantic.REQUEST_MODEL)))

_calls = Tallies(names.LLM_CALLS_TOTAL, "Calls to model providers", (*_PLACE, "status"))
_tokens = Tallies(names.LLM_TOKENS_TOTAL, "Tokens that calls consumed", (*_PLACE, "kind"))
_cost = Tallies(names.LLM_COST_TOTAL, "What calls cost in US dollars", _PLACE)
_duration = Spreads(
    semantic.OPERATION_DURATION,
    "How long calls to model providers took",
    (*_CALL, semantic.label(semantic.ERROR_TYPE)),
    semantic.DURATION_BUCKETS,
)
_first_word = Spreads(
    semantic.TIME_TO_FIRST_CHUNK,
    "How long providers took to begin to answer",
    _CALL,
    semantic.FIRST_CHUNK_BUCKETS,
)
_usage = Spreads(
    semantic.TOKEN_USAGE,
    "Tokens of a call",
    (*_CALL, semantic.label(semantic.TOKEN_TYPE)),
    semantic.TOKEN_BUCKETS,
)


class _Series:
    """What is counted of one model at one provider, and is shown as 0 until there is something to count."""

    def __init__(self, operation: str, provider: str, model: str) -> None:
        self._place = (provider, model)
        self._call = (operation, provider, model)
        self._first_word = _first_word.labels(*self._call)
        self._input = _usage.labels(*self._call, semantic.INPUT)
        self._output = _usage.labels(*self._call, semantic.OUTPUT)
        self._cost = _cost.labels(*self._place)

    def count(self, record: CallRecord) -> None:
        status = record.status
        _calls.labels(*self._place, status).inc()
        _duration.labels(*self._call, "" if status == "success" else status).observe(record.duration_s)
        if record.first_word_s is not None:
            self._first_word.observe(record.first_word_s)
        self._count_usage(record.usage, "_estimated" if record.estimated else "")

    def _count_usage(self, usage: Usage, suffix: str) -> None:
        for kind, tokens in (
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("cached_input", usage.cached_input_tokens),
            ("cache_write", usage.cache_write_tokens),
            ("reasoning", usage.reasoning_tokens),
        ):
            if tokens > 0:
                _tokens.labels(*self._place, kind + suffix).inc(tokens)
        if usage.input_tokens > 0:
            self._input.observe(usage.input_tokens)
        if usage.output_tokens > 0:
            self._output.observe(usage.output_tokens)
        if usage.cost_nano_usd:
            self._cost.inc(usage.cost_nano_usd / NANO)


_series = lru_cache(_MAX_SERIES)(_Series)


def count(record: CallRecord) -> None:
    """Count a call that has ended."""
    _series(record.operation, record.provider, record.model).count(record)
