"""JSON Schemas of the contract's messages, as protobuf JSON writes them."""

from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from agentmesh_gateway.json_faults import is_map

_INTEGER_TEXT = {"type": "string", "format": "int64", "description": "An integer, as text."}
_SCALARS: dict[int, dict[str, Any]] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_INT64: _INTEGER_TEXT,
    FieldDescriptor.CPPTYPE_UINT64: _INTEGER_TEXT,
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}
_WELL_KNOWN: dict[str, dict[str, Any]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "description": "Seconds, such as 1.5s."},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "additionalProperties": True,
    },
}


class Schemas:
    """Collects the schemas that were referred to, each once."""

    def __init__(self) -> None:
        self.components: dict[str, dict[str, Any]] = {}

    def message(self, descriptor: Descriptor) -> dict[str, Any]:
        """Return a schema, or a reference to it, for a message."""
        known = _WELL_KNOWN.get(descriptor.full_name)
        if known is not None:
            return known
        name = descriptor.full_name
        if name not in self.components:
            schema = self.components[name] = {"type": "object", "title": descriptor.name}
            # Filled in after it is known, because messages may hold each other.
            schema["properties"] = {field.json_name: self.field(field) for field in descriptor.fields}
            schema["additionalProperties"] = False
        return {"$ref": f"#/components/schemas/{name}"}

    def field(self, field: FieldDescriptor) -> dict[str, Any]:
        """Return the schema of a field's value."""
        if is_map(field):
            assert field.message_type is not None
            value = field.message_type.fields_by_name["value"]
            return {"type": "object", "additionalProperties": self._single(value)}
        single = self._single(field)
        return {"type": "array", "items": single} if field.is_repeated else single

    def _single(self, field: FieldDescriptor) -> dict[str, Any]:
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "format": "byte", "contentEncoding": "base64"}
        return _SCALARS[field.cpp_type]

    def _enum(self, descriptor: EnumDescriptor) -> dict[str, Any]:
        name = descriptor.full_name
        self.components[name] = {"type": "string", "enum": [value.name for value in descriptor.values]}
        return {"$ref": f"#/components/schemas/{name}"}
