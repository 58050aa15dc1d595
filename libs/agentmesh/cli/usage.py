"""`agentmesh usage`: what was asked of models, and what it cost."""

from pathlib import Path
from typing import Any

import click

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.cli import failures
from agentmesh.cli.operating import Proxy, operate, operator_options
from agentmesh.cli.output import note, print_json, print_table
from agentmesh.kit.usages import NANO

_BY = {
    "tenant": pb.GetUsageRequest.BY_TENANT,
    "key": pb.GetUsageRequest.BY_KEY,
    "model": pb.GetUsageRequest.BY_MODEL,
    "day": pb.GetUsageRequest.BY_DAY,
    "task": pb.GetUsageRequest.BY_TASK,
}
_FIELDS = {"tenant": "tenant", "key": "key_id", "model": "model", "day": "day", "task": "task_id"}
_DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--by", multiple=True, type=click.Choice(list(_BY)), help="Give it more than once for finer sums; model.")
@click.option("--from", "from_day", type=_DAY, help="The first day, UTC; the first of this month.")
@click.option("--to", "to_day", type=_DAY, help="The last day, UTC; today.")
@click.option("--key", "key_id", default="", help="Only this virtual key's.")
@click.option("--model", default="", help="Only this model's, as PROVIDER/MODEL.")
@click.option("--task", "task_id", default="", help="Only this task's.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="The costliest first.")
@operator_options
@failures.reported
def usage(
    by: tuple[str, ...],
    from_day: Any,
    to_day: Any,
    key_id: str,
    model: str,
    task_id: str,
    limit: int,
    tenant: str,
    config_file: Path | None,
    data_dir: Path | None,
    first_port: int | None,
    as_json: bool,
) -> None:
    """Add up requests, tokens and cost.

    For example: agentmesh usage --by tenant --by model --from 2026-11-01
    """
    by = tuple(dict.fromkeys(by)) or ("model",)
    request = pb.GetUsageRequest(
        by=[_BY[one] for one in by],
        from_day=_text(from_day),
        to_day=_text(to_day),
        key_id=key_id,
        model=model,
        task_id=task_id,
        limit=limit,
    )

    async def look(proxy: Proxy) -> Any:
        return await proxy.call(proxy.models.GetUsage, request)

    found = operate(config_file, data_dir, first_port, tenant, look)
    if as_json:
        print_json(found)
        return
    head = (*(one.upper() for one in by), "REQUESTS", "CALLS", "TOKENS IN", "CACHED", "TOKENS OUT", "USD")
    print_table(head, [(*(getattr(one, _FIELDS[name]) or "-" for name in by), *_counts(one)) for one in found.sums])
    if not found.sums:
        note("nothing was used in that time")
    if found.more:
        note(f"there is more than these {limit}: use --limit")


def _counts(one: pb.UsageSum) -> tuple[str, ...]:
    used = one.usage
    return (
        str(one.requests),
        str(used.llm_calls),
        str(used.input_tokens),
        str(used.cached_input_tokens),
        str(used.output_tokens),
        f"{used.cost_nano_usd / NANO:.6f}",
    )


def _text(day: Any) -> str:
    return "" if day is None else f"{day:%Y-%m-%d}"
