"""Computes everything about one table, in one go and without any model."""

from __future__ import annotations

from agentmesh_runner.agents.data_analysis.columns import TypedTable
from agentmesh_runner.agents.data_analysis.model import Analysis, Trend
from agentmesh_runner.agents.data_analysis.relations import MAX_CORRELATED, compare_groups, correlate
from agentmesh_runner.agents.data_analysis.statistics import (
    describe_columns,
    summarise_category,
    summarise_number,
)
from agentmesh_runner.agents.data_analysis.trend import describe_axis, describe_trend, fit, positions


def analyse(table: TypedTable, target: str = "") -> Analysis:
    """Compute summaries, correlations, trends and group comparisons; with a target, its own come first."""
    frame, notes = table.frame, list(table.notes)
    numbers = [name for name in table.of_kind("number") if name != table.axis]
    numbers.sort(key=lambda name: name != target)
    axis = None
    if table.axis:
        axis = describe_axis(frame[table.axis], table.axis, table.kinds[table.axis])
    trends: list[Trend] = []
    if axis is None:
        notes.append("No column of dates or rising numbers was found, so no trends were computed.")
    else:
        places = positions(frame[axis.column], axis)
        lines = ((name, fit(places, frame[name])) for name in numbers)
        trends = [describe_trend(line, name, axis) for name, line in lines if line is not None]
    if len(numbers) > MAX_CORRELATED:
        notes.append(f"Correlations cover the first {MAX_CORRELATED} of {len(numbers)} numeric columns.")
    pairs = correlate(frame, numbers[:MAX_CORRELATED])
    groups = compare_groups(table, numbers)
    columns = describe_columns(table)
    return Analysis(
        source=table.name,
        format=table.format,
        rows=len(frame),
        duplicate_rows=int(frame.duplicated().sum()),
        missing_cells=sum(column.missing for column in columns),
        columns=columns,
        axis=axis,
        target=target,
        numeric=tuple(summarise_number(frame[name], name) for name in numbers),
        categories=tuple(summarise_category(frame[name], name) for name in table.of_kind("category", "boolean")),
        correlations=tuple(sorted(pairs, key=lambda pair: target not in (pair.first, pair.second)))
        if target
        else pairs,
        trends=tuple(trends),
        groups=tuple(sorted(groups, key=lambda group: group.column != target)) if target else groups,
        notes=tuple(notes),
    )
