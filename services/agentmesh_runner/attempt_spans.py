"""Makes spans of attempts, and of the tools and steps that they ran."""

import time
from collections.abc import Iterable, Mapping

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.api.task.v1 import events_pb2
from agentmesh.kit import semantic_names as semantic
from agentmesh.kit import trace_context
from agentmesh.kit.errors import from_status
from agentmesh.kit.tracing import Span, Tracer, Value

_LOST = "lost"


class AttemptSpan:
    """The span of one attempt that runs; what it does is done under `context`.

    Its id can be told from the task and the attempt's number, so that the next attempt is linked with it.
    """

    def __init__(self, tracer: Tracer, assignment: pb.Assignment) -> None:
        self._tracer = tracer
        self._assignment = assignment
        self._span_id = trace_context.attempt_span_id(assignment.task_id, assignment.attempt)
        self._began_ns = time.time_ns()
        self.context = trace_context.child_context(assignment.traceparent, self._span_id)

    def said(self, events: Iterable[events_pb2.TaskEvent]) -> None:
        """Record the tools and steps whose ends are among these events."""
        now_ns = time.time_ns()
        for event in events:
            done = event.step_completed
            if done.kind == "tool":
                attributes = {semantic.OPERATION_NAME: semantic.EXECUTE_TOOL, semantic.TOOL_NAME: done.name}
                self._done(f"{semantic.EXECUTE_TOOL} {done.name}", done, now_ns, attributes)
            elif done.kind == "step":
                self._done(f"step {done.name}", done, now_ns, {})

    def end(self, outcome: pb.Outcome | None) -> None:
        """Record the attempt; without an outcome it was lost to another runner."""
        assignment = self._assignment
        status = (outcome.WhichOneof("kind") or "failed") if outcome is not None else _LOST
        attributes: dict[str, Value] = {
            semantic.OPERATION_NAME: semantic.INVOKE_AGENT,
            semantic.AGENT_NAME: assignment.spec.agent,
            semantic.TENANT: assignment.tenant,
            semantic.TASK_ID: assignment.task_id,
            semantic.ATTEMPT: assignment.attempt,
            semantic.STATUS: status,
        }
        if assignment.spec.context_id:
            attributes[semantic.CONVERSATION_ID] = assignment.spec.context_id
        if outcome is not None and status in ("failed", "rejected"):
            attributes[semantic.ERROR_TYPE] = from_status(getattr(outcome, status)).reason
        links = []
        if assignment.attempt > 1:
            before = trace_context.attempt_span_id(assignment.task_id, assignment.attempt - 1)
            links.append(trace_context.child_context(assignment.traceparent, before))
        self._tracer.record(
            Span(
                f"{semantic.INVOKE_AGENT} {assignment.spec.agent}",
                parent=assignment.traceparent,
                span_id=self._span_id,
                start_ns=self._began_ns,
                end_ns=time.time_ns(),
                attributes=attributes,
                failed=status in ("failed", "rejected", _LOST),
                links=links,
            )
        )

    def _done(self, name: str, done: events_pb2.StepCompleted, now_ns: int, attributes: Mapping[str, Value]) -> None:
        self._tracer.record(
            Span(
                name,
                parent=self.context,
                span_id=trace_context.new_span_id(),
                start_ns=now_ns - done.elapsed.ToNanoseconds(),
                end_ns=now_ns,
                attributes={**attributes, semantic.STEP: done.key, semantic.TASK_ID: self._assignment.task_id},
            )
        )


def open_span(tracer: Tracer | None, assignment: pb.Assignment) -> AttemptSpan | None:
    """Return the span of an attempt that begins; None if its trace is not recorded."""
    if tracer is None or not tracer.wants(assignment.traceparent):
        return None
    return AttemptSpan(tracer, assignment)
