"""Makes a span of what a task's trace has to do with a transaction: one for each change that belongs to a trace."""

import time
from collections.abc import Sequence

from agentmesh.kit import semantic_names as semantic
from agentmesh.kit.errors import MeshError
from agentmesh.kit.trace_context import new_span_id
from agentmesh.kit.tracing import Span, Tracer
from agentmesh_storage.domain import CreateTask, Mutation, Outcome

_CREATE, _APPEND = "commit create_task", "commit append_events"


class CommitSpans:
    """The spans of one store; `system` is its database's name in OpenTelemetry's conventions."""

    def __init__(self, tracer: Tracer, system: str) -> None:
        self._tracer = tracer
        self._system = system

    def record(self, began_ns: int, mutations: Sequence[Mutation], outcomes: Sequence[Outcome | MeshError]) -> None:
        """Record the changes of a transaction that has been committed."""
        ended_ns = time.time_ns()
        for mutation, outcome in zip(mutations, outcomes, strict=True):
            if mutation.traceparent and self._tracer.wants(mutation.traceparent):
                self._tracer.record(self._span(mutation, outcome, len(mutations), began_ns, ended_ns))

    def _span(self, mutation: Mutation, outcome: Outcome | MeshError, size: int, began_ns: int, ended_ns: int) -> Span:
        attributes: dict[str, str | int] = {
            semantic.DB_SYSTEM: self._system,
            semantic.DB_OPERATION: "COMMIT",
            semantic.DB_BATCH_SIZE: size,
            semantic.TENANT: mutation.tenant,
        }
        failed = isinstance(outcome, MeshError)
        if isinstance(outcome, MeshError):
            attributes[semantic.ERROR_TYPE] = outcome.reason
        else:
            attributes[semantic.TASK_ID] = outcome.task_id
        return Span(
            _CREATE if isinstance(mutation.change, CreateTask) else _APPEND,
            parent=mutation.traceparent,
            span_id=new_span_id(),
            start_ns=began_ns,
            end_ns=ended_ns,
            attributes=attributes,
            kind="client",
            failed=failed,
        )
