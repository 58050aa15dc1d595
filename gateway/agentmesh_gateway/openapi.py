"""The gateway's OpenAPI document, made from the same descriptors that the routes are read from."""

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.rpc import status_pb2

from agentmesh import __version__
from agentmesh.api.task.v1 import events_pb2
from agentmesh_gateway import problems, sse
from agentmesh_gateway.artifacts import READ_ARTIFACT, UPLOAD_ARTIFACT
from agentmesh_gateway.callers import TIMEOUT_HEADER
from agentmesh_gateway.json_faults import is_map, is_well_known
from agentmesh_gateway.model_documents import model_paths
from agentmesh_gateway.routes import Route, RouteTable
from agentmesh_gateway.schemas import Schemas

_PAGES = {
    "/health": "The process answers.",
    "/health/ready": "Requests can be served; 503 if not.",
    "/health/detailed": "Each service with its status and latency; 503 unless all serve.",
    "/metrics": "Prometheus metrics.",
}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_MAX_QUERY_DEPTH = 2


def document(table: RouteTable, *, models: bool = True) -> dict[str, Any]:
    """Return the document as JSON values; with `models`, the routes of the llm-proxy are in it."""
    schemas = Schemas()
    schemas.message(status_pb2.Status.DESCRIPTOR)
    paths: dict[str, dict[str, Any]] = {}
    for route in table.routes:
        operation = _operation(route, schemas)
        paths.setdefault(route.template.openapi_path, {})[route.http_method.lower()] = operation
    if models:
        described, components = model_paths()
        paths |= described
        schemas.components |= components
    for path, text in _PAGES.items():
        answers = {"200": {"description": text}}
        paths[path] = {"get": {"tags": ["Health"], "summary": text, "responses": answers, "security": []}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentmesh", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": {"Error": _error()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    method = route.method
    operation: dict[str, Any] = {
        "operationId": method.name,
        "tags": [method.containing_service.name],
        "summary": re.sub(r"(?<!^)(?=[A-Z])", " ", method.name).capitalize(),
        "parameters": list(_parameters(route, schemas)),
        "responses": {"200": _answer(route, schemas), "default": {"$ref": "#/components/responses/Error"}},
    }
    body = _body(route, schemas)
    if body:
        operation["requestBody"] = {"content": body}
    return operation


def _parameters(route: Route, schemas: Schemas) -> Iterator[dict[str, Any]]:
    bound = set(route.template.variables)
    for name in route.template.variables:
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    if route.body != "*":
        for name, field in _query_fields(route.method.input_type, "", _MAX_QUERY_DEPTH):
            if name not in bound and field.name != route.body:
                shown = re.sub(r"[a-z0-9_]+$", field.json_name, name)
                yield {"name": shown, "in": "query", "schema": schemas.field(field)}
    if route.method is UPLOAD_ARTIFACT:
        text = "Needed for a raw body only: the artifact's name."
        yield {"name": "name", "in": "query", "description": text, "schema": {"type": "string"}}
    if not route.method.server_streaming:
        text = "Seconds that the call may take."
        yield {"name": TIMEOUT_HEADER, "in": "header", "description": text, "schema": {"type": "number"}}
    elif route.method is READ_ARTIFACT:
        yield {"name": "Range", "in": "header", "schema": {"type": "string"}}
    else:
        text = "The last sequence that the reader has; the stream goes on after it."
        yield {"name": "Last-Event-ID", "in": "header", "description": text, "schema": {"type": "string"}}


def _query_fields(descriptor: Descriptor, prefix: str, depth: int) -> Iterator[tuple[str, FieldDescriptor]]:
    for field in descriptor.fields:
        message = field.message_type
        if is_map(field) or (message is not None and field.is_repeated):
            continue
        if message is None or is_well_known(message):
            yield prefix + field.name, field
        elif depth > 1:
            yield from _query_fields(message, f"{prefix}{field.name}.", depth - 1)


def _body(route: Route, schemas: Schemas) -> dict[str, Any]:
    if not route.body:
        return {}
    request = route.method.input_type
    schema = schemas.message(request) if route.body == "*" else schemas.field(request.fields_by_name[route.body])
    content: dict[str, Any] = {problems.JSON: {"schema": schema}}
    return content | _BINARY if route.method is UPLOAD_ARTIFACT else content


def _answer(route: Route, schemas: Schemas) -> dict[str, Any]:
    answer = route.method.output_type
    if route.method is READ_ARTIFACT:
        return {"description": "The bytes.", "content": _BINARY}
    if route.method.server_streaming:
        event = schemas.message(events_pb2.TaskEvent.DESCRIPTOR)
        place = {"taskId": {"type": "string"}, "sequence": {"type": "string"}, "attempt": {"type": "integer"}}
        schema = {"allOf": [event, {"type": "object", "properties": place}], "unevaluatedProperties": False}
        content = {media_type: {"schema": schema} for media_type in (sse.EVENT_STREAM, sse.JSON_LINES)}
        return {"description": "Events, in order, until the task ends.", "content": content}
    field = answer.fields_by_name[route.response_body] if route.response_body else None
    schema = schemas.field(field) if field is not None else schemas.message(answer)
    return {"description": answer.name, "content": {problems.JSON: {"schema": schema}}}


def _error() -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{status_pb2.Status.DESCRIPTOR.full_name}"}
    schema = {"type": "object", "properties": {"error": reference}, "required": ["error"]}
    return {"description": "What went wrong.", "content": {problems.JSON: {"schema": schema}}}
