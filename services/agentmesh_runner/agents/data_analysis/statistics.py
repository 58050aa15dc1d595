"""Sums up single columns: types, gaps, quartiles, outliers, frequent values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentmesh_runner.agents.data_analysis.columns import TypedTable
from agentmesh_runner.agents.data_analysis.model import (
    CategorySummary,
    Column,
    Level,
    NumericSummary,
    finite,
)

if TYPE_CHECKING:
    import pandas as pd

_TOP_LEVELS = 10
_FENCE = 1.5


def describe_columns(table: TypedTable) -> tuple[Column, ...]:
    """Say for each column what it holds and how much of it is missing."""
    columns = []
    for name, kind in table.kinds.items():
        series = table.frame[name]
        missing = int(series.isna().sum())
        columns.append(
            Column(
                name=name,
                kind=kind,
                present=len(series) - missing,
                missing=missing,
                unique=int(series.nunique()),
            )
        )
    return tuple(columns)


def summarise_number(series: pd.Series, name: str) -> NumericSummary:
    """Sum up a numeric column; outliers lie more than 1.5 interquartile ranges outside the quartiles."""
    values = series.dropna()
    lower, median, upper = (float(value) for value in values.quantile([0.25, 0.5, 0.75]))
    reach = _FENCE * (upper - lower)
    outliers = int(((values < lower - reach) | (values > upper + reach)).sum())
    return NumericSummary(
        name=name,
        count=len(values),
        missing=len(series) - len(values),
        mean=finite(values.mean()),
        std=finite(values.std()),
        minimum=finite(values.min()),
        lower_quartile=finite(lower),
        median=finite(median),
        upper_quartile=finite(upper),
        maximum=finite(values.max()),
        # Of a column with one value, rounding noise is all that could be measured.
        skew=_skew(values) if values.nunique() > 2 else None,
        outliers=outliers,
        lower_fence=finite(lower - reach),
        upper_fence=finite(upper + reach),
    )


def _skew(values: pd.Series) -> float | None:
    from scipy import stats

    return finite(stats.skew(values.to_numpy(), bias=False))


def summarise_category(series: pd.Series, name: str) -> CategorySummary:
    """Count the values of a categorical column; equally frequent ones in alphabetical order."""
    values = series.dropna().astype(str)
    counted = sorted(values.value_counts().items(), key=lambda pair: (-int(pair[1]), str(pair[0])))
    return CategorySummary(
        name=name,
        count=len(values),
        missing=len(series) - len(values),
        unique=len(counted),
        top=tuple(
            Level(value=str(value)[:80], count=int(count), share=int(count) / len(values))
            for value, count in counted[:_TOP_LEVELS]
        ),
    )
