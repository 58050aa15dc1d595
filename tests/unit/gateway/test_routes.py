"""The route table holds what the annotations say, bodies and additional bindings included."""

from itertools import count
from typing import Any

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from agentmesh.kit.errors import InvalidRequest
from agentmesh_gateway.problems import HttpProblem
from agentmesh_gateway.routes import SERVICES, RouteTable
from agentmesh_gateway.transcoding import json_of, request_of

_numbers = count()


def service_with(**rule: Any) -> ServiceDescriptor:
    """Return a service of one method `Do` with the annotation, made as protoc would."""
    number = next(_numbers)
    file = descriptor_pb2.FileDescriptorProto(name=f"t{number}.proto", package=f"t{number}", syntax="proto3")
    file.dependency.append("google/protobuf/struct.proto")
    inner = file.message_type.add(name="Inner")
    inner.field.add(name="deep_number", number=1, type=3, label=1)
    message = file.message_type.add(name="Message")
    message.field.add(name="name", number=1, type=9, label=1)
    message.field.add(name="inner", number=2, type=11, label=1, type_name=f".{file.package}.Inner")
    message.field.add(name="flags", number=3, type=8, label=3)
    message.field.add(name="free", number=4, type=11, label=1, type_name=".google.protobuf.Struct")
    method = file.service.add(name="Service").method.add(
        name="Do", input_type=f".{file.package}.Message", output_type=f".{file.package}.Message"
    )
    http = method.options.Extensions[annotations_pb2.http]
    for key, value in rule.items():
        if key == "additional_bindings":
            for binding in value:
                http.additional_bindings.add(**binding)
        else:
            setattr(http, key, value)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName(f"{file.package}.Service")


def asked(table: RouteTable, method: str, path: str, query: list[tuple[str, str]] | None = None, body: bytes = b""):
    route, values = table.find(method, path)
    return json_of(request_of(route, values, query or [], body, max_depth=64))


def test_every_annotated_method_has_a_route():
    annotated = {
        method.full_name
        for service in SERVICES
        for method in service.methods
        if method.GetOptions().HasExtension(annotations_pb2.http)
    }
    assert {route.method.full_name for route in RouteTable().routes} == annotated
    assert len(annotated) == 21


def test_additional_bindings_are_routes_too():
    table = RouteTable(
        [service_with(get="/v1/{name}", additional_bindings=[{"post": "/v2/{name}:do", "body": "inner"}])]
    )
    assert asked(table, "GET", "/v1/a") == {"name": "a"}
    assert asked(table, "POST", "/v2/a:do", body=b'{"deepNumber":"9007199254740993"}') == {
        "name": "a",
        "inner": {"deepNumber": "9007199254740993"},
    }


def test_a_query_fills_nested_and_repeated_fields_beside_a_body():
    table = RouteTable([service_with(post="/v1/{inner.deep_number}", body="free")])
    query = [("flags", "true"), ("flags", "0"), ("name", "n")]
    assert asked(table, "POST", "/v1/7", query, b'{"a":[1,null]}') == {
        "name": "n",
        "inner": {"deepNumber": "7"},
        "flags": [True, False],
        "free": {"a": [1.0, None]},
    }
    with pytest.raises(InvalidRequest, match="free belongs in the body"):
        asked(table, "POST", "/v1/7", [("free", "{}")])


@pytest.mark.parametrize(
    ("query", "field"), [(("inner.nope", "1"), "inner.nope"), (("inner", "{}"), "inner"), (("flags", "maybe"), "flags")]
)
def test_a_wrong_query_is_named(query: tuple[str, str], field: str):
    table = RouteTable([service_with(get="/v1/x")])
    with pytest.raises(InvalidRequest) as caught:
        asked(table, "GET", "/v1/x", [query])
    assert [name for name, _ in caught.value.violations] == [field]


def test_a_path_that_is_not_utf8_is_400():
    with pytest.raises(HttpProblem) as caught:
        RouteTable().find("GET", "/v1/tasks/%ff")
    assert caught.value.http_status == 400


def test_two_methods_on_one_path_are_refused():
    with pytest.raises(ValueError, match="two methods"):
        RouteTable([service_with(get="/v1/same"), service_with(get="/v1/same")])
