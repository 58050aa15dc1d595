"""What the static checks report."""

import ast
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
_RANK: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark about one place; lines and columns count from 1."""

    file: str
    line: int
    column: int
    rule: str
    severity: Severity
    message: str

    @property
    def order(self) -> tuple[str, int, int, str]:
        """Sort by file, then by place."""
        return (self.file, self.line, self.column, self.rule)

    def to_json(self) -> dict[str, Any]:
        """Return the finding as the result's data have it."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column} {self.severity} {self.rule}: {self.message}"


def at(node: ast.AST, rule: str, severity: Severity, message: str) -> Finding:
    """Report about a node; the file is filled in by who runs the checks."""
    line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    return Finding("", line, column + 1, rule, severity, message)


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Sort by severity, then by place."""
    return sorted(findings, key=lambda finding: (_RANK[finding.severity], finding.order))
