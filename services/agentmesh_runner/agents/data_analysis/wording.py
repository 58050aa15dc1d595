"""How numbers are written, the same in findings, tables and charts."""

import math


def number(value: float | None) -> str:
    """Write a number with four significant digits, whole numbers whole, or a dash for none."""
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3e}"
    decimals = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def p_value(value: float | None) -> str:
    """Write a p-value: below 0.001 only that it is."""
    if value is None:
        return "p unknown"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def percent(share: float) -> str:
    """Write a share as per cent with one decimal."""
    return f"{100 * share:.1f} %"


def count(amount: int, one: str, many: str = "") -> str:
    """Write an amount with its noun."""
    return f"{amount} {one if amount == 1 else many or one + 's'}"
