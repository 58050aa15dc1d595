"""Says in plain sentences what the numbers show; these are the facts that a model may write about."""

from dataclasses import dataclass

from agentmesh_runner.agents.data_analysis.model import (
    Analysis,
    CategorySummary,
    Correlation,
    GroupComparison,
    NumericSummary,
    Trend,
)
from agentmesh_runner.agents.data_analysis.wording import count, number, p_value, percent

SIGNIFICANT = 0.05
_NOTABLE_CORRELATION = 0.3
_NOTABLE_EFFECT = 0.06
_MAX_COLUMNS_SAID = 8


@dataclass(frozen=True, slots=True)
class Fact:
    """One computed sentence; a headline goes into the short summary."""

    text: str
    headline: bool = False


def state_facts(analysis: Analysis) -> list[Fact]:
    """Say everything worth saying, most general first; at most about 40 sentences."""
    facts = [Fact(_shape(analysis), headline=True)]
    if analysis.axis:
        axis = analysis.axis
        facts.append(Fact(f"{axis.column} runs from {axis.first} to {axis.last}."))
    facts.append(Fact(_gaps(analysis), headline=analysis.missing_cells > 0 or analysis.duplicate_rows > 0))
    facts += [_number(summary) for summary in analysis.numeric[:_MAX_COLUMNS_SAID]]
    facts += [_category(summary) for summary in analysis.categories[:4] if summary.top]
    facts += [_trend(trend, place) for place, trend in enumerate(_by_evidence(analysis)[:_MAX_COLUMNS_SAID])]
    facts += [_correlation(pair, place) for place, pair in enumerate(analysis.correlations[:5])]
    facts += [_group(group, place) for place, group in enumerate(analysis.groups[:3])]
    return facts


def _by_evidence(analysis: Analysis) -> list[Trend]:
    return sorted(
        analysis.trends,
        key=lambda trend: (trend.column != analysis.target, judged_p(trend), trend.column),
    )


def judged_p(trend: Trend) -> float:
    """Return the p-value that conclusions rest on: the adjusted one, or 1 where it can't be had."""
    return 1.0 if trend.adjusted_p is None else trend.adjusted_p


def _shape(analysis: Analysis) -> str:
    kinds = (
        ("number", "numeric"),
        ("date", "date"),
        ("category", "categorical"),
        ("boolean", "yes/no"),
        ("text", "text"),
        ("empty", "empty"),
    )
    parts = [
        f"{amount} {adjective}"
        for kind, adjective in kinds
        if (amount := sum(column.kind == kind for column in analysis.columns))
    ]
    return (
        f"{analysis.source} has {count(analysis.rows, 'row')} and {count(len(analysis.columns), 'column')} "
        f"({', '.join(parts)})."
    )


def _gaps(analysis: Analysis) -> str:
    gaps = "No value is missing"
    if analysis.missing_cells:
        cells = analysis.rows * len(analysis.columns)
        worst = max(analysis.columns, key=lambda column: column.missing)
        gaps = (
            f"{count(analysis.missing_cells, 'value')} of {cells} missing "
            f"({percent(analysis.missing_cells / cells)}), most in {worst.name} ({worst.missing})"
        )
    if not analysis.duplicate_rows:
        return f"{gaps}; no row is repeated."
    repeats = count(analysis.duplicate_rows, "row repeats", "rows repeat")
    return f"{gaps}; {repeats} an earlier one."


def _number(summary: NumericSummary) -> Fact:
    text = (
        f"{summary.name} has mean {number(summary.mean)}, median {number(summary.median)} and standard "
        f"deviation {number(summary.std)}, and lies between {number(summary.minimum)} and "
        f"{number(summary.maximum)}"
    )
    if summary.outliers:
        text += (
            f"; {count(summary.outliers, 'value')} ({percent(summary.outliers / summary.count)}) "
            f"outside {number(summary.lower_fence)} to {number(summary.upper_fence)} "
            + ("is an outlier" if summary.outliers == 1 else "are outliers")
        )
    return Fact(text + ".")


def _category(summary: CategorySummary) -> Fact:
    shown = ", ".join(f"{level.value} ({level.count}, {percent(level.share)})" for level in summary.top[:5])
    return Fact(f"{summary.name} has {count(summary.unique, 'level')}; most frequent: {shown}.")


def _trend(trend: Trend, place: int) -> Fact:
    line = (
        f"{number(trend.slope)} per {trend.unit} (95 % interval {number(trend.low)} to "
        f"{number(trend.high)}, {p_value(trend.p_value)}, R² = {number(trend.r_squared)})"
    )
    plain, judged = trend.p_value < SIGNIFICANT, judged_p(trend) < SIGNIFICANT
    if judged:
        verb = "rises" if trend.slope > 0 else "falls"
        text = f"{trend.column} {verb} along {trend.axis}: slope {line}"
    elif plain:
        text = f"{trend.column} seems to change along {trend.axis}, slope {line}, but not reliably"
    else:
        return Fact(f"{trend.column} shows no significant trend along {trend.axis}: slope {line}.", place == 0)
    if trend.effective_rows < 0.8 * trend.rows:
        text += f"; neighbouring rows resemble each other (autocorrelation {number(trend.autocorrelation)}), " + (
            f"and allowing for that the interval is {number(trend.adjusted_low)} to "
            f"{number(trend.adjusted_high)} ({p_value(trend.adjusted_p)})"
            if trend.adjusted_p is not None
            else "too much to judge the trend"
        )
    return Fact(text + ".", headline=judged or place == 0)


def _correlation(pair: Correlation, place: int) -> Fact:
    strength = next(
        word
        for bound, word in ((0.9, "very strongly"), (0.7, "strongly"), (0.4, "moderately"), (0.0, "weakly"))
        if abs(pair.pearson) >= bound
    )
    significant = pair.adjusted_p < SIGNIFICANT
    direction = "rise together" if pair.pearson > 0 else "run against each other"
    relation = f"{strength} {direction}" if significant else "are not significantly correlated"
    rank = "" if pair.spearman is None else f", Spearman {number(pair.spearman)}"
    return Fact(
        f"{pair.first} and {pair.second} {relation} (Pearson {number(pair.pearson)}, "
        f"{p_value(pair.pearson_p)}{rank}, {pair.rows} rows).",
        headline=significant and place < 2 and abs(pair.pearson) >= _NOTABLE_CORRELATION,
    )


def _group(group: GroupComparison, place: int) -> Fact:
    high, low = group.levels[0], group.levels[-1]
    p = group.kruskal_p
    differs = p is not None and p < SIGNIFICANT
    verb = "differs between" if differs else "doesn't differ significantly between"
    return Fact(
        f"{group.column} {verb} the levels of {group.category} (Kruskal-Wallis {p_value(p)}, "
        f"eta squared {number(group.eta_squared)}): highest mean for {high.level} ({number(high.mean)}, "
        f"{high.count} rows), lowest for {low.level} ({number(low.mean)}, {low.count} rows).",
        headline=differs and place == 0 and group.eta_squared >= _NOTABLE_EFFECT,
    )
