"""The numbers of an analysis, against known truths and against SciPy's and NumPy's own functions."""

import struct
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from agentmesh.sdk import InputFile
from agentmesh_runner.agents.data_analysis.analysis import analyse
from agentmesh_runner.agents.data_analysis.charts import draw_charts
from agentmesh_runner.agents.data_analysis.columns import TypedTable, settle
from agentmesh_runner.agents.data_analysis.findings import judged_p, state_facts
from agentmesh_runner.agents.data_analysis.model import Analysis, Axis
from agentmesh_runner.agents.data_analysis.options import AnalysisOptions
from agentmesh_runner.agents.data_analysis.reading import read_table
from agentmesh_runner.agents.data_analysis.trend import describe_trend, fit


def load(text: str | bytes) -> TypedTable:
    data = text.encode() if isinstance(text, str) else text
    options = AnalysisOptions()
    return settle(read_table(InputFile(name="t.csv", media_type="text/csv", data=data), options), options)


def frame_of(**columns: object) -> TypedTable:
    return load(pd.DataFrame(columns).to_csv(index=False))


@pytest.fixture(scope="module")
def weather() -> TypedTable:
    data = (files("agentmesh_runner") / "data" / "seattle-weather.csv").read_bytes()
    return load(data)


@pytest.fixture(scope="module")
def weather_analysis(weather: TypedTable) -> Analysis:
    return analyse(weather)


def test_shipped_data_set_has_a_date_four_numbers_and_a_category(weather_analysis: Analysis) -> None:
    assert weather_analysis.rows == 1461
    assert [column.kind for column in weather_analysis.columns] == ["date", *["number"] * 4, "category"]
    assert weather_analysis.axis is not None
    assert (weather_analysis.axis.first, weather_analysis.axis.last) == ("2012-01-01", "2015-12-31")
    assert weather_analysis.axis.unit == "year"
    assert weather_analysis.missing_cells == 0


def test_numeric_summary_equals_numpys(weather: TypedTable, weather_analysis: Analysis) -> None:
    values = weather.frame["wind"].to_numpy()
    summary = next(summary for summary in weather_analysis.numeric if summary.name == "wind")
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.std == pytest.approx(np.std(values, ddof=1))
    assert (summary.lower_quartile, summary.median, summary.upper_quartile) == pytest.approx(
        tuple(np.quantile(values, [0.25, 0.5, 0.75]))
    )
    low, high = summary.lower_fence, summary.upper_fence
    assert low is not None
    assert high is not None
    assert summary.outliers == int(np.sum((values < low) | (values > high))) > 0


def test_correlations_equal_scipys_also_with_gaps(weather: TypedTable) -> None:
    frame = weather.frame.copy()
    frame.loc[::7, "wind"] = np.nan
    frame.loc[::11, "temp_max"] = np.nan
    gappy = TypedTable("t", "CSV", frame, weather.kinds, weather.axis, ())
    pairs = analyse(gappy).correlations
    assert len(pairs) == 6
    for pair in pairs:
        both = frame[[pair.first, pair.second]].dropna()
        pearson = stats.pearsonr(both[pair.first], both[pair.second])
        spearman = stats.spearmanr(both[pair.first], both[pair.second])
        assert pair.rows == len(both)
        assert (pair.pearson, pair.spearman) == pytest.approx((pearson.statistic, spearman.statistic))
        assert (pair.pearson_p, pair.spearman_p) == pytest.approx((pearson.pvalue, spearman.pvalue), rel=1e-6)
    assert [abs(pair.pearson) for pair in pairs] == sorted((abs(pair.pearson) for pair in pairs), reverse=True)


def test_known_correlation_is_recovered() -> None:
    random = np.random.default_rng(1)
    x, noise = random.normal(size=4000), random.normal(size=4000)
    table = frame_of(x=x, y=0.6 * x + 0.8 * noise, z=random.normal(size=4000))
    pairs = {(pair.first, pair.second): pair for pair in analyse(table).correlations}
    assert pairs["x", "y"].pearson == pytest.approx(0.6, abs=0.03)
    assert pairs["x", "y"].adjusted_p < 1e-6
    assert abs(pairs["x", "z"].pearson) < 0.05


def test_adjusted_p_is_never_below_the_plain_one(weather_analysis: Analysis) -> None:
    assert all(pair.adjusted_p >= pair.pearson_p for pair in weather_analysis.correlations)


def test_exact_slope_per_year_is_recovered_from_days() -> None:
    days = pd.date_range("2010-01-01", periods=1500, freq="D")
    years = np.arange(1500) / 365.2425
    table = frame_of(day=days.strftime("%Y-%m-%d"), level=3.0 + 2.0 * years)
    trend = analyse(table).trends[0]
    assert (trend.slope, trend.r_squared, trend.unit) == (pytest.approx(2.0), pytest.approx(1.0), "year")
    assert trend.low <= trend.slope <= trend.high
    assert trend.p_value < 1e-12


def test_interval_of_the_slope_covers_the_truth_in_about_95_percent_of_samples() -> None:
    random = np.random.default_rng(7)
    x = pd.Series(np.arange(60.0))
    covered = 0
    for _ in range(400):
        line = fit(x, pd.Series(0.5 * x + random.normal(scale=4, size=60)))
        assert line is not None
        reach = float(stats.t.ppf(0.975, 58)) * line.slope_error
        covered += line.slope - reach <= 0.5 <= line.slope + reach
    assert 0.92 <= covered / 400 <= 0.98


