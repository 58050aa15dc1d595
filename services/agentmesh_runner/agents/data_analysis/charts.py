"""Draws the charts of an analysis as PNG, without a display and without global state."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from agentmesh_runner.agents.data_analysis.columns import TypedTable
from agentmesh_runner.agents.data_analysis.model import Analysis, Axis, Trend
from agentmesh_runner.agents.data_analysis.trend import fit, positions
from agentmesh_runner.agents.data_analysis.wording import number, p_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#22303c"
_BLUE = "#2f6f9f"
_RED = "#c8553d"
_PALE = "#9db8cc"
_DPI = 120
_MAX_POINTS = 5_000
_MAX_HISTOGRAMS = 9
_MAX_HEATMAP = 16


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture; `name` is its file name."""

    name: str
    title: str
    caption: str
    png: bytes


def draw_charts(table: TypedTable, analysis: Analysis, limit: int) -> list[Chart]:
    """Draw at most `limit` charts, the most telling first."""
    charts: list[Chart] = []
    for draw in _plan(table, analysis):
        if len(charts) >= limit:
            break
        charts.append(draw())
    return charts


def _plan(table: TypedTable, analysis: Analysis) -> Iterator[Callable[[], Chart]]:
    ranked = sorted(
        analysis.trends,
        key=lambda trend: (trend.column != analysis.target, -trend.r_squared, trend.column),
    )
    names = [trend.column for trend in ranked]
    if names:
        yield partial(_trend, table, analysis, names[0], 1)
    if len({name for pair in analysis.correlations for name in (pair.first, pair.second)}) >= 2:
        yield partial(_heatmap, analysis)
    if analysis.groups:
        yield partial(_groups, table, analysis)
    if analysis.numeric:
        yield partial(_histograms, table, analysis)
    for position, name in enumerate(names[1:], start=2):
        yield partial(_trend, table, analysis, name, position)


