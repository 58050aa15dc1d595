"""One fault for each promise: the smallest change that breaks it, and the test that must say so."""

from dataclasses import dataclass

_DURABILITY = "tests/integration/test_promises_durability.py"
_STEERING = "tests/integration/test_promises_steering.py"
_OVERLOAD = "tests/integration/test_promises_overload.py"
_OUTAGES = "tests/integration/test_promises_outages.py"


@dataclass(frozen=True)
class Planted:
    """In `file`, `old` (which must be there once) becomes `new`; then `test`, as pytest takes it, must fail."""

    promise: str
    what: str
    file: str
    old: str
    new: str
    test: tuple[str, ...]


FAULTS = (
    Planted(
        "R1",
        "PostgreSQL says that something is committed before it is on the disk",
        "services/agentmesh_storage/adapters/postgres/pool.py",
        '    "jit": "off",\n',
        '    "jit": "off",\n    "synchronous_commit": "off",\n',
        (_DURABILITY, "-k", "r1 and postgres"),
    ),
    Planted(
        "R1",
        "a transaction that starts over begins with what its first try left behind",
        "services/agentmesh_storage/ledger.py",
        "        task = change.task.copy()\n",
        "        task = change.task\n",
        ("tests/unit/storage/test_applying_again.py",),
    ),
    Planted(
        "R2",
        "a repeated request_id is not recognised",
        "services/agentmesh_storage/ledger.py",
        "            if twin is not None:\n                if twin.request_hash",
        "            if twin is not None and False:\n                if twin.request_hash",
        (_DURABILITY, "-k", "r2 and sqlite"),
    ),
    Planted(
        "R2",
        "another body under the same request_id is taken for the same request",
        "services/agentmesh_storage/ledger.py",
        "                if twin.request_hash != task.request_hash:\n",
        "                if False:\n",
        (_DURABILITY, "-k", "r2_64 and sqlite"),
    ),
    Planted(
        "R3",
        "a stale attempt may write",
        "services/agentmesh_storage/ledger.py",
        "        if task.attempt != attempt or not task.incarnation or task.state.terminal:\n",
        "        if False:\n",
        ("tests/unit/storage/test_ledger_model.py",),
    ),
    Planted(
        "R4",
        "a reader that comes back in the middle of a chunk gets the whole chunk",
        "services/agentmesh_router/hub.py",
        "            skip = self.next - chunk.first_sequence\n",
        "            skip = 0\n",
        (_DURABILITY, "-k", "r4_any_suffix and sqlite and steps"),
    ),
    Planted(
        "R4",
        "events that were sent again after a lost reply are written again",
        "services/agentmesh_storage/ledger.py",
        "        if task.attempt == change.attempt and end <= task.acked_offset:\n",
        "        if False:\n",
        ("tests/contract/test_task_store.py", "-k", "sqlite"),
    ),
    Planted(
        "R5",
        "a router does not stop what was canceled over another one",
        "services/agentmesh_router/news.py",
        "            elif head.cancel_requested:\n",
        "            elif False:\n",
        (_STEERING, "-k", "r5_a_cancel_over and sqlite"),
    ),
    Planted(
        "R6",
        "what expired while it waited is run all the same",
        "services/agentmesh_storage/ledger.py",
        "        elif task.queue_deadline_ms is not None and task.queue_deadline_ms < self.now_ms:\n",
        "        elif False:\n",
        (_STEERING, "-k", "r6_what_expired and sqlite"),
    ),
    Planted(
        "R7",
        "an answer without its terminal marker is a success",
        "services/agentmesh_llm/adapters/http_provider.py",
        "            raise errors.interrupted()\n",
        "            yield reader.finish()\n",
        (_STEERING, "-k", "r7 and sqlite and no-done"),
    ),
    Planted(
        "R8",
        "everybody asks a provider that is down three times",
        "services/agentmesh_runner/retrying.py",
        "        if self._left < 1:\n            return False\n",
        "",
        (_STEERING, "-k", "r8 and sqlite"),
    ),
    Planted(
        "R9",
        "however many are on their way, one more is taken",
        "services/agentmesh_router/congestion.py",
        "        if committing >= self.limit:\n            return False\n",
        "        return True\n",
        ("tests/unit/router/test_admission.py", "-k", "overload_costs_no_goodput"),
    ),
    Planted(
        "R9",
        "who is refused for load is not told when to come back",
        "services/agentmesh_router/admission.py",
        "reason=names.OVERLOADED, retry_after_s=self._spread(min(hint_s, _LONGEST_HINT_S))\n",
        "reason=names.OVERLOADED\n",
        (_OVERLOAD, "-k", "r9_under and sqlite"),
    ),
    Planted(
        "R10",
        "a tenant's turn at the free slots never ends",
        "services/agentmesh_storage/claims.py",
        "        return left if tenant == last and left > 0 else self._rules.weight_of(tenant)\n",
        "        return 1_000_000\n",
        (_OVERLOAD, "-k", "r10_the_few and sqlite"),
    ),
    Planted(
        "R10",
        "a tenant's rate bounds nothing",
        "services/agentmesh_router/rate_limits.py",
        "        if not grant.tokens:\n            raise",
        "        if False:\n            raise",
        (_OVERLOAD, "-k", "r10_a_tenant and sqlite"),
    ),
    Planted(
        "R11",
        "a database that is gone reaches the caller as a bug of ours",
        "services/agentmesh_storage/adapters/postgres/pool.py",
        '    return Unavailable("the database can\'t be reached", reason="DATABASE_UNAVAILABLE", retry_after_s=1)\n',
        '    return MeshError("the database can\'t be reached")  # type: ignore[return-value]\n',
        (_OUTAGES, "-k", "r11_without_postgresql and killed"),
    ),
    Planted(
        "R12",
        "a frozen peer is not asked whether it still lives",
        "libs/agentmesh/kit/rpc_client.py",
        '    ("grpc.keepalive_time_ms", 8_000),\n',
        "",
        (_OUTAGES, "-k", "r12_a_network and sqlite"),
    ),
    Planted(
        "R13",
        "the shipped client does not repeat what is safe to repeat",
        "libs/agentmesh/client/repeating.py",
        "    return isinstance(error, Unavailable) or (\n",
        "    return isinstance(error, Unavailable) and False or (\n",
        ("tests/chaos/test_chaos.py", "-k", "r13"),
    ),
    Planted(
        "R14",
        "the key of a model call names the attempt",
        "libs/agentmesh/sdk/context.py",
        '            request.idempotency_key = f"{self.task_id}/{step.key}"\n',
        '            request.idempotency_key = f"{self.task_id}/{self.attempt}/{step.key}"\n',
        (_STEERING, "-k", "r14_a_call and sqlite and runner"),
    ),
    Planted(
        "S3",
        "an answer is cached under a digest without the tenant",
        "services/agentmesh_llm/answers/cache_keys.py",
        "    for part in (_VERSION, kind, tenant.encode(), model.provider.encode(), model.name.encode(), *parts):\n",
        "    for part in (_VERSION, kind, model.provider.encode(), model.name.encode(), *parts):\n",
        ("tests/unit/llm/test_cache_keys.py", "-k", "never_meet"),
    ),
    Planted(
        "S12",
        "what running calls may still cost is not set aside",
        "services/agentmesh_llm/books/budgets.py",
        "        running = self._set_aside.get(holder, 0) + cost\n",
        "        running = cost\n",
        ("tests/contract/test_llm_money.py", "-k", "calls_at_once"),
    ),
    Planted(
        "S12",
        "a key that was revoked is still good",
        "services/agentmesh_llm/books/records.py",
        "        return not self.revoked_ms and not (self.expires_ms and now_ms >= self.expires_ms)\n",
        "        return not (self.expires_ms and now_ms >= self.expires_ms)\n",
        ("tests/contract/test_gateway_keys.py", "-k", "revoked"),
    ),
)
