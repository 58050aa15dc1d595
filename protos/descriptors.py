"""Writes the descriptor set that Envoy transcodes JSON by: the public services, with HTTP paths below a prefix.

The gateway serves the same paths without the prefix and says more about what is wrong, so Envoy must not take them.
"""

import sys
import tempfile
from importlib import resources
from pathlib import Path

import google.rpc
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

PREFIX = "/direct"
PUBLIC = ("task/v1/task_service", "artifact/v1/artifact_service", "schedule/v1/schedule_service")
# Envoy writes the details of errors as JSON, and can't where it doesn't know their types.
DETAILS = "google/rpc/error_details.proto"
_HERE = Path(__file__).parent


def compiled(*files: str) -> descriptor_pb2.FileDescriptorSet:
    """Return the descriptors of proto files and of all that they import."""
    installed = Path(google.rpc.__path__[0]).parents[1]
    builtin = resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "set.binpb")
        paths = [f"-I{path}" for path in (_HERE, _HERE / "third_party", builtin, installed)]
        code = protoc.main(["protoc", *paths, "--include_imports", f"--descriptor_set_out={out}", *files])
        if code:
            raise SystemExit(code)
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """Return what Envoy needs to know."""
    made = compiled(*(f"agentmesh/api/{name}.proto" for name in PUBLIC), DETAILS)
    for file in made.file:
        for service in file.service:
            for method in service.method:
                if method.options.HasExtension(annotations_pb2.http):
                    _move(method.options.Extensions[annotations_pb2.http])
    return made


def _move(rule: http_pb2.HttpRule) -> None:
    kind = rule.WhichOneof("pattern")
    if kind == "custom":
        rule.custom.path = PREFIX + rule.custom.path
    elif kind:
        setattr(rule, kind, PREFIX + getattr(rule, kind))
    for binding in rule.additional_bindings:
        _move(binding)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(descriptor_set().SerializeToString(deterministic=True))
