"""Fits straight lines along the axis and says how far they can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentmesh_runner.agents.data_analysis.model import Axis, Trend, finite

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Floats = npt.NDArray[np.float64]

_CONFIDENCE = 0.95
_MIN_ROWS = 4
# Mean lengths of the Gregorian calendar, in seconds, and the span from which a unit is used.
_UNITS = (
    ("year", 365.2425 * 86_400, 730 * 86_400),
    ("month", 365.2425 / 12 * 86_400, 60 * 86_400),
    ("day", 86_400.0, 2 * 86_400),
    ("hour", 3_600.0, 2 * 3_600),
    ("minute", 60.0, 0),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A least-squares line; `x` and `y` sorted by x."""

    x: Floats
    y: Floats
    slope: float
    intercept: float
    slope_error: float
    p_value: float
    r_squared: float

    def band(self, at: Floats) -> tuple[Floats, Floats]:
        """Return the bounds of the 95 % confidence interval of the line's height at these places."""
        import numpy as np
        from scipy import stats

        freedom = len(self.x) - 2
        residual = self.y - self.height(self.x)
        spread = math.sqrt(float((residual**2).sum()) / freedom)
        centred = float(((self.x - self.x.mean()) ** 2).sum())
        error = spread * np.sqrt(1 / len(self.x) + (at - self.x.mean()) ** 2 / centred)
        reach = stats.t.ppf((1 + _CONFIDENCE) / 2, freedom) * error
        middle = self.height(at)
        return middle - reach, middle + reach

    def height(self, at: Floats) -> Floats:
        """Return the line's height at these places."""
        return self.intercept + self.slope * at


def describe_axis(axis: pd.Series, name: str, kind: str) -> Axis | None:
    """Name the axis's ends and the unit that slopes are given in; None if it does not vary."""
    present = axis.dropna()
    if present.nunique() < 3:
        return None
    first, last = present.min(), present.max()
    if kind != "date":
        return Axis(column=name, kind="number", unit=name, first=f"{first:g}", last=f"{last:g}")
    span = (last - first).total_seconds()
    unit = next(unit for unit, _, from_span in _UNITS if span >= from_span)
    whole_days = bool((present.dt.normalize() == present).all())
    form = "%Y-%m-%d" if whole_days else "%Y-%m-%d %H:%M:%S"
    return Axis(column=name, kind="date", unit=unit, first=f"{first:{form}}", last=f"{last:{form}}")


def positions(axis: pd.Series, described: Axis) -> pd.Series:
    """Turn the axis into numbers: as they are, or the time since its begin in the axis's unit."""
    if described.kind == "number":
        return axis.astype("float64")
    seconds = next(seconds for unit, seconds, _ in _UNITS if unit == described.unit)
    elapsed: pd.Series = (axis - axis.min()).dt.total_seconds() / seconds
    return elapsed


def fit(x: pd.Series, y: pd.Series) -> Line | None:
    """Fit a line through the rows that have both; None with fewer than 4 rows or no variation."""
    import numpy as np
    from scipy import stats

    both = x.notna() & y.notna()
    places = x[both].to_numpy(dtype="float64")
    values = y[both].to_numpy(dtype="float64")
    if len(places) < _MIN_ROWS or np.ptp(places) == 0 or np.ptp(values) == 0:
        return None
    order = np.argsort(places, kind="stable")
    places, values = places[order], values[order]
    line = stats.linregress(places, values)
    return Line(
        x=places,
        y=values,
        slope=float(line.slope),
        intercept=float(line.intercept),
        slope_error=float(line.stderr),
        p_value=float(line.pvalue),
        r_squared=float(line.rvalue) ** 2,
    )


def describe_trend(line: Line, column: str, axis: Axis) -> Trend:
    """Give the slope with its 95 % interval, plain and adjusted for rows that resemble their neighbours."""
    from scipy import stats

    rows = len(line.x)
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, rows - 2)) * line.slope_error
    echo = _autocorrelation(line)
    # A first-order autoregressive residual carries the information of fewer independent rows.
    effective = rows * (1 - max(echo, 0.0)) / (1 + max(echo, 0.0))
    low = high = p = None
    if effective > 3:
        error = line.slope_error * math.sqrt((rows - 2) / (effective - 2))
        wide = float(stats.t.ppf((1 + _CONFIDENCE) / 2, effective - 2)) * error
        low, high = finite(line.slope - wide), finite(line.slope + wide)
        p = float(2 * stats.t.sf(abs(line.slope) / error, effective - 2)) if error > 0 else 0.0
    return Trend(
        column=column,
        axis=axis.column,
        unit=axis.unit,
        rows=rows,
        slope=line.slope,
        low=line.slope - reach,
        high=line.slope + reach,
        p_value=line.p_value,
        r_squared=line.r_squared,
        autocorrelation=echo,
        effective_rows=effective,
        adjusted_low=low,
        adjusted_high=high,
        adjusted_p=p,
    )


def _autocorrelation(line: Line) -> float:
    """Return how much each residual resembles the next, from -1 to 1; 0 where only rounding is left."""
    residual = line.y - line.height(line.x)
    power = float((residual**2).sum())
    if power <= 1e-20 * float(((line.y - line.y.mean()) ** 2).sum()):
        return 0.0
    return float((residual[1:] * residual[:-1]).sum()) / power
