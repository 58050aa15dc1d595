"""Say which texts a setting takes, so that a wrong one is refused before anything uses it."""

import ast
import inspect
import ipaddress
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, SecretStr
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::(?P<port>[0-9]{1,5}))?")
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised here, not bound


def listed(value: object) -> object:
    """Take `a, b` for a list, so that one environment variable can hold several values."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _file_switch(value: object) -> bool | str:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("must be true, false or a path")
    value = str(value)
    switches = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return switches.get(value.lower(), value)


def _database_url(value: SecretStr) -> SecretStr:
    scheme, _, rest = value.get_secret_value().partition("://")
    if scheme == "sqlite":
        path = rest.removeprefix("/")
        if not rest.startswith("/") or path in ("", ":memory:") or "?" in path:
            raise ValueError("must name a file: sqlite:///relative.db or sqlite:////absolute.db")
    elif scheme not in ("postgresql", "postgres"):
        raise ValueError("must start with sqlite:/// or postgresql://")
    return value


def _redis_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must start with redis://, rediss:// or unix://")
    return value


def _otlp_url(value: str) -> str:
    return _web_url(value, "credentials belong in OTEL_EXPORTER_OTLP_HEADERS")


def _provider_url(value: str) -> str:
    return _web_url(value, "a key belongs in api_key")


def _web_url(value: str, where: str) -> str:
    try:
        parts = urlsplit(value)
    except ValueError:  # its text quotes the address
        raise ValueError("must be an http:// or https:// address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// address")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"must hold no user, query or fragment; {where}")
    return value.rstrip("/")


def _header_safe(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text or not all("!" <= character <= "~" for character in text):
        raise ValueError("must be printable ASCII without spaces")
    return value


def _host(value: str) -> str:
    host = value.removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if re.fullmatch(r"[A-Za-z0-9_.-]+", value):
            return value
    raise ValueError("must be a host name or an IP address, without a port")


def _addresses(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        match = ADDRESS.fullmatch(value)
        if match is None or not 1 <= int(match["port"] or 1) <= 65535:
            raise ValueError("must be host:port, or several of them, each host a name or an address")
    return values


def joined(host: str, port: int) -> str:
    """Return host:port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


Count = Annotated[int, Field(ge=1, le=1_000_000)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
Name = Annotated[str, Field(pattern=NAME.pattern)]
Names = Annotated[tuple[str, ...], BeforeValidator(listed, json_schema_input_type=str | list[str])]
Paths = Annotated[tuple[Path, ...], BeforeValidator(listed, json_schema_input_type=str | list[str])]
Credential = Annotated[SecretStr, AfterValidator(_header_safe)]
Host = Annotated[str, AfterValidator(_host)]
Addresses = Annotated[Names, AfterValidator(_addresses)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
ProviderUrl = Annotated[str, AfterValidator(_provider_url)]
OtlpUrl = Annotated[str, AfterValidator(_otlp_url)]
Level = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
]
FileSwitch = Annotated[bool | str, BeforeValidator(_file_switch, json_schema_input_type=bool | str)]


class Section(BaseModel):
    """A frozen group of keys that refuses any key it doesn't know; what a key means stands in the text below it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema with the meaning of every key."""
        # Not by pydantic's use_attribute_docstrings: it parses the sources whenever a process starts.
        schema = handler(core_schema)
        keys = handler.resolve_ref_schema(schema)["properties"]
        for name, meaning in _meanings(cls):
            keys[name]["description"] = meaning
        return schema


def _meanings(section: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Yield the name of each key that has a text below it, and the text."""
    for base in section.__bases__:
        if issubclass(base, Section):
            yield from _meanings(base)
    [definition] = ast.parse(inspect.getsource(section)).body
    assert isinstance(definition, ast.ClassDef)
    for key, below in pairwise(definition.body):
        match key, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                if name in section.model_fields:
                    yield name, inspect.cleandoc(text)
