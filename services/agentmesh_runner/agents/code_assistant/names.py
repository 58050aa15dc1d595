"""Findings about names: imports and variables nobody uses, names nobody defines, hidden builtins."""

import ast
import builtins
import re
import symtable
from collections.abc import Iterator

from agentmesh_runner.agents.code_assistant.finding import Finding, at

_BUILTINS = frozenset(dir(builtins)) | {"__file__", "__path__", "__builtins__", "__annotations__", "__class__"}
# Hiding these is custom, or harmless.
_HIDEABLE = {"_", "copyright", "credits", "license", "exit", "quit", "help"}
_MODULE_NAMES = _BUILTINS | {"__qualname__", "__module__", "WindowsError", "reveal_type", "__debug__"}
# One dotted name with anything in brackets behind it, and more of them joined by |.
_TYPE = re.compile(r"\s*[^\W\d][\w.]*(\[[^\n]{0,200}\])?(\s*\|\s*[^\W\d][\w.]*(\[[^\n]{0,200}\])?)*\s*")
_DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef


def check_names(tree: ast.Module, table: symtable.SymbolTable, file: str) -> Iterator[Finding]:
    """Yield every finding about names in one module."""
    yield from _unused_imports(tree, table, file)
    yield from _unused_variables(tree, table)
    yield from _undefined(tree)
    yield from _shadowed(tree)


def _unused_imports(tree: ast.Module, table: symtable.SymbolTable, file: str) -> Iterator[Finding]:
    quoted = _quoted_names(tree)
    tolerated = _tolerated_imports(tree)
    is_package = file.rsplit("/", 1)[-1] == "__init__.py"
    for scope, node in _scopes(tree, table):
        if is_package and isinstance(node, ast.Module):
            continue
        for statement in _own_statements(node):
            if not isinstance(statement, ast.Import | ast.ImportFrom) or statement in tolerated:
                continue
            if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
                continue
            for alias in statement.names:
                bound = alias.asname or alias.name.split(".")[0]
                # `import a as a` says that the name is passed on.
                if alias.name == "*" or alias.asname == alias.name or bound in quoted or bound.startswith("__"):
                    continue
                if not _is_used(scope, bound):
                    yield at(alias, "unused-import", "warning", f"{bound!r} is imported and never used")


def _is_used(scope: symtable.SymbolTable, name: str) -> bool:
    try:
        symbol = scope.lookup(name)
    except KeyError:
        return True
    if symbol.is_referenced():
        return True
    at_module = scope.get_type() == "module"
    if not at_module and symbol.is_global():
        return True
    return any(_is_used_below(child, name, at_module) for child in scope.get_children())


def _is_used_below(scope: symtable.SymbolTable, name: str, at_module: bool) -> bool:
    if name in scope.get_identifiers():
        symbol = scope.lookup(name)
        outer = symbol.is_global() if at_module else symbol.is_free()
        if outer and (symbol.is_referenced() or symbol.is_assigned()):
            return True
        if symbol.is_local() and not at_module and scope.get_type() != "class":
            return False
    return any(_is_used_below(child, name, at_module) for child in scope.get_children())


def _tolerated_imports(tree: ast.Module) -> set[ast.stmt]:
    """Imports whose failure is caught probe for a module; using it is not their point."""
    found: set[ast.stmt] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and any(_catches_import(handler) for handler in node.handlers):
            found.update(
                statement for part in node.body for statement in ast.walk(part) if isinstance(statement, ast.stmt)
            )
    return found


