"""Runs the static checks over files; no line of them is ever executed."""

import ast
import json
import re
import symtable
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO

from agentmesh_runner.agents.code_assistant.finding import Finding
from agentmesh_runner.agents.code_assistant.flow import check_flow
from agentmesh_runner.agents.code_assistant.names import check_names
from agentmesh_runner.agents.code_assistant.options import MAX_FINDINGS, CodeOptions
from agentmesh_runner.agents.code_assistant.pitfalls import check_pitfalls
from agentmesh_runner.agents.code_assistant.security import check_security, looks_secret
from agentmesh_runner.agents.code_assistant.sources import Source

_LONG_LINE = 200
_NOQA = re.compile(r"#\s*noqa\b", re.IGNORECASE)
_CONFLICT = re.compile(r"^(<{7} |>{7} )")
_SECRET_LINE = re.compile(
    r"""(?P<name>[\w-]*(?:password|passwd|secret|token|api_?key|private_?key))["']?\s*[:=]\s*(?P<quote>["'])(?P<value>[^"']+)(?P=quote)""",
    re.IGNORECASE,
)


def check_sources(sources: Sequence[Source], options: CodeOptions) -> list[Finding]:
    """Check each file and return at most 500 findings, sorted by file, line and column."""
    found = [finding for source in sources for finding in check_source(source, options)]
    return sorted(found, key=lambda finding: finding.order)[:MAX_FINDINGS]


def check_source(source: Source, options: CodeOptions) -> list[Finding]:
    """Check one file: Python by its syntax tree, anything else by its text. Lines with `# noqa` are let pass."""
    if source.language == "python":
        quiet = _quiet_lines(source.text)
        found = [finding for finding in _check_python(source, options) if finding.line not in quiet]
    else:
        found = list(_check_text(source))
    return [replace(finding, file=source.name) for finding in found]


def parse_error(text: str) -> Finding | None:
    """Return what keeps a text from being Python, or None if it is."""
    try:
        _parse(text, "<code>")
    except SyntaxError as error:
        return Finding("", error.lineno or 1, error.offset or 1, "syntax-error", "error", error.msg)
    except (RecursionError, MemoryError, ValueError):
        return Finding("", 1, 1, "syntax-error", "error", "can't be parsed: nested too deeply, or NUL inside")
    return None


def _parse(text: str, name: str) -> tuple[ast.Module, symtable.SymbolTable, list[warnings.WarningMessage]]:
    # The parser's warnings (a wrong escape, `is` with a literal) are findings, not noise on stderr.
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always")
        tree = ast.parse(text, name)
        table = symtable.symtable(text, name, "exec")
    return tree, table, noticed


def _check_python(source: Source, options: CodeOptions) -> Iterator[Finding]:
    error = parse_error(source.text)
    if error is not None:
        yield error
        return
    tree, table, noticed = _parse(source.text, source.name)
    places = {(notice.lineno, str(notice.message)) for notice in noticed}
    for line, message in sorted(places):
        if "escape sequence" in message:
            yield Finding("", line, 1, "invalid-escape", "warning", f"{message}; double the backslash or use r''")
    try:
        yield from check_names(tree, table, source.name)
        yield from check_flow(tree, options.max_complexity, options.max_function_lines)
        yield from check_pitfalls(tree)
        yield from check_security(tree)
    except RecursionError:
        yield Finding("", 1, 1, "not-checked", "warning", "the code is nested too deeply to be checked whole")


def _quiet_lines(text: str) -> set[int]:
    """Return the lines with a `# noqa` comment; in strings it means nothing."""
    quiet: set[int] = set()
    try:
        for token in tokenize.generate_tokens(StringIO(text).readline):
            if token.type == tokenize.COMMENT and _NOQA.search(token.string):
                quiet.add(token.start[0])
    except (tokenize.TokenError, SyntaxError):
        # The syntax error is reported by the parser; what was seen before it still counts.
        return quiet
    return quiet


def _check_text(source: Source) -> Iterator[Finding]:
    if source.language == "json":
        try:
            json.loads(source.text)
        except json.JSONDecodeError as error:
            yield Finding("", error.lineno, error.colno, "syntax-error", "error", error.msg)
        except RecursionError:
            yield Finding("", 1, 1, "syntax-error", "error", "nested too deeply")
    for number, line in enumerate(source.text.splitlines(), start=1):
        if _CONFLICT.match(line):
            yield Finding("", number, 1, "merge-conflict", "error", "a mark of an unresolved merge conflict")
        if len(line) > _LONG_LINE:
            message = f"the line has {len(line)} characters, more than {_LONG_LINE}"
            yield Finding("", number, _LONG_LINE + 1, "long-line", "info", message)
        secret = _SECRET_LINE.search(line)
        if secret and looks_secret(secret["value"], secret["name"]):
            message = f"{secret['name']!r} looks like a secret in the source; keep it out of the code"
            yield Finding("", number, secret.start("value") + 1, "hard-coded-secret", "error", message)
