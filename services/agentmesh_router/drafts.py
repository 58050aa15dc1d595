"""What a task will be: a caller's spec, checked and written down as storage takes it."""

from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit.clock import Clock
from agentmesh.kit.errors import InvalidRequest
from agentmesh.kit.ids import is_id, new_id
from agentmesh_router import wire
from agentmesh_router.catalog import Catalog
from agentmesh_router.domain import DEFAULT_PRIORITY, MAX_REQUEST_ID, request_hash, violations_of

_MAX_NAMED = 5


class Drafts:
    """Writes drafts; a task that names no time out gets `default_timeout_s`."""

    def __init__(self, catalog: Catalog, clock: Clock, *, default_timeout_s: float) -> None:
        self._catalog = catalog
        self._clock = clock
        self._default_timeout_s = default_timeout_s

    def write(
        self, create: pb.CreateTask, spec: task_pb2.TaskSpec, *, request_id: str = "", traceparent: str = ""
    ) -> None:
        """Fill `create` in; raise InvalidRequest with every field that is wrong, or NotFound for the agent."""
        self._check(spec, request_id)
        body = spec.SerializeToString(deterministic=True)
        create.task_id = new_id()
        create.spec = body
        create.agent = spec.agent
        create.priority = spec.priority or DEFAULT_PRIORITY
        create.traceparent = traceparent
        if request_id:
            create.request_id = request_id
            create.request_hash = request_hash(body)
        if spec.HasField("timeout"):
            create.timeout.CopyFrom(spec.timeout)
        else:
            create.timeout.seconds = int(self._default_timeout_s)
        if spec.HasField("start_time"):
            create.ready_time.CopyFrom(spec.start_time)
        if spec.HasField("queue_timeout"):
            create.queue_timeout.CopyFrom(spec.queue_timeout)
        if spec.context_id:
            create.context_id = spec.context_id
        if spec.labels:
            create.labels.update(spec.labels)

    def _check(self, spec: task_pb2.TaskSpec, request_id: str) -> None:
        violations = violations_of(wire.facts_of(spec, self._clock.now_ms()))
        if len(request_id) > MAX_REQUEST_ID:
            violations.append(("request_id", f"must be at most {MAX_REQUEST_ID} characters"))
        bad = [number for number, artifact_id in enumerate(spec.artifact_ids) if not is_id(artifact_id)]
        violations.extend((f"spec.artifact_ids[{number}]", "is not an id") for number in bad[:_MAX_NAMED])
        violations.extend(wire.data_faults(spec))
        if violations:
            raise InvalidRequest("the task has fields that are wrong", violations=violations)
        self._catalog.check(spec)
