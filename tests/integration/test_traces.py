"""One trace from a client through every service to the provider, as a collector gets it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from agentmesh.client import AsyncClient
from agentmesh.kit.trace_context import attempt_span_id
from tests.support import agents_for_tests
from tests.support.fake_collector import FakeCollector, attributes_of
from tests.support.mesh import Mesh

ROUTER, LLM = "agentmesh.api.task.v1.TaskService", "agentmesh.api.llm.v1.LlmService"
CLIENT = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=False, trace_flags=TraceFlags(1))
TRACEPARENT = f"00-{CLIENT.trace_id:032x}-{CLIENT.span_id:016x}-01"


@dataclass
class Traced:
    """A mesh and the collector that all of its services send spans to."""

    mesh: Mesh
    collector: FakeCollector

    async def spans(self, *names: str) -> list[Span]:
        """Return the spans once there is one of each of these names."""

        def all_there(spans: Sequence[Span]) -> bool:
            return set(names) <= {span.name for span in spans}

        return list(await self.collector.wait_until(all_there))


@pytest.fixture
async def traced(tmp_path: Path) -> AsyncIterator[Traced]:
    async with FakeCollector() as collector:
        environment = {
            "AGENTMESH_MONITORING__TRACING": "true",
            "AGENTMESH_MONITORING__OTLP_ENDPOINT": collector.endpoint,
            "AGENTMESH_TASKS__INITIAL_BACKOFF_S": "0.05",
        }
        agents = ["--agents", str(agents_for_tests.__file__)]
        mesh = Mesh(tmp_path / "data", environment=environment, arguments=agents)
        await asyncio.to_thread(mesh.start)
        yield Traced(mesh, collector)
        await asyncio.to_thread(mesh.close)


def tree(spans: Sequence[Span]) -> Callable[[str], str]:
    """Return what tells the name of the span that a span of this name is under."""
    by_id = {span.span_id: span for span in spans}

    def parent_of(name: str) -> str:
        [span] = [span for span in spans if span.name == name]
        if span.parent_span_id.hex() == f"{CLIENT.span_id:016x}":
            return "client"
        return by_id[span.parent_span_id].name

    return parent_of


async def test_one_trace_leads_from_the_client_through_every_service_to_the_provider(traced: Traced) -> None:
    async with AsyncClient(traced.mesh.router) as client:
        with trace.use_span(NonRecordingSpan(CLIENT)):
            result = await client.run("traveller", "go")
    assert result.text.endswith("from below")

    names = {
        f"{ROUTER}/StreamTask": ("client", "router"),
        "invoke_agent traveller": (f"{ROUTER}/StreamTask", "runner"),
        "execute_tool add": ("invoke_agent traveller", "runner"),
        "step pid": ("invoke_agent traveller", "runner"),
        f"{LLM}/StreamGenerate": ("invoke_agent traveller", "llm"),
        "chat offline": (f"{LLM}/StreamGenerate", "llm"),
        "invoke_agent echo": ("invoke_agent traveller", "runner"),
    }
    await traced.collector.wait_until(lambda spans: sum(s.name == "commit append_events" for s in spans) == 2)
    spans = await traced.spans(*names)
    assert {span.trace_id.hex() for span in spans} == {f"{CLIENT.trace_id:032x}"}
    parent_of = tree(spans)
    services = {span.name: traced.collector.services[span.span_id] for span in spans}
    assert {name: (parent_of(name), services[name]) for name in names} == names
    by_id = {span.span_id: span.name for span in spans}
    commits = [(span.name, by_id[span.parent_span_id]) for span in spans if services[span.name] == "storage"]
    assert sorted(commits) == [
        ("commit append_events", "invoke_agent echo"),
        ("commit append_events", "invoke_agent traveller"),
        ("commit create_task", f"{ROUTER}/StreamTask"),
    ]
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    [agent] = [attributes_of(span) for span in spans if span.name == "invoke_agent traveller"]
    assert (agent["gen_ai.operation.name"], agent["gen_ai.agent.name"]) == ("invoke_agent", "traveller")
    assert (agent["agentmesh.task.id"], agent["agentmesh.status"]) == (result.task_id, "completed")


async def test_the_gateway_passes_a_trace_on_or_begins_one(traced: Traced) -> None:
    body = {"model": "offline", "messages": [{"role": "user", "content": "Rivers carry water."}]}
    async with httpx.AsyncClient(base_url=f"http://{traced.mesh.address('gateway')}", timeout=10) as http:
        await http.post("/v1/chat/completions", json=body, headers={"traceparent": TRACEPARENT})
        await http.post("/v1/tasks", json={"spec": {"agent": "echo", "prompt": "x"}})
        assert (await http.get("/health/detailed")).status_code == 200
    requests = ("POST /v1/chat/completions", "POST /v1/tasks", f"{ROUTER}/SubmitTask", f"{LLM}/Generate")
    spans = await traced.spans(*requests, "chat offline", "invoke_agent echo")
    parent_of = tree(spans)
    assert parent_of("POST /v1/chat/completions") == "client"
    assert parent_of("chat offline") == f"{LLM}/Generate"
    assert parent_of(f"{LLM}/Generate") == "POST /v1/chat/completions"
    [begun] = [span for span in spans if span.name == "POST /v1/tasks"]
    assert not begun.parent_span_id
    assert parent_of(f"{ROUTER}/SubmitTask") == "POST /v1/tasks"
    assert parent_of("invoke_agent echo") == f"{ROUTER}/SubmitTask"
    assert attributes_of(begun)["http.response.status_code"] == 200
    assert not [span.name for span in spans if "health" in span.name.lower()]


async def test_an_attempt_is_linked_with_the_one_before_it(traced: Traced) -> None:
    async with AsyncClient(traced.mesh.router) as client:
        result = await client.run("journalist", "write")

    def both(spans: Sequence[Span]) -> bool:
        return sum(span.name == "invoke_agent journalist" for span in spans) == 2

    spans = [span for span in await traced.collector.wait_until(both) if span.name == "invoke_agent journalist"]
    first, second = sorted(spans, key=lambda span: attributes_of(span)["agentmesh.attempt"])
    assert first.span_id.hex() == attempt_span_id(result.task_id, 1)
    assert first.parent_span_id == second.parent_span_id
    assert not first.links
    assert [(link.trace_id, link.span_id) for link in second.links] == [(first.trace_id, first.span_id)]
    assert attributes_of(first)["error.type"] == "AGAIN"
    tools = [span for span in traced.collector.spans if span.name == "execute_tool add"]
    assert [span.parent_span_id for span in tools] == [first.span_id]  # the second attempt found it in its journal


async def test_a_task_that_is_tried_again_is_linked_with_the_old_one(traced: Traced) -> None:
    async with AsyncClient(traced.mesh.router) as client:
        old = await client.run("echo", "first")
        assert old.task_id
        new = await client.retry(old.task_id)
    spans = await traced.spans(f"{ROUTER}/RetryTask")
    [retried] = [span for span in spans if span.name == f"{ROUTER}/RetryTask"]
    [link] = retried.links
    assert link.span_id.hex() == attempt_span_id(old.task_id, 1)
    assert link.trace_id != retried.trace_id
    assert new.retry_of == old.task_id


async def test_spans_of_what_is_cancelled_end(traced: Traced) -> None:
    async with AsyncClient(traced.mesh.router) as client:
        task = await client.submit("echo", "late", parameters={"delay_ms": 60_000})
        watching = asyncio.create_task(_read(client, task.id))
        await asyncio.sleep(0.3)
        watching.cancel()
        await client.cancel(task.id)
    spans = await traced.spans(f"{ROUTER}/WatchTask", "invoke_agent echo")
    ended: dict[str, dict[str, Any]] = {span.name: attributes_of(span) for span in spans}
    assert ended[f"{ROUTER}/WatchTask"]["rpc.response.status_code"] == "CANCELLED"
    assert ended["invoke_agent echo"]["agentmesh.status"] == "canceled"


async def _read(client: AsyncClient, task_id: str) -> None:
    async for _ in client.watch(task_id):
        pass
