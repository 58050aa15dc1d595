"""Turn a YAML file, the environment and overrides into one checked `Settings`, or say all that is wrong."""

import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError

import agentmesh
from agentmesh.kit import names, secret_files, strict_yaml
from agentmesh.kit.config_errors import ConfigError
from agentmesh.kit.config_layers import KeyPath, Layers, dotted, fields_at
from agentmesh.kit.config_source import Source
from agentmesh.kit.settings import Settings

__all__ = ["ConfigError", "Settings", "database_path", "describe", "json_schema", "load", "reload"]

UNUSED_BY: Mapping[str, tuple[str, ...]] = {
    names.ROUTER: ("database.url",),
    names.RUNNER: ("database.url", "cache.url"),
    names.GATEWAY: ("database.url", "cache.url"),
    "migrate": ("cache.url",),
    "health": ("database.url", "cache.url"),
}
"""The secrets that a role, or a command, does without: it need not be given them. See `load`."""

_PREFIX = "AGENTMESH_"
_NOT_SETTINGS = frozenset({"AGENTMESH_ADDRESS", "AGENTMESH_CA", "AGENTMESH_TOKEN", "AGENTMESH_CONFIG"})
_GUIDE_VARIABLES = {"DATABASE_URL": ("database", "url"), "REDIS_URL": ("cache", "url")}
# Kubernetes puts these into every container beside a service called agentmesh or agentmesh-….
_SERVICE_LINK = re.compile(
    r"AGENTMESH_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_VARIABLE = re.compile(r"\$(\$\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_URL = re.compile(r"(\w+)://([^@/?#]*@)?([^@?#]*)(?:\?[^@]*)?")
_ENVIRONMENT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")

# A laptop asks nobody for credentials; every other environment does, unless its file says otherwise.
_BY_ENVIRONMENT = {"development": {"security": {"authentication": False, "authorization": False, "reflection": True}}}
# Two names for one thing: where the first is not set, it follows the second.
_FOLLOWS = (
    (("services", "gateway", "host"), ("api", "host")),
    (("services", "gateway", "port"), ("api", "port")),
    (("runner", "lease_ttl_s"), ("tasks", "lease_ttl_s")),
)

_TRUE = frozenset({"true", "yes", "on", "1"})
_PLAIN_WORDS = {
    "missing": "is needed",
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "tuple_type": "must be a list",
    "path_type": "must be a path",
}


def load(
    config: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    unused: Collection[str] = (),
) -> Settings:
    """Load the settings: defaults, then the file, then environment variables, then overrides.

    The file is `config`, else `$AGENTMESH_CONFIG`, else `configs/environments/{ENVIRONMENT}.yaml` under the
    working directory, else the copy shipped with the package. Without `environ`, the process's environment
    counts, and below it a `.env` in the working directory; a given `environ` is all there is. An empty
    variable counts as unset. Instead of NAME, NAME_FILE may name a file that holds the value, such as a secret's.
    The keys of `overrides` are dotted paths such as `services.router.port`. Of the keys `database.url` and `cache.url`,
    those in `unused` are of no use to this process, and need not be set.

    Raises ConfigError with every fault found.
    """
    variables = secret_files.resolved(_variables(environ))
    file = _find_file(config, variables)
    source = Source(config, environ, dict(overrides or {}), file, frozenset(unused))
    environment, section, errors = _read_environment(file, variables)
    layers = Layers(environment, str(file))
    layers.put((), _BY_ENVIRONMENT.get(environment, {}), "default")
    unset: dict[KeyPath, str] = {}
    layers.put((), _substituted(section, (), variables, unset), str(file))
    for name, path in _variable_paths(variables):
        layers.put_text(path, variables[name], name)
    for key, value in (overrides or {}).items():
        layers.put(tuple(key.split(".")), value, "override")
    layers.add_providers(variables)
    if str(layers.values.get("debug")).lower() in _TRUE:
        layers.put_default(("logging", "level"), "DEBUG", "debug")
    for follower, leader in _FOLLOWS:
        layers.follow(follower, leader)
    errors += layers.errors
    unset = {path: text for path, text in unset.items() if layers.origin(path) == str(file)}
    _do_without(layers, unset, unused)
    errors += [layers.line(path, text) for path, text in unset.items()]
    try:
        settings = Settings.model_validate({**layers.values, "environment": environment})
    except ValidationError as error:
        errors += [layers.line(path, text) for path, text in _faults(error) if path not in unset]
    else:
        errors += [layers.line(path, text) for path, text in _contradictions(settings) if dotted(path) not in unused]
        if not errors:
            settings._source = source
            return settings
    raise ConfigError(*dict.fromkeys(errors))


def reload(settings: Settings) -> Settings:
    """Load settings again from where they came from; raises ConfigError as `load` does."""
    source = settings._source
    if not isinstance(source, Source):
        return settings
    return load(source.config, environ=source.environ, overrides=source.overrides, unused=source.unused)


def database_path(settings: Settings) -> Path:
    """Return the SQLite file, relative to the working directory; raise ConfigError if there is none."""
    if not settings.database.is_embedded:
        raise ConfigError("database.url: is not a SQLite file")
    if settings.database.url is None:
        return settings.data_dir / "agentmesh.db"
    return Path(settings.database.url.get_secret_value().removeprefix("sqlite:///"))


def describe(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain JSON values, secrets masked, URLs without their passwords and queries."""
    described = settings.model_dump(mode="json")
    for section, url in (("database", settings.database.url), ("cache", settings.cache.url)):
        described[section]["url"] = _without_password(url)
    return described


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration file: `environment` and the section of that name."""
    section = Settings.model_json_schema()
    definitions = section.pop("$defs")
    environment = section["properties"].pop("environment")
    for definition in (section, *definitions.values()):
        for field in definition["properties"].values():
            if "$ref" in field:  # what a section is by default, its keys say: and this would hold this machine's name
                field.pop("default", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "agentmesh configuration",
        "type": "object",
        "properties": {"environment": environment},
        "required": ["environment"],
        "additionalProperties": {"$ref": "#/$defs/Settings"},
        "$defs": {**definitions, "Settings": section},
    }


def _variables(environ: Mapping[str, str] | None) -> dict[str, str]:
    if environ is None:
        file = Path(".env")
        stored = dotenv_values(file, interpolate=False) if file.is_file() else {}
        environ = {**{name: value or "" for name, value in stored.items()}, **os.environ}
    return {name: value for name, value in environ.items() if value.strip()}


def _find_file(config: Path | None, variables: Mapping[str, str]) -> Path:
    if config is None and "AGENTMESH_CONFIG" in variables:
        config = Path(variables["AGENTMESH_CONFIG"])
    if config is not None:
        if not config.is_file():
            raise ConfigError(f"{config}: no such file")
        return config
    environment = variables.get("ENVIRONMENT", "development")
    if not _ENVIRONMENT_NAME.fullmatch(environment):
        raise ConfigError("ENVIRONMENT: must be a short lower-case name such as development or production")
    package = Path(agentmesh.__file__).resolve().parent
    # The wheel carries configs/ inside the package; an editable checkout has it beside libs/.
    for folder in (Path(), package, package.parents[1]):
        file = folder / "configs" / "environments" / f"{environment}.yaml"
        if file.is_file():
            return file
    raise ConfigError(
        f"ENVIRONMENT: there is no configs/environments/{environment}.yaml; create it or set AGENTMESH_CONFIG"
    )


def _read_environment(file: Path, variables: Mapping[str, str]) -> tuple[str, Mapping[str, object], list[str]]:
    document = _read_yaml(file)
    if not isinstance(document, dict):
        raise ConfigError(f"{file}: must be a mapping with the keys environment and, say, development")
    environment = document.pop("environment", None)
    if not isinstance(environment, str) or not _ENVIRONMENT_NAME.fullmatch(environment):
        raise ConfigError(f"{file}: environment: must name the section to use, such as development")
    wanted = variables.get("ENVIRONMENT", environment)
    if wanted != environment:
        raise ConfigError(f"{file}: environment: is {environment}, but ENVIRONMENT asks for {wanted}")
    section = document.pop(environment, None)
    errors = [f"{file}: {key}: {_unknown(str(key), ['environment', environment])}" for key in document]
    if section is not None and not isinstance(section, dict):
        raise ConfigError(*errors, f"{file}: {environment}: must be a mapping of keys")
    return environment, section or {}, errors


def _read_yaml(file: Path) -> Any:
    try:
        with file.open("rb") as stream:
            return strict_yaml.parse(stream.read(strict_yaml.MAX_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"{file}: can't be read: {error.strerror}") from error
    except strict_yaml.YamlRefused as error:
        raise ConfigError(f"{file}: {error}") from None


def _substituted(value: Any, path: KeyPath, variables: Mapping[str, str], unset: dict[KeyPath, str]) -> Any:
    """Replace `${VAR}` and `${VAR:-default}` in every string; note in `unset` where nothing is known."""
    if isinstance(value, dict):
        return {key: _substituted(item, (*path, str(key)), variables, unset) for key, item in value.items()}
    if isinstance(value, list):
        return [_substituted(item, (*path, at), variables, unset) for at, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        escaped, name, default = match.groups()
        if escaped:
            return str(escaped)
        found = variables.get(name, default)
        if found is None:
            unset[path] = f"the environment variable {name} is not set; set it or write ${{{name}:-default}}"
        return found or ""

    return _VARIABLE.sub(replacement, value)


def _do_without(layers: Layers, unset: dict[KeyPath, str], unused: Collection[str]) -> None:
    """Forget of the keys whose variables are not set those that nobody needs."""
    cache_url = ("cache", "url")
    needless: set[KeyPath] = {tuple(key.split(".")) for key in unused}
    if layers.get(("cache", "backend")) != "redis":
        needless.add(cache_url)
    for path in needless & unset.keys():
        layers.put(path, None, "default")
        del unset[path]
        if path == cache_url:
            layers.put(("cache", "backend"), "memory", "default")


def _variable_paths(variables: Mapping[str, str]) -> Iterator[tuple[str, KeyPath]]:
    """Yield the variables that are settings with their key paths, the guide's names before ours."""
    for name, path in _GUIDE_VARIABLES.items():
        if name in variables:
            yield name, path
    for name in sorted(variables):
        if not name.startswith(_PREFIX) or name in _NOT_SETTINGS:
            continue
        if "__" in name or not _SERVICE_LINK.fullmatch(name):
            yield name, tuple(name.removeprefix(_PREFIX).lower().split("__"))


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"unknown key; did you mean {close[0]}?" if close else f"unknown key; known: {', '.join(known)}"


def _faults(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    for fault in error.errors(include_url=False, include_context=True, include_input=False):
        path = fault["loc"]
        if fault["type"] == "default_factory_not_called":
            continue  # a default that depends on a key already reported
        if fault["type"] == "extra_forbidden":
            known = [name for name in fields_at(path[:-1]) or {} if name != "environment"]
            yield path, _unknown(str(path[-1]), known)
        elif fault["type"] in _PLAIN_WORDS:
            yield path, _PLAIN_WORDS[fault["type"]]
        elif fault["type"] == "value_error":
            yield path, str(fault["ctx"]["error"])
        else:
            yield path, fault["msg"].replace("Input should", "must").replace("String should", "must")


def _contradictions(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    database = settings.database
    if settings.environment == "production" and database.is_embedded and not database.allow_embedded:
        advice = "set DATABASE_URL to postgresql://…, or database.allow_embedded for a single machine"
        yield ("database", "url"), f"production refuses SQLite; {advice}"
    if settings.runner.lease_ttl_s > settings.tasks.lease_ttl_s:
        yield (
            ("runner", "lease_ttl_s"),
            "must not be more than tasks.lease_ttl_s, or two runners run one task",
        )


def _without_password(url: SecretStr | None) -> str | None:
    if url is None:
        return None
    text = url.get_secret_value()
    parts = _URL.fullmatch(text)
    if parts is None:  # an unescaped character in the password: no telling where it ends
        return f"{text.partition(':')[0]}://**********"
    scheme, user, rest = parts.groups()
    return f"{scheme}://{'**********@' if user else ''}{rest}"
