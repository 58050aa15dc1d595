"""`agentmesh keys`: virtual keys, which let clients of the HTTP routes ask for models within limits of their own."""

import time
from pathlib import Path
from typing import Any

import click
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.api.llm.v1 import key_service_pb2 as pb
from agentmesh.cli import failures
from agentmesh.cli.operating import Proxy, operate, operator_options
from agentmesh.cli.output import note, print_json, print_table, shortened, time_text
from agentmesh.cli.times import DurationType
from agentmesh.kit.usages import NANO

_USD = click.FloatRange(0, 1_000_000_000)
_PER_MINUTE = click.IntRange(0, 1_000_000_000)


@click.group()
def keys() -> None:
    """Hand out keys for models: create, list, revoke.

    Run it where the mesh runs, with the same --config and --data-dir: it proves itself with the mesh's secret.
    """


@keys.command()
@click.argument("name")
@click.option("--models", default="", help='Models that it may ask, separated by commas, as "gpt-*,fast"; all.')
@click.option("--budget-day", type=_USD, default=0.0, help="US dollars a day, UTC; no bound.")
@click.option("--budget-month", type=_USD, default=0.0, help="US dollars a calendar month, UTC; no bound.")
@click.option("--requests-per-minute", type=_PER_MINUTE, default=0, help="No bound unless given.")
@click.option("--tokens-per-minute", type=_PER_MINUTE, default=0, help="Input and output; no bound unless given.")
@click.option("--expires-in", "expires_s", type=DurationType(), help="When it ends: 12h, 30d; never.")
@operator_options
@failures.reported
def create(
    name: str,
    models: str,
    budget_day: float,
    budget_month: float,
    requests_per_minute: int,
    tokens_per_minute: int,
    expires_s: float | None,
    tenant: str,
    config_file: Path | None,
    data_dir: Path | None,
    first_port: int | None,
    as_json: bool,
) -> None:
    """Make a key called NAME for --tenant (default), and print it: it is told this once and never again.

    For example: agentmesh keys create laptop --models "gpt-*" --budget-month 20 --requests-per-minute 60
    """
    key = pb.VirtualKey(
        name=name,
        models=[model.strip() for model in models.split(",") if model.strip()],
        budget_day_nano_usd=round(budget_day * NANO),
        budget_month_nano_usd=round(budget_month * NANO),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        expire_time=None if expires_s is None else _moment(time.time() + expires_s),
    )

    async def make(proxy: Proxy) -> Any:
        return await proxy.call(proxy.keys.CreateKey, pb.CreateKeyRequest(key=key))

    made = operate(config_file, data_dir, first_port, tenant, make)
    if as_json:
        print_json(made)
        return
    print(made.secret)
    note(f"{made.key.id} of tenant {made.key.tenant}; clients show it as their API key. It is not told again.")


@keys.command("list")
@click.option("--all", "every", is_flag=True, help="Also keys that were revoked or are over.")
@operator_options
@failures.reported
def list_(
    every: bool, tenant: str, config_file: Path | None, data_dir: Path | None, first_port: int | None, as_json: bool
) -> None:
    """List keys, newest first."""

    async def look(proxy: Proxy) -> Any:
        return await proxy.call(proxy.keys.ListKeys, pb.ListKeysRequest(all=every))

    found = operate(config_file, data_dir, first_port, tenant, look)
    if as_json:
        print_json(found)
        return
    rows = list(map(_row, found.keys))
    print_table(("KEY", "BEGINS", "TENANT", "NAME", "MODELS", "LIMITS", "ENDS"), rows)
    if not rows:
        note("none yet; make one with: agentmesh keys create NAME")


@keys.command()
@click.argument("key_id")
@operator_options
@failures.reported
def revoke(
    key_id: str, tenant: str, config_file: Path | None, data_dir: Path | None, first_port: int | None, as_json: bool
) -> None:
    """End a key by its id; clients that show it are refused within seconds."""

    async def end(proxy: Proxy) -> Any:
        return await proxy.call(proxy.keys.RevokeKey, pb.RevokeKeyRequest(id=key_id))

    ended = operate(config_file, data_dir, first_port, tenant, end)
    if as_json:
        print_json(ended)
    else:
        print(f"{ended.key.id} revoked")


def _moment(seconds: float) -> Timestamp:
    moment = Timestamp()
    moment.FromMilliseconds(int(seconds * 1000))
    return moment


def _row(key: pb.VirtualKey) -> tuple[str, ...]:
    models = ",".join(key.models) or "all"
    return key.id, f"{key.hint}...", key.tenant, shortened(key.name)[:30], models, _limits(key), _end(key)


def _limits(key: pb.VirtualKey) -> str:
    said = [
        f"${key.budget_day_nano_usd / NANO:g}/day" if key.budget_day_nano_usd else "",
        f"${key.budget_month_nano_usd / NANO:g}/month" if key.budget_month_nano_usd else "",
        f"{key.requests_per_minute} requests/min" if key.requests_per_minute else "",
        f"{key.tokens_per_minute} tokens/min" if key.tokens_per_minute else "",
    ]
    return ", ".join(filter(None, said)) or "none"


def _end(key: pb.VirtualKey) -> str:
    if key.HasField("revoke_time"):
        return f"revoked {time_text(key.revoke_time)}"
    return time_text(key.expire_time) or "never"
