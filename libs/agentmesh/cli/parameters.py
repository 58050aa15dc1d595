"""Reads `key=value` from the command line."""

import json
from collections.abc import Iterable

import click

from agentmesh.client import Json


def values_of(pairs: Iterable[str], option: str) -> dict[str, Json]:
    """Read pairs whose values are JSON, or else text as it stands; raise BadParameter for what is no pair."""
    return {key: _value(text) for key, text in _split(pairs, option)}


def texts_of(pairs: Iterable[str], option: str) -> dict[str, str]:
    """Read pairs whose values are text."""
    return dict(_split(pairs, option))


def _split(pairs: Iterable[str], option: str) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"{pair!r} must be KEY=VALUE", param_hint=option)
        if key.strip() in found:
            raise click.BadParameter(f"{key.strip()!r} is given twice", param_hint=option)
        found[key.strip()] = value
    return list(found.items())


def _value(text: str) -> Json:
    try:
        value: Json = json.loads(text, parse_constant=_no_json)
    except ValueError:
        return text
    return value


def _no_json(word: str) -> None:
    """Leave NaN and Infinity as words: they are no JSON."""
    raise ValueError(word)
