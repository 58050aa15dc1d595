"""`key=value` is read as JSON where it is JSON, as text where it is not."""

import click
import pytest

from agentmesh.cli.parameters import texts_of, values_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-0.5", -0.5),
        ("true", True),
        ("null", None),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ('{"a": [1]}', {"a": [1]}),
        ("hello world", "hello world"),
        ("a=b=c", "a=b=c"),
        ("", ""),
        ("NaN", "NaN"),
        ("{broken", "{broken"),
    ],
)
def test_value_is_json_or_else_text(text: str, value: object) -> None:
    assert values_of([f"key={text}"], "--param") == {"key": value}


@pytest.mark.parametrize("pair", ["count", "=1", " =1", ""])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(click.BadParameter):
        values_of([pair], "--param")


def test_key_given_twice_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="twice"):
        values_of(["a=1", "a=2"], "--param")


def test_labels_stay_text() -> None:
    assert texts_of(["build=7"], "--label") == {"build": "7"}
