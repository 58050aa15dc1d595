"""Reads single values of a provider's JSON, which may be anything."""

from typing import Any

MAX_MODEL_CHARACTERS = 256


def count_of(value: Any) -> int:
    """Return a count; what is none is 0."""
    return value if type(value) is int and 0 <= value < 2**63 else 0


def text_of(value: Any) -> str:
    """Return a text; raise TypeError for what is none."""
    if not isinstance(value, str):
        raise TypeError
    return value


def model_of(value: Any) -> str:
    """Return the name that a provider gives its model, no longer than a name may be."""
    return str(value or "")[:MAX_MODEL_CHARACTERS]
