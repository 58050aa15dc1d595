"""What deployment files must agree with and code says."""

from agentmesh.api.artifact.v1 import artifact_service_pb2
from agentmesh.api.schedule.v1 import schedule_service_pb2
from agentmesh.api.task.v1 import task_service_pb2

PUBLIC_SERVICES = {
    file.services_by_name[name].full_name
    for file, name in (
        (task_service_pb2.DESCRIPTOR, "TaskService"),
        (artifact_service_pb2.DESCRIPTOR, "ArtifactService"),
        (schedule_service_pb2.DESCRIPTOR, "ScheduleService"),
    )
}
"""Those of the router that clients call."""
