"""Works out what a call costs, in whole numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from agentmesh.kit.spend_settings import ModelPrice
from agentmesh.kit.usages import NANO
from agentmesh_llm.books.records import fits
from agentmesh_llm.domain import Usage

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Of a million tokens, in billionths of a US dollar."""

    input: int
    output: int
    cached_input: int
    cache_write: int

    def of(self, usage: Usage) -> int:
        """Return what a call costs, rounded to the nearest billionth; tokens that the counts hold twice cost once."""
        cached = min(usage.cached_input_tokens, usage.input_tokens)
        written = min(usage.cache_write_tokens, usage.input_tokens - cached)
        plain = usage.input_tokens - cached - written
        millionths = (
            plain * self.input
            + cached * self.cached_input
            + written * self.cache_write
            + usage.output_tokens * self.output
        )
        return (millionths + _MILLION // 2) // _MILLION


class PriceList:
    """The configured prices; the first that fits a model counts."""

    def __init__(self, prices: Sequence[ModelPrice]) -> None:
        self._prices = [(one.models, _price(one)) for one in prices]

    def of(self, provider: str, model: str) -> Price | None:
        """Return a model's price, if it has one."""
        name = f"{provider}/{model}"
        return next((price for pattern, price in self._prices if fits(name, pattern)), None)


def _price(one: ModelPrice) -> Price:
    plain = _nano(one.input_usd)
    return Price(
        input=plain,
        output=_nano(one.output_usd),
        cached_input=plain if one.cached_input_usd is None else _nano(one.cached_input_usd),
        cache_write=plain if one.cache_write_usd is None else _nano(one.cache_write_usd),
    )


def _nano(usd: float) -> int:
    return round(usd * NANO)
