"""Writes findings for people: the summary that is said and the review that is kept."""

from collections import Counter
from collections.abc import Sequence

from agentmesh_runner.agents.code_assistant.finding import Finding, worst_first
from agentmesh_runner.agents.code_assistant.sources import Source
from agentmesh_runner.agents.markdown import one_line, table

_MAX_SAID = 20


def summarise(findings: Sequence[Finding], sources: Sequence[Source]) -> str:
    """Say how much was found, and the worst of it."""
    lines = sum(source.lines for source in sources)
    files = "1 file" if len(sources) == 1 else f"{len(sources)} files"
    if not findings:
        return f"The static checks found nothing in {files} ({lines} lines)."
    by_severity = Counter(finding.severity for finding in findings)
    counted = ", ".join(f"{by_severity[name]} {name}" for name in ("error", "warning", "info") if by_severity[name])
    shown = [f"- {finding}" for finding in worst_first(list(findings))[:_MAX_SAID]]
    if len(findings) > _MAX_SAID:
        shown.append(f"- and {len(findings) - _MAX_SAID} more in findings.json")
    noun = "finding" if len(findings) == 1 else "findings"
    head = f"The static checks have {len(findings)} {noun} in {files} ({lines} lines): {counted}."
    return "\n".join([head, *shown])


def write_report(
    title: str, sources: Sequence[Source], findings: Sequence[Finding], words: str, written_by: str
) -> str:
    """Put the model's words and the table of findings together as Markdown."""
    parts = [f"# {title}"]
    if words.strip():
        parts += [f"*Written by {written_by}; the findings below were computed.*", words.strip()]
    parts.append("## Findings of the static checks")
    rows = [
        (f"{finding.file}:{finding.line}:{finding.column}", finding.severity, finding.rule, finding.message)
        for finding in worst_first(list(findings))
    ]
    parts.append(table(("place", "severity", "rule", "what"), rows) if rows else "None.")
    parts.append("## Files")
    parts.append("\n".join(f"- {one_line(source.name)}: {source.language}, {source.lines} lines" for source in sources))
    return "\n\n".join(parts) + "\n"