def test_trend_has_the_interval_of_ordinary_least_squares() -> None:
    y = [2.1, 3.9, 6.2, 7.8, 10.1, 12.2, 13.8]
    trend = analyse(frame_of(year=range(2001, 2008), y=y)).trends[0]
    x = np.arange(7) - 3.0
    slope = float((x * y).sum() / (x**2).sum())
    residual = np.array(y) - np.mean(y) - slope * x
    error = np.sqrt((residual**2).sum() / 5 / (x**2).sum())
    assert trend.slope == pytest.approx(slope)
    assert (trend.low, trend.high) == pytest.approx((slope - 2.570582 * error, slope + 2.570582 * error), rel=1e-6)


def test_band_at_the_centre_is_narrower_than_at_the_ends_and_holds_the_line() -> None:
    random = np.random.default_rng(3)
    x = pd.Series(np.arange(50.0))
    line = fit(x, pd.Series(x + random.normal(size=50)))
    assert line is not None
    at = np.array([0.0, 24.5, 49.0])
    low, high = line.band(at)
    assert np.all((low < line.height(at)) & (line.height(at) < high))
    width = high - low
    assert width[1] < width[0] == pytest.approx(width[2])


def test_rows_that_resemble_their_neighbours_are_seldom_called_a_trend() -> None:
    random = np.random.default_rng(5)
    x, axis = pd.Series(np.arange(400.0)), Axis(column="x", kind="number", unit="x", first="0", last="399")
    plain = judged = 0
    for _ in range(200):
        series, noise = np.zeros(400), random.normal(size=400)
        for i in range(1, 400):
            series[i] = 0.85 * series[i - 1] + noise[i]
        line = fit(x, pd.Series(series))
        assert line is not None
        trend = describe_trend(line, "y", axis)
        assert trend.autocorrelation == pytest.approx(0.85, abs=0.2)
        plain += trend.p_value < 0.05
        judged += judged_p(trend) < 0.05
    assert plain > 0.4 * 200
    assert judged < 0.12 * 200


def test_real_trend_in_independent_rows_is_called_one() -> None:
    random = np.random.default_rng(9)
    analysis = analyse(frame_of(step=range(300), y=0.1 * np.arange(300) + random.normal(size=300)))
    assert any(fact.headline and "y rises along step" in fact.text for fact in state_facts(analysis))


def test_groups_equal_scipys_tests(weather: TypedTable, weather_analysis: Analysis) -> None:
    group = next(group for group in weather_analysis.groups if group.column == "temp_max")
    samples = [part.to_numpy() for _, part in weather.frame.groupby("weather")["temp_max"]]
    f, h = stats.f_oneway(*samples), stats.kruskal(*samples)
    assert (group.anova_f, group.anova_p) == pytest.approx((f.statistic, f.pvalue))
    assert (group.kruskal_h, group.kruskal_p) == pytest.approx((h.statistic, h.pvalue))
    assert sum(level.count for level in group.levels) == 1461
    assert [level.mean for level in group.levels] == sorted((level.mean for level in group.levels), reverse=True)


def test_group_that_explains_everything_has_eta_squared_one() -> None:
    group = analyse(frame_of(kind=["a", "b"] * 20, y=[1.0, 5.0] * 20)).groups[0]
    assert group.eta_squared == pytest.approx(1.0)
    assert (group.levels[0].level, group.levels[0].mean) == ("b", 5.0)


def test_duplicates_and_gaps_are_counted() -> None:
    analysis = analyse(load("a,b,c\n1,x,\n1,x,\n2,,\n"))
    assert (analysis.duplicate_rows, analysis.missing_cells) == (1, 4)
    assert [column.kind for column in analysis.columns][2] == "empty"


@pytest.mark.parametrize(
    "text",
    [
        "a\n1\n",
        "a\n5\n5\n5\n5\n5\n",
        "word\nx\ny\n",
        "a,b\n1,\n2,\n3,\n",
        "when,v\n2024-01-01,1\n2024-01-01,2\n",
        "x,y\n1e300,1\n-1e300,2\n5,3\n7,4\n",
        "x,y\n1e-300,1e-200\n-1e-300,2e-200\n5e-300,1e-200\n7e-250,4e-200\n",
        "x,y\n1e69,-1e69\n2e69,1e69\n3e69,1e69\n4e69,3e69\n5e69,0\n",
        "flag,y\nTrue,1\nFalse,2\n,3\n",
        "a$b,c|d\n1,4\n2,3\n3,9\n4,1\n5,5\n",
    ],
)
def test_odd_tables_are_analysed_drawn_and_kept_as_strict_json(text: str) -> None:
    table = load(text)
    analysis = analyse(table)
    assert Analysis.model_validate_json(analysis.model_dump_json()) == analysis
    assert "NaN" not in analysis.model_dump_json()
    assert state_facts(analysis)
    for chart in draw_charts(table, analysis, 12):
        assert chart.png.startswith(b"\x89PNG\r\n")


def test_target_comes_first_everywhere(weather: TypedTable) -> None:
    analysis = analyse(weather, "wind")
    assert analysis.numeric[0].name == "wind"
    assert "wind" in (analysis.correlations[0].first, analysis.correlations[0].second)
    assert analysis.groups[0].column == "wind"


def test_charts_of_the_data_set_are_of_sane_size_and_the_same_each_time(
    weather: TypedTable, weather_analysis: Analysis
) -> None:
    charts = draw_charts(weather, weather_analysis, 4)
    assert [chart.name for chart in charts] == ["trend-1.png", "correlations.png", "groups.png", "distributions.png"]
    for chart in charts:
        width, height = struct.unpack(">II", chart.png[16:24])
        assert 500 <= width <= 1600
        assert 400 <= height <= 1600
        assert 5_000 < len(chart.png) < 256 * 1024
    assert [chart.png for chart in draw_charts(weather, weather_analysis, 1)] == [charts[0].png]
    assert draw_charts(weather, weather_analysis, 0) == []
