"""Lays what several places say of the configuration over each other, and remembers where each key came from."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel

from agentmesh.kit import known_providers, strict_yaml
from agentmesh.kit.settings import Settings

KeyPath = tuple[str | int, ...]


class Layers:
    """One tree out of several layers, which knows for each key the layer that it came from."""

    def __init__(self, environment: str, file: str) -> None:
        self.values: dict[str, Any] = {}
        self.errors: list[str] = []
        self._environment = environment
        self._file = file
        self._origins: dict[KeyPath, tuple[str, KeyPath]] = {}

    def put(self, path: KeyPath, value: object, origin: str) -> None:
        """Set one key, or all keys below a section; a list or a scalar replaces what was there."""
        if value is None and fields_at(path) is not None:
            return  # a section whose keys are all commented out
        if isinstance(value, Mapping) and (not path or fields_at(path) is not None):
            for key, child in value.items():
                self.put((*path, str(key)), child, origin)
            return
        if path == ("environment",):
            self._refuse(path, origin, "unknown key; ENVIRONMENT chooses the environment")
            return
        node = self._section(path[:-1])
        if node is None:
            self._refuse(path, origin, f"{dotted(path[:-1])} is not a section")
            return
        if isinstance(node.get(str(path[-1])), dict):
            self._refuse(path, origin, "must be a mapping of keys")
            return
        node[str(path[-1])] = value
        self._origins[path] = (origin, path)

    def get(self, path: KeyPath) -> object:
        """Return what a key was set to, or None."""
        return (self._section(path[:-1]) or {}).get(str(path[-1]))

    def put_default(self, path: KeyPath, value: object, origin: str) -> None:
        """Set one key unless it was set."""
        if path not in self._origins:
            self.put(path, value, origin)

    def put_text(self, path: KeyPath, text: str, origin: str) -> None:
        """Set one key to a variable's text: YAML if it is a list, a mapping or quoted, else as it is written.

        A scalar stays text, because the model knows better than YAML whether 1.10 is a number.
        """
        text = text.strip()
        value: object = None if text in ("null", "~") else text
        if text[0] in "[{'\"":
            try:
                value = strict_yaml.parse(text)
            except strict_yaml.YamlRefused as error:
                self._refuse(path, origin, f"starts like a list, a mapping or quoted text, but: {error}")
                return
        self.put(path, value, origin)

    def follow(self, follower: KeyPath, leader: KeyPath) -> None:
        """Give `follower` what `leader` has, where only that is set; the `api` also the reverse."""
        if follower not in self._origins and leader in self._origins:
            source, target = leader, follower
        elif follower in self._origins and leader[0] == "api":
            source, target = follower, leader
        else:
            return
        section, place = self._section(source[:-1]), self._section(target[:-1])
        if section is not None and place is not None:
            place[str(target[-1])] = section[str(source[-1])]
            self._origins[target] = self._origins[source]

    def add_providers(self, variables: Mapping[str, str]) -> None:
        """Make the providers that the environment has keys for, unless the configuration lists providers."""
        if ("llm", "providers") in self._origins:
            return
        chosen = (self._section(("llm",)) or {}).get("default_model")
        found = known_providers.of_environment(variables, chosen if isinstance(chosen, str) else "")
        if found:
            origin = ", ".join(variable for variable, _ in found)
            self.put(("llm", "providers"), [provider for _, provider in found], origin)

    def origin(self, path: KeyPath) -> str:
        """Return the layer that the key, or the closest one above it, came from."""
        return self._source(path)[0]

    def line(self, path: KeyPath, text: str) -> str:
        """Say what is wrong with a key: where it was set, its whole path, and the fault."""
        origin, path = self._source(path)
        return f"{origin}: {dotted((self._environment, *path))}: {text}"

    def _section(self, path: KeyPath) -> dict[str, Any] | None:
        """Return the mapping at `path`, made if it is missing, or None if something else is there."""
        node = self.values
        for part in path:
            child = node.setdefault(str(part), {})
            if not isinstance(child, dict):
                return None
            node = child
        return node

    def _refuse(self, path: KeyPath, origin: str, text: str) -> None:
        self.errors.append(f"{origin}: {dotted((self._environment, *path))}: {text}")

    def _source(self, path: KeyPath) -> tuple[str, KeyPath]:
        for length in range(len(path), 0, -1):
            if path[:length] in self._origins:
                origin, known = self._origins[path[:length]]
                return origin, (*known, *path[length:])
        below = (origin for key, (origin, _) in reversed(self._origins.items()) if key[: len(path)] == path)
        return next(below, self._file), path  # set nowhere: the file is where it belongs


def fields_at(path: KeyPath) -> dict[str, Any] | None:
    """Return the keys of the section at `path`, or None if there is no section."""
    model: type[BaseModel] = Settings
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        types = (field.annotation, *get_args(field.annotation)) if field else ()
        models = [type_ for type_ in types if isinstance(type_, type) and issubclass(type_, BaseModel)]
        if not models:
            return None
        model = models[0]
    return dict(model.model_fields)


def dotted(path: KeyPath) -> str:
    """Write the path of a key as people do: llm.providers[0].name."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
