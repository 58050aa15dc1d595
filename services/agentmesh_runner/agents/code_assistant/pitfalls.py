"""Findings about Python's well-known traps."""

import ast
from collections.abc import Iterator

from agentmesh_runner.agents.code_assistant.finding import Finding, at

_MUTABLE_CALLS = {"list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict"}


def check_pitfalls(tree: ast.Module) -> Iterator[Finding]:
    """Yield every trap in one module."""
    formats = {
        id(node.format_spec) for node in ast.walk(tree) if isinstance(node, ast.FormattedValue) and node.format_spec
    }
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from _mutable_defaults(node)
            case ast.ExceptHandler():
                yield from _handler(node)
            case ast.Compare():
                yield from _comparison(node)
            case ast.JoinedStr() if id(node) not in formats:
                if not any(isinstance(part, ast.FormattedValue) for part in node.values):
                    yield at(node, "f-string-without-placeholder", "info", "the f-string has no placeholder")
            case ast.Assert(test=ast.Tuple(elts=[_, *_])):
                yield at(node, "assert-on-tuple", "error", "a tuple is always true; drop the parentheses")
            case ast.Dict():
                yield from _repeated_keys(node)


def _mutable_defaults(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> Iterator[Finding]:
    for default in (*node.args.defaults, *node.args.kw_defaults):
        mutable = isinstance(default, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp) or (
            isinstance(default, ast.Call) and isinstance(default.func, ast.Name) and default.func.id in _MUTABLE_CALLS
        )
        if mutable and default is not None:
            message = "the default is made once and shared by all calls; use None and make it inside"
            yield at(default, "mutable-default", "warning", message)


def _handler(node: ast.ExceptHandler) -> Iterator[Finding]:
    if node.type is None:
        message = "a bare except also catches KeyboardInterrupt and SystemExit; name the exception"
        yield at(node, "bare-except", "warning", message)
    silent = all(
        isinstance(part, ast.Pass)
        or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and part.value.value is ...)
        for part in node.body
    )
    if silent:
        message = "the error is dropped without a trace; handle it, log it or say why it may be ignored"
        yield at(node, "except-pass", "warning", message)


def _comparison(node: ast.Compare) -> Iterator[Finding]:
    sides = [node.left, *node.comparators]
    for operator, left, right in zip(node.ops, sides, sides[1:], strict=False):
        constants = [side.value for side in (left, right) if isinstance(side, ast.Constant)]
        if isinstance(operator, ast.Eq | ast.NotEq):
            word = "is" if isinstance(operator, ast.Eq) else "is not"
            if any(value is None for value in constants):
                yield at(node, "compare-to-none", "warning", f"compare to None by '{word} None'")
            elif any(value is True or value is False for value in constants):
                yield at(node, "compare-to-bool", "info", "test the value itself instead of comparing it to a bool")
        elif isinstance(operator, ast.Is | ast.IsNot) and any(
            isinstance(value, str | bytes | int | float) and not isinstance(value, bool) for value in constants
        ):
            message = "identity of a literal is chance; compare by == or !="
            yield at(node, "is-literal", "error", message)


def _repeated_keys(node: ast.Dict) -> Iterator[Finding]:
    seen: set[tuple[type, object]] = set()
    for key in node.keys:
        if isinstance(key, ast.Constant):
            identity = (type(key.value), key.value)
            if identity in seen:
                yield at(key, "repeated-key", "warning", f"the key {key.value!r} stands twice; the last one wins")
            seen.add(identity)
