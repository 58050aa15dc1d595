"""Holds our messages to A2A's names and numbers, read from the descriptors that a2a-sdk ships."""

import pytest
from a2a.types import a2a_pb2
from google.protobuf.descriptor import FieldDescriptor

from agentmesh.api.task.v1 import events_pb2
from agentmesh.api.types.v1 import types_pb2

OURS_FROM = 100
MESSAGES = ("Message", "Part", "Artifact")
ENUMS = (
    (events_pb2.DESCRIPTOR.enum_types_by_name["TaskState"], a2a_pb2.DESCRIPTOR.enum_types_by_name["TaskState"]),
    (types_pb2.DESCRIPTOR.enum_types_by_name["Role"], a2a_pb2.DESCRIPTOR.enum_types_by_name["Role"]),
)


def shape(field: FieldDescriptor) -> tuple[object, ...]:
    """Return what two fields must share to be the same on the wire and in JSON."""
    kind = field.message_type.name if field.message_type else field.enum_type.name if field.enum_type else ""
    oneof = field.containing_oneof.name if field.containing_oneof else ""
    return field.number, field.json_name, field.type, field.is_repeated, kind, oneof


@pytest.mark.parametrize("name", MESSAGES)
def test_every_field_that_a2a_has_is_ours_with_its_name_number_and_type(name: str) -> None:
    theirs = a2a_pb2.DESCRIPTOR.message_types_by_name[name]
    ours = types_pb2.DESCRIPTOR.message_types_by_name[name]
    assert theirs.fields
    for field in theirs.fields:
        assert field.name in ours.fields_by_name, f"{name}.{field.name} is missing"
        assert shape(ours.fields_by_name[field.name]) == shape(field)


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_of_our_own_start_at_100(name: str) -> None:
    theirs = a2a_pb2.DESCRIPTOR.message_types_by_name[name].fields_by_name
    ours = types_pb2.DESCRIPTOR.message_types_by_name[name]
    assert [field.name for field in ours.fields if field.name not in theirs and field.number < OURS_FROM] == []


@pytest.mark.parametrize(("ours", "theirs"), ENUMS, ids=["TaskState", "Role"])
def test_states_and_roles_have_a2as_names_and_numbers(ours: object, theirs: object) -> None:
    def numbers(enum: object) -> dict[str, int]:
        return {value.name: value.number for value in enum.values}  # type: ignore[attr-defined]

    assert {name: number for name, number in numbers(ours).items() if number < OURS_FROM} == numbers(theirs)


def test_a_message_of_ours_is_one_of_theirs_on_the_wire() -> None:
    part = types_pb2.Part(text="hello", filename="a.txt", media_type="text/plain")
    ours = types_pb2.Message(
        message_id="m", context_id="c", task_id="t", role=types_pb2.ROLE_AGENT, parts=[part], extensions=["e"]
    )
    theirs = a2a_pb2.Message.FromString(ours.SerializeToString())
    assert theirs.SerializeToString(deterministic=True) == ours.SerializeToString(deterministic=True)
    assert (theirs.parts[0].text, theirs.role) == ("hello", a2a_pb2.ROLE_AGENT)
