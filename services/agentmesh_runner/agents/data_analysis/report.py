"""Writes the Markdown report of an analysis."""

from collections.abc import Iterable, Sequence

from agentmesh_runner.agents.data_analysis.charts import Chart
from agentmesh_runner.agents.data_analysis.findings import Fact, judged_p
from agentmesh_runner.agents.data_analysis.model import Analysis
from agentmesh_runner.agents.data_analysis.narrative import Narrative
from agentmesh_runner.agents.data_analysis.wording import number, p_value, percent
from agentmesh_runner.agents.markdown import one_line, table

_MAX_TABLE_ROWS = 30


def write_report(
    analysis: Analysis, facts: Sequence[Fact], charts: Sequence[Chart], narrative: Narrative | None
) -> str:
    """Put findings, words, tables and figures together; figures are referenced by artifact name."""
    parts = [
        f"# Analysis of {one_line(analysis.source)}",
        "## Findings",
        "\n".join(f"- {one_line(fact.text)}" for fact in facts if fact.headline),
        *_narrative(narrative),
        *_figures(charts),
        *_tables(analysis),
        "## Notes",
        "\n".join(f"- {one_line(note)}" for note in (*analysis.notes, *_method(analysis))),
    ]
    return "\n\n".join(parts) + "\n"


def _narrative(narrative: Narrative | None) -> list[str]:
    if narrative is None:
        return []
    by = narrative.model or "an unnamed model"
    if narrative.provider:
        by += f" ({narrative.provider})"
    parts = ["## In words", f"*Written by {by} from the computed facts; it computed nothing itself.*"]
    if narrative.unsupported:
        shown = ", ".join(narrative.unsupported[:10])
        parts.append(f"> **Careful:** these numbers in the text are in no computed fact: {shown}.")
    parts.append(narrative.text.strip() or "*The model wrote nothing.*")
    return parts


def _figures(charts: Sequence[Chart]) -> list[str]:
    if not charts:
        return []
    figures = [f"![{one_line(chart.title)}]({chart.name})\n\n*{one_line(chart.caption)}*" for chart in charts]
    return ["## Figures", *figures]


def _tables(analysis: Analysis) -> list[str]:
    parts = ["## Columns"]
    parts.append(
        _table(
            ("column", "holds", "values", "missing", "different"),
            ((column.name, column.kind, column.present, column.missing, column.unique) for column in analysis.columns),
        )
    )
    if analysis.numeric:
        heads = ("column", "mean", "std", "min", "25 %", "median", "75 %", "max", "skew", "outliers")
        rows = (
            (
                summary.name,
                *map(
                    number,
                    (
                        summary.mean,
                        summary.std,
                        summary.minimum,
                        summary.lower_quartile,
                        summary.median,
                        summary.upper_quartile,
                        summary.maximum,
                        summary.skew,
                    ),
                ),
                summary.outliers,
            )
            for summary in analysis.numeric
        )
        parts += ["## Numbers", _table(heads, rows)]
    if analysis.categories:
        rows_of_levels = (
            (summary.name, level.value, level.count, percent(level.share))
            for summary in analysis.categories
            for level in summary.top
        )
        parts += ["## Categories", _table(("column", "value", "rows", "share"), rows_of_levels)]
    return parts + _trends(analysis) + _correlations(analysis) + _groups(analysis)


def _trends(analysis: Analysis) -> list[str]:
    if not analysis.trends:
        return []
    heads = (
        "column",
        "slope",
        "95 % interval",
        "p",
        "R²",
        "autocorrelation",
        "adjusted interval",
        "adjusted p",
    )
    rows = (
        (
            trend.column,
            f"{number(trend.slope)} per {trend.unit}",
            f"{number(trend.low)} to {number(trend.high)}",
            p_value(trend.p_value),
            number(trend.r_squared),
            number(trend.autocorrelation),
            f"{number(trend.adjusted_low)} to {number(trend.adjusted_high)}",
            p_value(trend.adjusted_p),
        )
        for trend in sorted(analysis.trends, key=judged_p)
    )
    return [f"## Trends along {one_line(analysis.trends[0].axis)}", _table(heads, rows)]


def _correlations(analysis: Analysis) -> list[str]:
    if not analysis.correlations:
        return []
    heads = ("first", "second", "rows", "Pearson", "p", "adjusted p", "Spearman", "p (Spearman)")
    rows = (
        (
            pair.first,
            pair.second,
            pair.rows,
            number(pair.pearson),
            p_value(pair.pearson_p),
            p_value(pair.adjusted_p),
            number(pair.spearman),
            p_value(pair.spearman_p),
        )
        for pair in analysis.correlations
    )
    return ["## Correlations", _table(heads, rows)]


def _groups(analysis: Analysis) -> list[str]:
    parts = []
    for group in analysis.groups[:4]:
        said = (
            f"Kruskal-Wallis H = {number(group.kruskal_h)}, {p_value(group.kruskal_p)}; analysis of variance "
            f"F = {number(group.anova_f)}, {p_value(group.anova_p)}; eta squared {number(group.eta_squared)}."
        )
        rows = (
            (level.level, level.count, number(level.mean), number(level.median), number(level.std))
            for level in group.levels
        )
        parts += [
            f"## {one_line(group.column)} by {one_line(group.category)}",
            said,
            _table((group.category, "rows", "mean", "median", "std"), rows),
        ]
    return parts


def _method(analysis: Analysis) -> list[str]:
    notes = ["Computed with pandas and SciPy; no model took part in the numbers."]
    if analysis.numeric:
        notes.append("Outliers lie more than 1.5 interquartile ranges outside the quartiles.")
    if analysis.trends:
        notes.append(
            "Trends are least-squares lines. The adjusted figures count rows that resemble their neighbours "
            "as fewer rows (first-order autocorrelation of the residuals); conclusions rest on them. A cycle, "
            "like the seasons, is not taken out."
        )
    if analysis.correlations:
        notes.append("Adjusted p-values of correlations follow Benjamini and Hochberg over all pairs.")
    return notes


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = list(rows)
    shown = table(heads, body[:_MAX_TABLE_ROWS])
    if len(body) > _MAX_TABLE_ROWS:
        return f"{shown}\n\n{len(body) - _MAX_TABLE_ROWS} more rows are in `summary.json`."
    return shown
