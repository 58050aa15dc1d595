"""The handlers of ScheduleService."""

from collections.abc import Iterable

from agentmesh.api.schedule.v1 import schedule_service_pb2 as pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as storage_pb
from agentmesh.kit.clock import Clock, to_ms
from agentmesh.kit.errors import InvalidRequest, NotFound
from agentmesh.kit.ids import is_id, new_id
from agentmesh.kit.rpc_server import Call
from agentmesh_router.domain import MAX_REQUEST_ID, Violations, request_hash
from agentmesh_router.grpc_api import check_page_size
from agentmesh_router.schedule_rules import DEFAULT_CATCH_UP_MS, MAX_RUN_REQUEST_ID, ScheduleFacts, violations_of
from agentmesh_router.service import TaskEngine


class ScheduleApi:
    """Answers clients; storage does the firing."""

    def __init__(self, engine: TaskEngine, clock: Clock) -> None:
        self._engine = engine
        self._storage = engine.storage
        self._clock = clock

    async def create_schedule(self, request: pb.CreateScheduleRequest, call: Call) -> pb.CreateScheduleResponse:
        """Make a schedule, or return the one that this request_id made."""
        self._engine.check_open()
        create = self._described(request)
        result = await self._storage.commit(storage_pb.Mutation(tenant=call.tenant, create_schedule=create))
        return pb.CreateScheduleResponse(schedule=result.schedule)

    async def get_schedule(self, request: pb.GetScheduleRequest, call: Call) -> pb.GetScheduleResponse:
        """Return a schedule."""
        schedule = await self._storage.get_schedule(call.tenant, _known(request.schedule_id))
        return pb.GetScheduleResponse(schedule=schedule)

    async def list_schedules(self, request: pb.ListSchedulesRequest, call: Call) -> pb.ListSchedulesResponse:
        """Return a page of schedules."""
        check_page_size(request.page_size)
        if request.page_token and not is_id(request.page_token):
            raise InvalidRequest("a field is wrong", violations=[("page_token", "is not from the page before")])
        return await self._storage.list_schedules(call.tenant, request)

    async def delete_schedule(self, request: pb.DeleteScheduleRequest, call: Call) -> pb.DeleteScheduleResponse:
        """End a schedule."""
        change = storage_pb.DeleteSchedule(schedule_id=_known(request.schedule_id))
        await self._storage.commit(storage_pb.Mutation(tenant=call.tenant, delete_schedule=change))
        return pb.DeleteScheduleResponse()

    async def pause_schedule(self, request: pb.PauseScheduleRequest, call: Call) -> pb.PauseScheduleResponse:
        """Pause a schedule, or let it go on."""
        change = storage_pb.PauseSchedule(schedule_id=_known(request.schedule_id), resume=request.resume)
        result = await self._storage.commit(storage_pb.Mutation(tenant=call.tenant, pause_schedule=change))
        return pb.PauseScheduleResponse(schedule=result.schedule)

    async def run_schedule_now(self, request: pb.RunScheduleNowRequest, call: Call) -> pb.RunScheduleNowResponse:
        """Make a schedule's task now."""
        self._engine.check_open()
        if len(request.request_id) > MAX_RUN_REQUEST_ID:
            fault = f"must be at most {MAX_RUN_REQUEST_ID} characters"
            raise InvalidRequest("a field is wrong", violations=[("request_id", fault)])
        change = storage_pb.FireSchedule(
            schedule_id=_known(request.schedule_id), task_id=new_id(), request_id=request.request_id
        )
        result = await self._storage.commit(storage_pb.Mutation(tenant=call.tenant, fire_schedule=change))
        return pb.RunScheduleNowResponse(task=result.task)

    def _described(self, request: pb.CreateScheduleRequest) -> storage_pb.CreateSchedule:
        """Check a request and return what storage keeps of it; raise InvalidRequest with every field that is wrong."""
        spec = request.spec
        violations = violations_of(facts_of(spec), self._clock.now_ms())
        if len(request.request_id) > MAX_REQUEST_ID:
            violations.append(("request_id", f"must be at most {MAX_REQUEST_ID} characters"))
        reason = ""
        task = storage_pb.CreateTask()
        try:
            task = self._engine.describe(spec.task)
        except InvalidRequest as error:
            reason = "" if violations else error.reason
            violations += _of_task(error.violations)
        if violations:
            raise InvalidRequest("the schedule has fields that are wrong", reason=reason, violations=violations)
        task.task_id = ""
        body = spec.SerializeToString(deterministic=True)
        create = storage_pb.CreateSchedule(
            schedule_id=new_id(),
            request_id=request.request_id,
            request_hash=request_hash(body) if request.request_id else b"",
            spec=body,
            task=task,
            cron=spec.cron,
            time_zone=spec.time_zone,
            overlap=spec.overlap,
        )
        create.catch_up.FromMilliseconds(to_ms(spec.catch_up) if spec.HasField("catch_up") else DEFAULT_CATCH_UP_MS)
        if spec.HasField("interval"):
            create.interval.CopyFrom(spec.interval)
        if spec.HasField("start_time"):
            create.start_time.CopyFrom(spec.start_time)
        if spec.HasField("end_time"):
            create.end_time.CopyFrom(spec.end_time)
        return create


def facts_of(spec: pb.ScheduleSpec) -> ScheduleFacts:
    """Read what validation looks at."""
    return ScheduleFacts(
        name=spec.name,
        cron=spec.cron if spec.HasField("cron") else None,
        interval_ms=to_ms(spec.interval) if spec.HasField("interval") else None,
        time_zone=spec.time_zone,
        overlap=spec.overlap,
        catch_up_ms=to_ms(spec.catch_up) if spec.HasField("catch_up") else None,
        start_ms=to_ms(spec.start_time) if spec.HasField("start_time") else None,
        end_ms=to_ms(spec.end_time) if spec.HasField("end_time") else None,
        task_has_start=spec.task.HasField("start_time"),
    )


def _of_task(violations: Iterable[tuple[str, str]]) -> Violations:
    """Name the fields of a task as those of the schedule that makes it; its start is spoken of already."""
    renamed = [(f"spec.task{field.removeprefix('spec')}", text) for field, text in violations]
    return [(field, text) for field, text in renamed if field != "spec.task.start_time"]


def _known(schedule_id: str) -> str:
    if not is_id(schedule_id):
        raise NotFound("there is no such schedule", reason="SCHEDULE_NOT_FOUND")
    return schedule_id
