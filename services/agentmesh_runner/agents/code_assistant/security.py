"""Findings about code that runs what it is given, and about secrets in the source."""

import ast
import re
from collections.abc import Iterator

from agentmesh_runner.agents.code_assistant.finding import Finding, at

_SECRET_NAME = re.compile(
    r"(?:^|_)(?:password|passwd|pwd|secret|token|api_?key|access_?key|private_?key|credential)s?$", re.IGNORECASE
)
_UNPICKLERS = {
    f"{module}.{function}"
    for module in ("pickle", "cPickle", "dill", "marshal", "shelve")
    for function in ("load", "loads", "open")
} - {"pickle.open", "cPickle.open", "dill.open", "marshal.open", "shelve.load", "shelve.loads"}
_SAFE_YAML = {"SafeLoader", "CSafeLoader", "BaseLoader"}


def check_security(tree: ast.Module) -> Iterator[Finding]:
    """Yield every finding about security in one module; a message never repeats a secret."""
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _call(node, _full_name(node.func, aliases))
        yield from _secrets(node)


def _call(node: ast.Call, name: str) -> Iterator[Finding]:
    if name in {"eval", "exec", "builtins.eval", "builtins.exec"}:
        yield at(node, "dynamic-code", "error", f"{name}() runs any code it is given")
    elif name in _UNPICKLERS:
        yield at(node, "unsafe-deserialisation", "error", f"{name}() can run code from the data; use JSON")
    elif name == "yaml.load" and not _has_safe_loader(node):
        yield at(node, "unsafe-deserialisation", "error", "yaml.load() can build any object; use yaml.safe_load()")
    elif name in {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}:
        yield at(node, "shell-command", "warning", f"{name}() goes through a shell; use subprocess.run() with a list")
    elif name.startswith("subprocess.") and _is_set(node, "shell", True):
        yield at(node, "shell-command", "error", "shell=True lets the arguments run commands; pass a list without it")
    elif name.split(".")[0] in {"requests", "httpx"} and _is_set(node, "verify", False):
        yield at(node, "unverified-tls", "error", "verify=False accepts any certificate")
    elif name == "tempfile.mktemp":
        yield at(node, "insecure-temp-file", "warning", "mktemp() can be raced; use NamedTemporaryFile or mkstemp()")


def _is_set(node: ast.Call, name: str, value: bool) -> bool:
    return any(
        keyword.arg == name and isinstance(keyword.value, ast.Constant) and keyword.value.value is value
        for keyword in node.keywords
    )


def _has_safe_loader(node: ast.Call) -> bool:
    loaders = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "Loader")]
    return any(ast.unparse(loader).split(".")[-1] in _SAFE_YAML for loader in loaders)


def _secrets(node: ast.AST) -> Iterator[Finding]:
    pairs: list[tuple[str, ast.expr | None]] = []
    if isinstance(node, ast.Assign):
        pairs = [(_last_name(target), node.value) for target in node.targets]
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
        pairs = [(_last_name(node.target), node.value)]
    elif isinstance(node, ast.Call):
        pairs = [(keyword.arg or "", keyword.value) for keyword in node.keywords]
    elif isinstance(node, ast.Dict):
        pairs = [
            (key.value, value)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        ]
    elif isinstance(node, ast.arguments):
        positional = [*node.posonlyargs, *node.args]
        with_default = positional[len(positional) - len(node.defaults) :]
        pairs = [(arg.arg, value) for arg, value in zip(with_default, node.defaults, strict=True)]
        pairs += [(arg.arg, value) for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True)]
    for name, value in pairs:
        if _SECRET_NAME.search(name) and isinstance(value, ast.Constant) and looks_secret(value.value, name):
            message = f"{name!r} looks like a secret in the source; read it from the environment or a vault"
            yield at(value, "hard-coded-secret", "error", message)


def looks_secret(value: object, name: str) -> bool:
    """Return whether a value can be a secret: one word of 4 characters or more that doesn't just name it."""
    if not isinstance(value, str) or len(value) < 4 or any(character.isspace() for character in value):
        return False
    # OPENAI_API_KEY is the name of a variable, `${KEY}` and `<token>` are gaps to be filled.
    is_gap = re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|[$<{%].*[>})]?", value) is not None
    return not is_gap and value.lower() != name.lower() and not value.startswith(("http://", "https://"))


def _last_name(target: ast.expr) -> str:
    if isinstance(target, ast.Name):
        return target.id
    if isinstance(target, ast.Attribute):
        return target.attr
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        return str(target.slice.value)
    return ""


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Return what imported names stand for, so that `import pickle as p` hides nothing."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return found


def _full_name(function: ast.expr, aliases: dict[str, str]) -> str:
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if not isinstance(function, ast.Name):
        return ""
    return ".".join([aliases.get(function.id, function.id), *reversed(parts)])