def _trend(table: TypedTable, analysis: Analysis, column: str, position: int) -> Chart:
    import numpy as np

    assert analysis.axis is not None
    axis: Axis = analysis.axis
    trend = next(trend for trend in analysis.trends if trend.column == column)
    places = positions(table.frame[axis.column], axis)
    line = fit(places, table.frame[column])
    assert line is not None
    both = places.notna() & table.frame[column].notna()
    shown = table.frame.loc[both].sort_values(axis.column, kind="stable")
    figure, plot = _figure(9.0, 4.8)
    step = max(1, len(shown) // _MAX_POINTS)
    ends = np.linspace(line.x[0], line.x[-1], 100)
    across: Any = ends
    if axis.kind == "date":
        begin, end = shown[axis.column].iloc[0], shown[axis.column].iloc[-1]
        across = np.array([begin + (end - begin) * share for share in np.linspace(0, 1, 100)])
    plot.plot(
        shown[axis.column].iloc[::step].to_numpy(),
        shown[column].iloc[::step].to_numpy(),
        linestyle="none",
        marker="o",
        markersize=2.6 if len(shown) > 300 else 4.5,
        color=_PALE,
        alpha=0.75,
        label="rows" if step == 1 else f"every {step}th row",
    )
    window = len(shown) // 48
    if window >= 5:
        smooth = shown[column].rolling(window, center=True).mean()
        plot.plot(
            shown[axis.column].to_numpy(),
            smooth.to_numpy(),
            color=_BLUE,
            linewidth=1.3,
            label=f"mean of {window} rows",
        )
    low, high = line.band(ends)
    plot.fill_between(across, low, high, color=_RED, alpha=0.25, linewidth=0, label="95 % confidence band")
    plot.plot(across, line.height(ends), color=_RED, linewidth=2.0, label="linear trend")
    if axis.kind == "date":
        _date_ticks(plot)
    title = f"{column} along {axis.column}"
    said = f"slope {number(trend.slope)} per {trend.unit}, R² = {number(trend.r_squared)}, {_sureness(trend)}"
    _label(plot, f"{title}\n{said}", axis.column, column)
    plot.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    return Chart(f"trend-{position}.png", title, f"{title}: {said}.", _png(figure))


def _sureness(trend: Trend) -> str:
    if trend.effective_rows >= 0.8 * trend.rows:
        return p_value(trend.p_value)
    return f"{p_value(trend.p_value)}, allowing for autocorrelation {p_value(trend.adjusted_p)}"


def _date_ticks(plot: Axes) -> None:
    from matplotlib import dates

    # matplotlib's dates carry no types.
    ticks: Any = dates
    locator = ticks.AutoDateLocator()
    plot.xaxis.set_major_locator(locator)
    plot.xaxis.set_major_formatter(ticks.ConciseDateFormatter(locator))


def _heatmap(analysis: Analysis) -> Chart:
    import numpy as np

    known = {name for pair in analysis.correlations for name in (pair.first, pair.second)}
    names = [summary.name for summary in analysis.numeric if summary.name in known][:_MAX_HEATMAP]
    place = {name: position for position, name in enumerate(names)}
    grid = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(grid, 1.0)
    for pair in analysis.correlations:
        if pair.first in place and pair.second in place:
            grid[place[pair.first], place[pair.second]] = pair.pearson
            grid[place[pair.second], place[pair.first]] = pair.pearson
    side = max(5.0, 1.6 + 0.75 * len(names))
    figure, plot = _figure(side + 1.2, side)
    image = plot.imshow(grid, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            ink = "white" if abs(value) > 0.6 else _INK
            plot.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=9)
    short = [_short(name, 20) for name in names]
    plot.set_xticks(range(len(names)), short, rotation=40, ha="right", rotation_mode="anchor")
    plot.set_yticks(range(len(names)), short)
    plot.grid(visible=False)
    plot.spines[:].set_visible(False)
    plot.tick_params(length=0)
    figure.colorbar(image, ax=plot, shrink=0.85, label="Pearson correlation")
    title = "Correlations"
    _label(plot, "How the numeric columns go together", "", "")
    return Chart("correlations.png", title, f"Pearson correlations of {len(names)} columns.", _png(figure))


def _groups(table: TypedTable, analysis: Analysis) -> Chart:
    group = analysis.groups[0]
    keys = table.frame[group.category].astype(str)
    samples = [table.frame.loc[keys == level.level, group.column].dropna().to_numpy() for level in group.levels]
    figure, plot = _figure(max(6.0, 2.2 + 1.1 * len(samples)), 4.8)
    boxes = plot.boxplot(
        samples,
        patch_artist=True,
        widths=0.55,
        showmeans=True,
        medianprops={"color": _RED, "linewidth": 1.8},
        meanprops={"marker": "D", "markerfacecolor": _INK, "markeredgecolor": "none", "markersize": 4.5},
        flierprops={"marker": "o", "markersize": 2.5, "markerfacecolor": _PALE, "markeredgecolor": "none"},
    )
    for box in boxes["boxes"]:
        box.set(facecolor=_PALE, edgecolor=_INK, alpha=0.8)
    labels = [f"{_short(level.level, 16)}\n{level.count} rows" for level in group.levels]
    plot.set_xticks(range(1, len(samples) + 1), labels)
    title = f"{group.column} by {group.category}"
    said = f"Kruskal-Wallis {p_value(group.kruskal_p)}, eta squared {number(group.eta_squared)}"
    _label(plot, f"{title}\n{said}", "", group.column)
    caption = f"{title}: {said}. The line in a box is the median, the diamond the mean."
    return Chart("groups.png", title, caption, _png(figure))


def _histograms(table: TypedTable, analysis: Analysis) -> Chart:
    from matplotlib.figure import Figure

    shown = analysis.numeric[:_MAX_HISTOGRAMS]
    across = min(3, len(shown)) if len(shown) != 4 else 2
    down = -(-len(shown) // across)
    figure = Figure(figsize=(max(6.0, 3.6 * across), 2.9 * down + 0.5), dpi=_DPI, layout="constrained")
    plots = figure.subplots(down, across, squeeze=False)
    for plot, summary in zip(plots.flat, shown, strict=False):
        values = table.frame[summary.name].dropna().to_numpy()
        bins = min(40, max(5, round(len(values) ** 0.5)))
        plot.hist(values, bins=bins, color=_PALE, edgecolor="white", linewidth=0.4)
        if summary.mean is not None and summary.median is not None:
            plot.axvline(summary.mean, color=_INK, linewidth=1.3, linestyle="--", label="mean")
            plot.axvline(summary.median, color=_RED, linewidth=1.5, label="median")
        _style(plot)
        _label(plot, _short(summary.name, 32), "", "rows")
    for plot in list(plots.flat)[len(shown) :]:
        plot.set_visible(False)
    plots.flat[0].legend(frameon=False, fontsize=9)
    title = "Distributions"
    return Chart("distributions.png", title, f"How the values of {len(shown)} columns spread.", _png(figure))


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure of one plot; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    plot = figure.subplots()
    _style(plot)
    return figure, plot


def _style(plot: Axes) -> None:
    plot.spines[["top", "right"]].set_visible(False)
    plot.spines[["left", "bottom"]].set_color("#8a949c")
    plot.grid(visible=True, axis="y", color="#e4e8eb", linewidth=0.8)
    plot.set_axisbelow(True)
    plot.tick_params(colors=_INK, labelsize=9)


def _label(plot: Axes, title: str, x: str, y: str) -> None:
    # A dollar sign in a column's name would otherwise be read as mathematics.
    plot.set_title(title.replace("$", r"\$"), loc="left", fontsize=11, color=_INK)
    plot.set_xlabel(_short(x, 60).replace("$", r"\$"), color=_INK)
    plot.set_ylabel(_short(y, 40).replace("$", r"\$"), color=_INK)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    # Without a version in its metadata the same table gives the same bytes, and a replay the same artifact.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(buffer, metadata={"Software": "agentmesh"})
    return buffer.getvalue()
