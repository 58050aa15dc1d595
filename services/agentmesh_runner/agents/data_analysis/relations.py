"""Holds columns against each other: correlations of numbers, numbers by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentmesh_runner.agents.data_analysis.columns import TypedTable
from agentmesh_runner.agents.data_analysis.model import Correlation, GroupComparison, GroupLevel, finite

if TYPE_CHECKING:
    import pandas as pd

MAX_CORRELATED = 40
MAX_LEVELS = 8
_MIN_GROUP_ROWS = 5
_MAX_COMPARISONS = 60


def correlate(frame: pd.DataFrame, columns: list[str]) -> tuple[Correlation, ...]:
    """Correlate every pair of columns over the rows that have both, strongest first.

    Constant columns and pairs with fewer than 4 rows are left out. p-values are two-sided, from Student's t
    with rows - 2 degrees of freedom, as SciPy's pearsonr and spearmanr have them.
    """
    import numpy as np
    from scipy import stats

    columns = [name for name in columns if frame[name].nunique() > 1]
    if len(columns) < 2:
        return ()
    values = frame[columns]
    pearson = values.corr("pearson", min_periods=4).to_numpy()
    spearman = values.corr("spearman", min_periods=4).to_numpy()
    present = values.notna().to_numpy().astype("float64")
    rows = present.T @ present
    found: list[dict[str, Any]] = []
    for i, first in enumerate(columns):
        for j in range(i + 1, len(columns)):
            r, n = finite(pearson[i, j]), int(rows[i, j])
            if r is None:
                continue
            rho = finite(spearman[i, j])
            found.append(
                {
                    "first": first,
                    "second": columns[j],
                    "rows": n,
                    "pearson": float(np.clip(r, -1, 1)),
                    "pearson_p": _p_of_r(r, n),
                    "spearman": rho,
                    "spearman_p": None if rho is None else _p_of_r(rho, n),
                }
            )
    if not found:
        return ()
    adjusted = stats.false_discovery_control([pair["pearson_p"] for pair in found])
    pairs = [Correlation(adjusted_p=float(p), **pair) for pair, p in zip(found, adjusted, strict=True)]
    return tuple(sorted(pairs, key=lambda pair: (-abs(pair.pearson), pair.first, pair.second)))


def _p_of_r(r: float, rows: int) -> float:
    from scipy import stats

    if abs(r) >= 1:
        return 0.0
    t = r * ((rows - 2) / (1 - r * r)) ** 0.5
    return float(2 * stats.t.sf(abs(t), rows - 2))


def compare_groups(table: TypedTable, numbers: list[str]) -> tuple[GroupComparison, ...]:
    """Compare numeric columns between the levels of categorical ones, largest effect first.

    A category needs 2 to 8 levels; levels with fewer than 5 rows are left out. One-way analysis of variance
    with eta squared, and Kruskal-Wallis, which doesn't need normal groups of equal spread.
    """
    found: list[GroupComparison] = []
    for category in table.of_kind("category", "boolean"):
        if not 2 <= table.frame[category].nunique() <= MAX_LEVELS:
            continue
        for column in numbers:
            if len(found) < _MAX_COMPARISONS:
                comparison = _compare(table.frame, category, column)
                if comparison is not None:
                    found.append(comparison)
    return tuple(sorted(found, key=lambda group: (-group.eta_squared, group.category, group.column)))


def _compare(frame: pd.DataFrame, category: str, column: str) -> GroupComparison | None:
    import numpy as np
    from scipy import stats

    rows = frame[[category, column]].dropna()
    samples = {
        str(level): sample[column].to_numpy()
        for level, sample in rows.groupby(rows[category].astype(str), sort=True)
        if len(sample) >= _MIN_GROUP_ROWS
    }
    if len(samples) < 2:
        return None
    everything = np.concatenate(list(samples.values()))
    total = float(((everything - everything.mean()) ** 2).sum())
    if np.ptp(everything) == 0 or total == 0:
        return None
    between = sum(len(sample) * float(sample.mean() - everything.mean()) ** 2 for sample in samples.values())
    # SciPy warns of a division by zero when no group varies in itself.
    varied = any(np.ptp(sample) > 0 for sample in samples.values())
    f, p = stats.f_oneway(*samples.values()) if varied else (np.nan, np.nan)
    h, h_p = stats.kruskal(*samples.values())
    levels = tuple(
        GroupLevel(
            level=level[:80],
            count=len(sample),
            mean=float(sample.mean()),
            median=float(np.median(sample)),
            std=finite(sample.std(ddof=1)),
        )
        for level, sample in sorted(samples.items(), key=lambda item: (-float(item[1].mean()), item[0]))
    )
    return GroupComparison(
        category=category,
        column=column,
        levels=levels,
        anova_f=finite(f),
        anova_p=finite(p),
        eta_squared=min(1.0, between / total),
        kruskal_h=finite(h),
        kruskal_p=finite(h_p),
    )
