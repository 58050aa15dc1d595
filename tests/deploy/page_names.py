"""What a page of the documentation names must be there: reasons, log events, metrics, settings, variables, links."""

import re
from pathlib import Path

import grpc
from pydantic import BaseModel

from agentmesh.kit.model_settings import Provider, ProviderPool
from agentmesh.kit.settings import Settings
from tests.deploy.monitoring import ROOT

CODE = "\n".join(
    file.read_text(encoding="utf-8")
    for folder in ("libs", "services", "gateway")
    for file in sorted((ROOT / folder).rglob("*.py"))
)

# Names of others: PostgreSQL's, gRPC's, and words for kinds of names.
_ELSEWHERE = {"max_connections", "synchronous_commit", "archive_mode", "pg_basebackup", "lower_case"}
_ELSEWHERE |= {code.name.lower() for code in grpc.StatusCode}
_VARIABLE = re.compile(r"\bAGENTMESH_[A-Z0-9_]*[A-Z0-9]\b")
_FILES = ("yml", "yaml", "conf", "db", "md", "py", "json", "sh", "env", "crt", "key")
_VARIABLES = {"OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "DATABASE_URL"}
_VARIABLES |= {"REDIS_URL", "NAME_FILE", "UPPER_CASE"}
_STATES = {"NOT_SERVING", "NOT_FOUND"}
_OF_CLIENTS = {"AGENTMESH_ADDRESS", "AGENTMESH_TOKEN", "AGENTMESH_CA", "AGENTMESH_CONFIG"}
_BESIDE: dict[str, type[BaseModel]] = {"pool": ProviderPool, "providers": Provider}


def unknown_names(text: str, *, elsewhere: frozenset[str] = frozenset()) -> list[str]:
    """Return the snake_case names in backticks that no string of the product is, but for keys of the configuration."""
    names = set(re.findall(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+)+)`", text)) - _ELSEWHERE - elsewhere
    keys = _every_key(Settings).union(*(_every_key(model) for model in _BESIDE.values()))
    return sorted(name for name in names - keys if f'"{name}"' not in CODE)


def unknown_reasons(text: str, *, elsewhere: frozenset[str] = frozenset()) -> list[str]:
    """Return the UPPER_SNAKE words that the product gives as no reason and reads as no variable."""
    words = set(re.findall(r"(?<![\w$-])[A-Z]+(?:_[A-Z]+)+\b(?!…|__)", text)) - _VARIABLES - _STATES - elsewhere
    codes = {code.name for code in grpc.StatusCode}
    ours = {word for word in words if word.startswith("AGENTMESH_")}
    files = {f"{variable}_FILE" for variable in _VARIABLES}
    return sorted(word for word in words - ours - codes - files if f'"{word}"' not in CODE)


def unknown_settings(text: str) -> list[str]:
    """Return the `section.key`s that the configuration does not have; a text without any is refused."""
    sections = dict(_sections(Settings)) | _BESIDE
    found = re.findall(r"`([a-z]+)\.([a-z_]+)`", text)
    named = [(section, key) for section, key in found if key not in _FILES and section in sections]
    assert named
    return sorted(f"{section}.{key}" for section, key in named if key not in sections[section].model_fields)


def unknown_variables(text: str) -> list[str]:
    """Return the variables that begin with AGENTMESH_ and set no key; those that errors name are not looked at."""
    text = re.sub(r"^```log$.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    paths = {name.removeprefix("AGENTMESH_") for name in set(_VARIABLE.findall(text)) - _OF_CLIENTS}
    return sorted(path for path in paths if not (_is_key(path) or _is_key(path.removesuffix("_FILE"))))


def broken_links(page: Path) -> list[str]:
    """Return the links of a page to files or headings that are not there; a page without any is refused."""
    targets = re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8"))
    assert targets
    return [target for target in targets if not _leads_somewhere(page, target)]


def anchors(page: Path) -> set[str]:
    """Return what headings of a page are called in links."""
    lines = page.read_text(encoding="utf-8").splitlines()
    titles = [line.lstrip("#").strip().lower() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles}


def _leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not anchor or anchor in anchors(file))


def _sections(model: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    found = [(name, field.annotation) for name, field in model.model_fields.items()]
    return [(name, kind) for name, kind in found if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _every_key(model: type[BaseModel]) -> set[str]:
    below = [_every_key(kind) for _, kind in _sections(model)]
    return set(model.model_fields).union(*below)


def _is_key(path: str) -> bool:
    model: type[BaseModel] | None = Settings
    for part in path.lower().split("__"):
        if model is None or part not in model.model_fields:
            return False
        model = dict(_sections(model)).get(part)
    return True
