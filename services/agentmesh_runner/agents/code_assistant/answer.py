"""Takes the code out of a model's answer and holds the answer against what can be checked."""

import ast
import json
import re
from collections.abc import Sequence

from agentmesh.sdk import Check
from agentmesh_runner.agents.code_assistant.checks import check_source, parse_error
from agentmesh_runner.agents.code_assistant.options import CodeOptions
from agentmesh_runner.agents.code_assistant.sources import FENCE, Source, normalise

_LINE_REFERENCE = re.compile(r"\blines?\s+(\d+)(?:\s*(?:-|–|to|and)\s*(\d+))?", re.IGNORECASE)


def extract_code(text: str, language: str) -> str:
    """Return the longest fenced block in the language, or without one named; empty if there is none."""
    blocks = [code for marked, code in FENCE.findall(text) if not marked or normalise(marked) == language]
    return max(blocks, key=len, default="")


def check_words(text: str, sources: Sequence[Source]) -> list[Check]:
    """Check a review or an explanation: it says something, and only of lines that exist."""
    longest = max((source.lines for source in sources), default=0)
    named = [int(number) for pair in _LINE_REFERENCE.findall(text) for number in pair if number]
    wrong = sorted({line for line in named if not 1 <= line <= longest})
    return [
        Check(name="answer_written", passed=bool(text.strip()), detail=f"{len(text.split())} words"),
        Check(
            name="line_references_exist",
            passed=not wrong,
            detail=f"no file has line {', '.join(map(str, wrong[:10]))}"
            if wrong
            else f"{len(named)} references to lines that exist",
        ),
    ]


def check_code(code: str, language: str, before: Sequence[Source], options: CodeOptions) -> list[Check]:
    """Check code from an answer as far as reading it can tell; it is never run."""
    checks = [
        Check(
            name="has_code_block",
            passed=bool(code.strip()),
            detail=f"{len(code.splitlines())} lines of {language}" if code else f"no fenced {language} block",
        )
    ]
    if not code.strip():
        return checks
    if language == "json":
        checks.append(_json_parses(code))
    elif language == "python":
        checks += _check_python(code, before, options)
    return checks


def _check_python(code: str, before: Sequence[Source], options: CodeOptions) -> list[Check]:
    error = parse_error(code)
    if error is not None:
        return [Check(name="code_parses", passed=False, detail=f"line {error.line}: {error.message}")]
    tree = ast.parse(code)
    errors = [finding for finding in check_source(Source("", "python", code), options) if finding.severity == "error"]
    old = 0
    if options.action == "refactor":
        old = sum(finding.severity == "error" for source in before for finding in check_source(source, options))
    shown = "; ".join(f"line {finding.line}: {finding.message}" for finding in errors[:5])
    checks = [
        Check(name="code_parses", passed=True, detail=f"{len(tree.body)} statements"),
        Check(
            name="no_new_errors",
            passed=len(errors) <= old,
            detail=f"{len(errors)} errors found, {old} before" + (f": {shown}" if shown else ""),
        ),
    ]
    if options.action == "refactor":
        lost = sorted({name for source in before for name in _public_names(source.text)} - _public_names(code))
        checks.append(
            Check(
                name="public_names_kept",
                passed=not lost,
                detail=f"gone: {', '.join(lost[:10])}" if lost else "every public name is still there",
            )
        )
    elif options.action == "write_tests":
        tests = [
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")
        ]
        checks.append(Check(name="has_tests", passed=bool(tests), detail=f"{len(tests)} test functions"))
    return checks


def _public_names(text: str) -> set[str]:
    """Return the functions and classes at the top of a module; empty if it can't be parsed."""
    if parse_error(text) is not None:
        return set()
    return {
        node.name
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }


def _json_parses(code: str) -> Check:
    try:
        json.loads(code)
    except (ValueError, RecursionError) as error:
        return Check(name="code_parses", passed=False, detail=str(error))
    return Check(name="code_parses", passed=True, detail="valid JSON")
