"""Which metrics and labels a PromQL expression asks for, read by its tokens."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
    |(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
    |(?P<number>(?:0x[0-9a-fA-F]+|\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)(?:[a-z]\w*)?)
    |(?P<name>[A-Za-z_:][\w:]*)
    |(?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^<>=(){}\[\],@:])""",
    re.VERBOSE,
)
_GROUPINGS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
# A name before a parenthesis is a function's or an aggregation's; these may stand before something else.
_AGGREGATIONS = frozenset(
    {"sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "topk", "bottomk", "quantile"}
)
_WORDS = frozenset({"and", "or", "unless", "atan2", "bool", "offset", "start", "end", "inf", "nan"})


class NotUnderstood(Exception):
    """An expression that is read wrongly if it is read at all."""


@dataclass(slots=True)
class Query:
    """`selectors` are metrics with the names of labels they are matched by, `grouped` the labels that results have."""

    selectors: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    grouped: set[str] = field(default_factory=set)

    @property
    def metrics(self) -> set[str]:
        """Return the names of the metrics."""
        return {metric for metric, _ in self.selectors}


def read(expression: str) -> Query:
    """Return what an expression asks for; raise NotUnderstood for what this reader does not know."""
    tokens = list(_tokens(expression))
    query = Query()
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        following = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        at += 1
        if text == "[":
            at = _after(tokens, at, "]")
        elif text == "{":
            raise NotUnderstood(f"a selector without a metric in {expression}")
        elif kind != "name":
            continue
        elif text.lower() in _GROUPINGS:
            if following == "(":
                end = _after(tokens, at + 1, ")")
                query.grouped |= {name for kind, name in tokens[at:end] if kind == "name"}
                at = end
        elif following == "(" or text.lower() in _WORDS | _AGGREGATIONS:
            continue  # a function, an aggregation, an operator
        elif following == "{":
            end = _after(tokens, at + 1, "}")
            query.selectors.append((text, frozenset(name for kind, name in tokens[at:end] if kind == "name")))
            at = end
        else:
            query.selectors.append((text, frozenset()))
    return query


def _after(tokens: list[tuple[str, str]], at: int, end: str) -> int:
    for index in range(at, len(tokens)):
        if tokens[index] == ("sign", end):
            return index + 1
    raise NotUnderstood(f"no {end} closes")


def _tokens(expression: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise NotUnderstood(f"{expression[at:]!r} in {expression}")
        at = match.end()
        assert match.lastgroup is not None
        if match.lastgroup != "skip":
            yield match.lastgroup, match.group()
