"""The route table, read from the google.api.http annotations of the contract and written down nowhere else."""

from collections.abc import Iterable
from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from agentmesh.api.artifact.v1 import artifact_service_pb2
from agentmesh.api.schedule.v1 import schedule_service_pb2
from agentmesh.api.task.v1 import task_service_pb2
from agentmesh_gateway import problems
from agentmesh_gateway.path_templates import PathTemplate, compile_template

SERVICES: tuple[ServiceDescriptor, ...] = (
    task_service_pb2.DESCRIPTOR.services_by_name["TaskService"],
    artifact_service_pb2.DESCRIPTOR.services_by_name["ArtifactService"],
    schedule_service_pb2.DESCRIPTOR.services_by_name["ScheduleService"],
)

_FIELDLESS = frozenset({"GET", "DELETE"})


@dataclass(frozen=True, slots=True)
class Route:
    """One way to call one method over HTTP.

    `body` is `*` (the body is the request), the name of the field that it is, or empty; `response_body` names
    the field of the response that is sent instead of the whole.
    """

    http_method: str
    template: PathTemplate
    method: MethodDescriptor
    body: str
    response_body: str


class RouteTable:
    """Finds the route of a request; the most literal template that matches wins."""

    def __init__(self, services: Iterable[ServiceDescriptor] = SERVICES) -> None:
        self.routes: tuple[Route, ...] = tuple(
            route for service in services for method in service.methods for route in _routes_of(method)
        )
        by_template: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            same = by_template.setdefault(route.template.text, {})
            if route.http_method in same:
                raise ValueError(f"{route.http_method} {route.template.text} has two methods")
            same[route.http_method] = route
        self._table = sorted(by_template.values(), key=lambda same: next(iter(same.values())).template.specificity)

    def find(self, http_method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """Return the route and the values of its path; raise what becomes 400, 404 or 405."""
        for same in self._table:
            try:
                values = next(iter(same.values())).template.match(raw_path)
            except ValueError:
                raise problems.HttpProblem(400, "the path is not UTF-8", reason="MALFORMED_PATH") from None
            if values is not None:
                route = same.get("GET" if http_method == "HEAD" else http_method)
                if route is None:
                    raise problems.wrong_method(sorted({*same, *(("HEAD",) if "GET" in same else ())}))
                return route, values
        raise problems.no_such_path()


def _routes_of(method: MethodDescriptor) -> Iterable[Route]:
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return
    rule = options.Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        yield _route(method, binding)


def _route(method: MethodDescriptor, rule: http_pb2.HttpRule) -> Route:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        raise ValueError(f"{method.full_name} has an http annotation without a path")
    if kind == "custom":
        http_method, path = rule.custom.kind.upper(), rule.custom.path
    else:
        http_method, path = kind.upper(), getattr(rule, kind)
    if rule.body and http_method in _FIELDLESS:
        raise ValueError(f"{method.full_name}: {http_method} can't have a body")
    return Route(http_method, compile_template(path), method, rule.body, rule.response_body)
