"""What an analysis found: numbers only, in a form that goes through a journal as JSON and back."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["number", "date", "boolean", "category", "text", "empty"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Record):
    """One column and what it holds."""

    name: str
    kind: Kind
    present: int
    missing: int
    unique: int


class NumericSummary(_Record):
    """A numeric column; `std` divides by n-1, fences are 1.5 interquartile ranges from the quartiles."""

    name: str
    count: int
    missing: int
    mean: float | None
    std: float | None
    minimum: float | None
    lower_quartile: float | None
    median: float | None
    upper_quartile: float | None
    maximum: float | None
    skew: float | None
    outliers: int
    lower_fence: float | None
    upper_fence: float | None


class Level(_Record):
    """One value of a categorical column; `share` is of the rows that have a value."""

    value: str
    count: int
    share: float


class CategorySummary(_Record):
    """A categorical column with its most frequent values."""

    name: str
    count: int
    missing: int
    unique: int
    top: tuple[Level, ...]


class Correlation(_Record):
    """Two numeric columns; `adjusted_p` is Pearson's p after Benjamini and Hochberg over all pairs."""

    first: str
    second: str
    rows: int
    pearson: float
    pearson_p: float
    spearman: float | None
    spearman_p: float | None
    adjusted_p: float


class Trend(_Record):
    """A least-squares line of a column along the axis, slope per `unit`.

    The adjusted figures count neighbouring rows that resemble each other as fewer rows; None where there is
    too little left to judge.
    """

    column: str
    axis: str
    unit: str
    rows: int
    slope: float
    low: float
    high: float
    p_value: float
    r_squared: float
    autocorrelation: float
    effective_rows: float
    adjusted_low: float | None
    adjusted_high: float | None
    adjusted_p: float | None


class GroupLevel(_Record):
    """One group of a comparison."""

    level: str
    count: int
    mean: float
    median: float
    std: float | None


class GroupComparison(_Record):
    """A numeric column held against the levels of a categorical one."""

    category: str
    column: str
    levels: tuple[GroupLevel, ...]
    anova_f: float | None
    anova_p: float | None
    eta_squared: float
    kruskal_h: float | None
    kruskal_p: float | None


class Axis(_Record):
    """What trends run along; `first` and `last` as text."""

    column: str
    kind: Literal["date", "number"]
    unit: str
    first: str
    last: str


class Analysis(_Record):
    """Everything that was computed from one table."""

    source: str
    format: str
    rows: int
    duplicate_rows: int
    missing_cells: int
    columns: tuple[Column, ...]
    axis: Axis | None
    target: str
    numeric: tuple[NumericSummary, ...]
    categories: tuple[CategorySummary, ...]
    correlations: tuple[Correlation, ...]
    trends: tuple[Trend, ...]
    groups: tuple[GroupComparison, ...]
    notes: tuple[str, ...]

    def of_kind(self, kind: Kind) -> list[str]:
        """Return the names of the columns of a kind, in the table's order."""
        return [column.name for column in self.columns if column.kind == kind]


def finite(value: float) -> float | None:
    """Return the number, or None for what JSON can't hold."""
    number = float(value)
    return number if math.isfinite(number) else None
