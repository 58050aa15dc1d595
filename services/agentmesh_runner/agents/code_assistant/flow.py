"""Findings about how control flows: code never reached, paths without a value, functions too big to follow."""

import ast
from collections.abc import Iterator, Sequence
from itertools import pairwise

from agentmesh_runner.agents.code_assistant.finding import Finding, at

_JUMPS = ast.Return | ast.Raise | ast.Continue | ast.Break
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = _FUNCTIONS | ast.ClassDef | ast.Lambda
_NEVER_RETURN = {
    "sys.exit",
    "exit",
    "quit",
    "os._exit",
    "os.abort",
    "assert_never",
    "typing.assert_never",
    "pytest.fail",
}


def check_flow(tree: ast.Module, max_complexity: int, max_lines: int) -> Iterator[Finding]:
    """Yield every finding about flow and size in one module."""
    for node in ast.walk(tree):
        for block in _blocks(node):
            yield from _unreachable(block)
        if isinstance(node, _FUNCTIONS):
            yield from _missing_return(node)
            yield from _too_big(node, max_complexity, max_lines)


def complexity(function: ast.AST) -> int:
    """Return the cyclomatic complexity: 1, and 1 more for each way that control can part."""
    ways = 1
    for node in _own_nodes(function):
        if isinstance(node, ast.If | ast.IfExp | ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler):
            ways += 1
        elif isinstance(node, ast.BoolOp):
            ways += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            ways += 1 + len(node.ifs)
        elif isinstance(node, ast.match_case) and not _is_wildcard(node):
            ways += 1
    return ways


def falls_through(block: Sequence[ast.stmt]) -> bool:
    """Return whether control can reach the end of the block; in doubt, that it can."""
    return all(_passes(statement) for statement in block)


def _passes(statement: ast.stmt) -> bool:
    match statement:
        case ast.Return() | ast.Raise() | ast.Continue() | ast.Break():
            return False
        case ast.Expr(value=ast.Call(func=function)):
            return ast.unparse(function) not in _NEVER_RETURN
        case ast.If():
            return not statement.orelse or falls_through(statement.body) or falls_through(statement.orelse)
        case ast.While():
            return not _is_true(statement.test) or _breaks(statement.body)
        case ast.With() | ast.AsyncWith():
            return falls_through(statement.body) or any(_swallows(item) for item in statement.items)
        case ast.Try() | ast.TryStar():
            if statement.finalbody and not falls_through(statement.finalbody):
                return False
            whole = falls_through([*statement.body, *statement.orelse])
            return whole or any(falls_through(handler.body) for handler in statement.handlers)
        case ast.Match():
            covered = any(_is_wildcard(case) for case in statement.cases)
            return not covered or any(falls_through(case.body) for case in statement.cases)
    return True


def _swallows(item: ast.withitem) -> bool:
    manager = item.context_expr
    return isinstance(manager, ast.Call) and ast.unparse(manager.func).split(".")[-1] in {"suppress", "raises"}


def _breaks(block: Sequence[ast.stmt]) -> bool:
    """Return whether a break in the block leaves the loop that the block belongs to."""
    for statement in block:
        if isinstance(statement, ast.Break):
            return True
        if isinstance(statement, ast.For | ast.AsyncFor | ast.While):
            if _breaks(statement.orelse):
                return True
        elif not isinstance(statement, _SCOPES) and any(_breaks(inner) for inner in _inner_blocks(statement)):
            return True
    return False


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
            yield block


def _inner_blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    yield from _blocks(statement)
    for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        yield part.body


def _unreachable(block: list[ast.stmt]) -> Iterator[Finding]:
    for before, after in pairwise(block):
        if isinstance(before, _JUMPS):
            word = type(before).__name__.lower()
            yield at(after, "unreachable-code", "warning", f"never reached: line {before.lineno} is a {word}")
            return


def _missing_return(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Finding]:
    returns = [node for node in _own_nodes(function) if isinstance(node, ast.Return)]
    gives = [node for node in returns if node.value is not None and not _is_none(node.value)]
    if not gives or any(isinstance(node, ast.Yield | ast.YieldFrom) for node in _own_nodes(function)):
        return
    for node in returns:
        if node.value is None:
            message = f"{function.name!r} returns a value in line {gives[0].lineno} and nothing here"
            yield at(node, "missing-return", "warning", message)
    if falls_through(function.body):
        message = f"{function.name!r} returns a value in line {gives[0].lineno}, but can also end without one"
        yield at(function, "missing-return", "warning", message)


def _too_big(
    function: ast.FunctionDef | ast.AsyncFunctionDef, max_complexity: int, max_lines: int
) -> Iterator[Finding]:
    ways = complexity(function)
    if ways > max_complexity:
        message = f"{function.name!r} has cyclomatic complexity {ways}, more than {max_complexity}"
        yield at(function, "complex-function", "warning", message)
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if lines > max_lines:
        message = f"{function.name!r} has {lines} lines, more than {max_lines}"
        yield at(function, "long-function", "info", message)


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function without those of functions and classes inside it."""
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, _SCOPES):
            waiting.extend(ast.iter_child_nodes(node))


def _is_wildcard(case: ast.match_case) -> bool:
    return case.guard is None and isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None


def _is_true(test: ast.expr) -> bool:
    return isinstance(test, ast.Constant) and bool(test.value)


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None
