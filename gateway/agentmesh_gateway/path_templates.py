"""Path templates of google.api.http: which paths they match, and what the variables hold then."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

_SEGMENT = re.compile(r"\*\*|\*|\{(?P<name>[A-Za-z0-9_.]+)(?:=(?P<inner>[^{}]+))?\}|[^/{}*]+")
_FOLLOWED_BY_VERB = r"(?::(?P<verb>[A-Za-z0-9_.-]+))?$"


class BadTemplate(ValueError):
    """The contract holds a template that google.api.http doesn't allow."""


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """One compiled template; `specificity` sorts the more literal ones first."""

    text: str
    variables: tuple[str, ...]
    pattern: re.Pattern[str]
    specificity: tuple[int, ...]

    def match(self, raw_path: str) -> dict[str, str] | None:
        """Return the variables of a path that is still percent-encoded, or None; raise ValueError if not UTF-8.

        A colon only begins a verb when it isn't encoded, and an encoded slash never ends a segment.
        """
        found = self.pattern.fullmatch(raw_path)
        if found is None:
            return None
        return {name: unquote(found[number], errors="strict") for number, name in enumerate(self.variables, start=1)}

    @property
    def openapi_path(self) -> str:
        """Return the template as OpenAPI writes it: `{name}` for every variable."""
        return re.sub(r"\{([^=}]+)=[^}]*\}", r"{\1}", self.text)


def compile_template(text: str) -> PathTemplate:
    """Compile a template such as `/v1/tasks/{task_id}:watch` or `/v1/{name=files/**}`; raise BadTemplate."""
    head = re.match(r"(?P<path>.*?\}|.*?)" + _FOLLOWED_BY_VERB, text)
    if head is None or not text.startswith("/"):
        raise BadTemplate(text)
    pattern, variables, literals, wide = "", [], 0, 0
    for segment in _split(head["path"][1:], text):
        found = _SEGMENT.fullmatch(segment)
        if found is None:
            raise BadTemplate(text)
        pattern += "/"
        if found["name"]:
            variables.append(found["name"])
            inner = found["inner"] or "*"
            pattern += f"({'/'.join(_plain(part) for part in inner.split('/'))})"
            wide += inner.count("**")
        else:
            pattern += _plain(segment)
            wide += segment == "**"
            literals += "*" not in segment
    if head["verb"]:
        pattern += re.escape(":" + head["verb"])
    specificity = (wide, 0 if head["verb"] else 1, -literals, len(variables))
    return PathTemplate(text, tuple(variables), re.compile(pattern), specificity)


def _split(path: str, text: str) -> list[str]:
    segments = re.findall(r"(?:\{[^{}]*\}|[^/{}])+", path)
    if "/".join(segments) != path:
        raise BadTemplate(text)
    return segments


def _plain(part: str) -> str:
    return {"*": "[^/]+", "**": ".*"}.get(part) or re.escape(part)
