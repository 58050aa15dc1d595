"""Server reflection under both of its names; the grpcio package knows only v1alpha."""

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import _async, reflection_pb2, reflection_pb2_grpc

_V1 = "grpc.reflection.v1"
_V1_SERVICE = f"{_V1}.ServerReflection"
_V1ALPHA = "grpc.reflection.v1alpha"
_HEALTH = "grpc.health.v1.Health"


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Let clients such as grpcurl read the contract of these services from the server."""
    _describe_v1()
    shown = (*services, _HEALTH, _V1_SERVICE, f"{_V1ALPHA}.ServerReflection")
    servicer = _async.ReflectionServicer(service_names=shown)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    # Both versions have the same messages on the wire.
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_V1_SERVICE, {"ServerReflectionInfo": handler}),)
    )


def _describe_v1() -> None:
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(_V1_SERVICE)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file.name = "grpc/reflection/v1/reflection.proto"
        file.package = _V1
        for message in file.message_type:
            for field in message.field:
                if field.type_name:
                    field.type_name = field.type_name.replace(_V1ALPHA, _V1)
        for service in file.service:
            for method in service.method:
                method.input_type = method.input_type.replace(_V1ALPHA, _V1)
                method.output_type = method.output_type.replace(_V1ALPHA, _V1)
        pool.AddSerializedFile(file.SerializeToString())
