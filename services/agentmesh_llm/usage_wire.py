"""Between the contract's messages about usage and keys, and what the books hold."""

import re
from collections.abc import Iterator, Sequence
from datetime import date

from agentmesh.api.llm.v1 import key_service_pb2, llm_service_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh_llm.books.records import By, Limits, Totals, UsageQuery, UsageSum, VirtualKey
from agentmesh_llm.checks import refuse

_Request = llm_service_pb2.GetUsageRequest
_BY = {
    _Request.BY_TENANT: By.TENANT,
    _Request.BY_KEY: By.KEY,
    _Request.BY_MODEL: By.MODEL,
    _Request.BY_DAY: By.DAY,
    _Request.BY_TASK: By.TASK,
}
_USUAL_LIMIT, _MAX_LIMIT = 1000, 10_000
_MAX_NAME, _MAX_MODELS, _MAX_PATTERN = 256, 100, 512
_MAX_BOUND = 2**62
_BOUNDS = ("budget_day_nano_usd", "budget_month_nano_usd", "requests_per_minute", "tokens_per_minute")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_LINE_BREAK = re.compile(r"[\x00-\x1f\x7f]")


def from_request(request: _Request, tenant: str, *, today: str) -> UsageQuery:
    """Read a query; raise InvalidRequest with the paths of the fields that are wrong."""
    violations = [(f"by[{at}]", "is not known") for at, by in enumerate(request.by) if by not in _BY]
    days = {"from_day": request.from_day or f"{today[:7]}-01", "to_day": request.to_day or today}
    violations += [(name, "must be a day as 2026-11-26") for name, day in days.items() if not _is_day(day)]
    if not violations and days["from_day"] > days["to_day"]:
        violations.append(("from_day", "must not be after to_day"))
    if not 0 <= request.limit <= _MAX_LIMIT:
        violations.append(("limit", f"must be from 0 to {_MAX_LIMIT}"))
    refuse(violations)
    return UsageQuery(
        by=tuple(dict.fromkeys(_BY[by] for by in request.by)),
        from_day=days["from_day"],
        to_day=days["to_day"],
        tenant=tenant,
        key_id=request.key_id,
        model=request.model,
        task_id=request.task_id,
        limit=request.limit or _USUAL_LIMIT,
    )


def to_response(query: UsageQuery, sums: Sequence[UsageSum]) -> llm_service_pb2.GetUsageResponse:
    """Write sums; one more than the query's limit says that there are more."""
    written = [_sum(query, one) for one in sums[: query.limit]]
    return llm_service_pb2.GetUsageResponse(sums=written, more=len(sums) > query.limit)


def limits_of(key: key_service_pb2.VirtualKey, now_s: float) -> Limits:
    """Return a wanted key's limits; raise InvalidRequest if anything about the key is wrong."""
    refuse(list(_faults(key, now_s)))
    return Limits(*(getattr(key, name) for name in _BOUNDS))


def to_key(key: VirtualKey) -> key_service_pb2.VirtualKey:
    """Write a key."""
    limits = key.limits
    written = key_service_pb2.VirtualKey(
        id=key.id,
        tenant=key.tenant,
        name=key.name,
        models=key.models,
        budget_day_nano_usd=limits.budget_day,
        budget_month_nano_usd=limits.budget_month,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        hint=key.hint,
    )
    written.create_time.FromMilliseconds(key.created_ms)
    if key.expires_ms:
        written.expire_time.FromMilliseconds(key.expires_ms)
    if key.revoked_ms:
        written.revoke_time.FromMilliseconds(key.revoked_ms)
    return written


def _sum(query: UsageQuery, one: UsageSum) -> llm_service_pb2.UsageSum:
    of = {by.value: value for by, value in zip(query.by, one.of, strict=True)}
    return llm_service_pb2.UsageSum(**of, requests=one.totals.requests, usage=_usage(one.totals))


def _usage(totals: Totals) -> types_pb2.Usage:
    return types_pb2.Usage(
        input_tokens=totals.input_tokens,
        output_tokens=totals.output_tokens,
        cached_input_tokens=totals.cached_input_tokens,
        llm_calls=totals.calls,
        cache_write_tokens=totals.cache_write_tokens,
        reasoning_tokens=totals.reasoning_tokens,
        cost_nano_usd=totals.cost_nano_usd,
    )


def _faults(key: key_service_pb2.VirtualKey, now_s: float) -> Iterator[tuple[str, str]]:
    if not 1 <= len(key.name) <= _MAX_NAME or _LINE_BREAK.search(key.name):
        yield "key.name", f"must be 1 to {_MAX_NAME} characters on one line"
    if len(key.models) > _MAX_MODELS:
        yield "key.models", f"must be at most {_MAX_MODELS}"
    for at, model in enumerate(key.models):
        if not 1 <= len(model) <= _MAX_PATTERN or _LINE_BREAK.search(model):
            yield f"key.models[{at}]", f"must be 1 to {_MAX_PATTERN} characters on one line"
    for name in _BOUNDS:
        if not 0 <= getattr(key, name) <= _MAX_BOUND:
            yield f"key.{name}", "must not be negative"
    if key.HasField("expire_time") and key.expire_time.ToNanoseconds() <= now_s * 1e9:
        yield "key.expire_time", "must be in the future"


def _is_day(text: str) -> bool:
    if not _DAY.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