def _catches_import(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception"})


def _quoted_names(tree: ast.Module) -> set[str]:
    """Names that symbol tables don't see used: in annotations, and in strings that are one expression."""
    found = {node.id for part in _annotations(tree) for node in ast.walk(part) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _TYPE.fullmatch(node.value):
            found.update(re.findall(r"[^\W\d]\w*", node.value))
    return found


def _unused_variables(tree: ast.Module, table: symtable.SymbolTable) -> Iterator[Finding]:
    for scope, node in _scopes(tree, table):
        if not isinstance(node, _DEFINITIONS) or _calls(node, {"locals", "exec", "eval", "vars"}):
            continue
        deleted = {
            inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Del)
        }
        for target, name in _plain_bindings(node):
            if name.startswith("_") or name in deleted or name not in scope.get_identifiers():
                continue
            symbol = scope.lookup(name)
            if symbol.is_parameter() or not symbol.is_local() or symbol.is_imported():
                continue
            if not _is_used(scope, name):
                yield at(target, "unused-variable", "warning", f"local {name!r} is assigned and never used")


def _plain_bindings(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield names bound singly in a function's own scope; unpacking and loops often need a name to ignore."""
    for statement in _own_statements(node):
        targets: list[ast.expr | None] = []
        if isinstance(statement, ast.Assign):
            targets = list(statement.targets)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        elif isinstance(statement, ast.With | ast.AsyncWith):
            targets = [item.optional_vars for item in statement.items]
        elif isinstance(statement, ast.Try):
            for handler in statement.handlers:
                if handler.name:
                    yield handler, handler.name
        for target in targets:
            if isinstance(target, ast.Name):
                yield target, target.id


def _undefined(tree: ast.Module) -> Iterator[Finding]:
    """Report names that nothing in the whole file binds: sound, as a name bound anywhere is let pass."""
    bound: set[str] = set()
    tolerated: set[ast.AST] = set()
    lazy = False
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            lazy = lazy or any(alias.name == "annotations" for alias in node.names)
        bound.update(_bound_by(node))
        if isinstance(node, ast.Try) and any(_catches_name_error(handler) for handler in node.handlers):
            tolerated.update(inner for part in node.body for inner in ast.walk(part))
    if _calls(tree, {"exec", "globals", "vars"}):
        return
    if lazy:
        tolerated.update(inner for part in _annotations(tree) for inner in ast.walk(part))
    seen: set[str] = set()
    for node in sorted(
        (node for node in ast.walk(tree) if isinstance(node, ast.Name)), key=lambda node: (node.lineno, node.col_offset)
    ):
        unknown = node.id not in bound and node.id not in _MODULE_NAMES and node not in tolerated
        if unknown and isinstance(node.ctx, ast.Load) and node.id not in seen:
            seen.add(node.id)
            yield at(node, "undefined-name", "error", f"{node.id!r} is used and defined nowhere in the file")


def _bound_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.split(".")[0]
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Global | ast.Nonlocal):
        yield from node.names
    elif isinstance(node, ast.MatchMapping):
        yield node.rest or ""
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) or hasattr(node, "default_value"):
        # The last are type parameters, which Python has from 3.12.
        yield getattr(node, "name", None) or ""
    elif type(node).__name__ in {"TypeVar", "ParamSpec", "TypeVarTuple"}:
        yield str(getattr(node, "name", ""))


def _annotations(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation
        elif isinstance(node, _DEFINITIONS) and node.returns is not None:
            yield node.returns


def _catches_name_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(names & {"NameError", "Exception", "BaseException"})


def _shadowed(tree: ast.Module) -> Iterator[Finding]:
    hidden = {name for name in dir(builtins) if not name.startswith("__")} - _HIDEABLE
    # Attributes of a class hide nothing: they are reached through the class.
    attributes = {
        statement for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for statement in _own_statements(node)
    }
    names_of_attributes = {
        id(inner)
        for statement in attributes
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for inner in ast.walk(statement)
        if isinstance(inner, ast.Name)
    }
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in names_of_attributes:
            name = node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node not in attributes:
            name = node.name
        if name in hidden:
            yield at(node, "shadowed-builtin", "info", f"{name!r} hides the builtin of that name")


def _scopes(tree: ast.Module, table: symtable.SymbolTable) -> Iterator[tuple[symtable.SymbolTable, ast.AST]]:
    """Pair each module and function table with its node; both know a function by its name and line."""
    functions: dict[tuple[str, int], ast.AST] = {
        (node.name, node.lineno): node for node in ast.walk(tree) if isinstance(node, _DEFINITIONS)
    }
    yield table, tree
    waiting = list(table.get_children())
    while waiting:
        scope = waiting.pop()
        waiting.extend(scope.get_children())
        node = functions.get((scope.get_name(), scope.get_lineno()))
        if node is not None and scope.get_type() == "function":
            yield scope, node


def _own_statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of a scope, also nested in blocks, without those of inner scopes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case) and not isinstance(
            child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ):
            yield from _own_statements(child)


def _calls(tree: ast.AST, names: set[str]) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
        for node in ast.walk(tree)
    )
