"""The outcome as people and machines read it: a table for the terminal, JSON, a page for the docs."""

import json
from collections.abc import Sequence
from typing import Any

from tests.bench.deployment import database_of
from tests.bench.figures import Figure, Outcome, Setup, Spread
from tests.bench.lines import ANCHORS, NOTES

_HEAD = (
    "row",
    "what",
    "figure",
    "anchor",
    "ratio (min..max)",
    "floor",
    "goal",
    "reaches",
    "database",
    "fsync",
    "features",
)
_LEFT = (0, 1, 7, 8, 9, 10)
_HOW = (
    "Each figure is the median of the repeats. Ratio: figure by anchor, both timed in the same repeat, the anchor half "
    "before and half after; in brackets the lowest and highest of the repeats. Floor and goal hold for the ratio where "
    "they end in ×, else for the figure. The design's times are held as multiples of an echo, since a machine's speed "
    "is in them (docs/adr/0017); beside them are the milliseconds that the design names. Every task is checked for its "
    "exact events after the clock has stopped; calls are counted by their latencies."
)


def as_json(outcome: Outcome, command: str) -> str:
    """Return one JSON object; `rows` has an entry for each finished line."""
    document = {
        "command": command,
        "facts": dict(outcome.facts),
        "setup": list(outcome.setup.says),
        "repeats": outcome.repeats,
        "rows": [_entry(figure, outcome.setup) for figure in outcome.figures],
        "missing": outcome.missing,
        "faults": dict(outcome.faults),
    }
    return json.dumps(document, indent=2)


def as_table(outcome: Outcome) -> str:
    """Return an aligned table and what has to be known to read it."""
    rows = [_HEAD, *(_cells(figure, outcome.setup) for figure in outcome.figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [_aligned(row, widths) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *_foot(outcome), *_what_is_missing(outcome)])


def as_page(outcome: Outcome, command: str) -> str:
    """Return docs/benchmarks.md."""
    table = [
        f"| {' | '.join(_HEAD)} |",
        "|" + "|".join("---" if column in _LEFT else "---:" for column in range(len(_HEAD))) + "|",
        *(f"| {' | '.join(_cells(figure, outcome.setup))} |" for figure in outcome.figures),
    ]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"Written by `{command}`, which `make bench ARGS=--write` runs. Change nothing by hand: run it again.",
            "",
            _HOW,
            "",
            *table,
            "",
            *(f"- {line}" for line in _foot(outcome)),
            "",
        ]
    )


def _entry(figure: Figure, setup: Setup) -> dict[str, Any]:
    line = figure.line
    return {
        "row": line.row,
        "key": line.key,
        "what": line.what,
        "unit": line.unit,
        "figure": _spread(figure.figure),
        "anchor": {"what": ANCHORS[line.anchor], **_spread(figure.anchor)},
        "ratio": _spread(figure.ratio),
        "judged": line.judged,
        "better": line.better,
        "floor": line.floor,
        "goal": line.goal,
        "reaches": figure.verdict,
        "floor_ms": line.floor_ms or None,
        "goal_ms": line.goal_ms or None,
        "reaches_in_ms": figure.verdict_in_ms or None,
        "database": setup.database or database_of(line.row),
        "fsync": setup.fsync,
        "features": setup.features,
        "note": line.note,
        "samples": [{"figure": sample.figure, "anchor": sample.anchor} for sample in figure.samples],
    }


def _spread(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "min": spread.low, "max": spread.high}


def _cells(figure: Figure, setup: Setup) -> tuple[str, ...]:
    line, ratio = figure.line, figure.ratio
    sign = "×" if line.judged == "ratio" else ""
    return (
        line.row,
        line.what + (f" [{_mark(line.note)}]" if line.note else ""),
        f"{_number(figure.figure.median)} {line.unit}",
        f"{line.anchor} {_number(figure.anchor.median)}",
        f"{_number(ratio.median)} ({_number(ratio.low)}..{_number(ratio.high)})",
        f"{_number(line.floor)}{sign}" + (f" ({line.floor_ms:g} ms)" if line.floor_ms else ""),
        f"{_number(line.goal)}{sign}" + (f" ({line.goal_ms:g} ms)" if line.goal_ms else ""),
        _verdict(figure),
        setup.database or database_of(line.row),
        setup.fsync,
        setup.features,
    )


def _verdict(figure: Figure) -> str:
    in_ms = figure.verdict_in_ms
    return figure.verdict if in_ms in ("", figure.verdict) else f"{figure.verdict}; in ms {in_ms}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        text.ljust(width) if column in _LEFT else text.rjust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()


def _foot(outcome: Outcome) -> list[str]:
    used = {figure.line.anchor for figure in outcome.figures}
    notes = dict.fromkeys(figure.line.note for figure in outcome.figures if figure.line.note)
    return [
        *(f"{key}: {text}" for key, text in ANCHORS.items() if key in used),
        *(f"[{_mark(note)}] {note}" for note in notes),
        *outcome.setup.says,
        *(f"{name}: {fact}" for name, fact in outcome.facts.items()),
        f"repeats: {outcome.repeats}",
    ]


def _what_is_missing(outcome: Outcome) -> list[str]:
    faults = [f"FAILED {row}: {fault}" for row, fault in outcome.faults.items()]
    return faults + ([f"MISSING {', '.join(outcome.missing)}"] if outcome.missing else [])


def _mark(note: str) -> str:
    return "ab"[NOTES.index(note)]


def _number(value: float) -> str:
    """Write a number with about three significant digits."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
