"""A call costs what its tokens cost, to the billionth of a dollar."""

from hypothesis import given
from hypothesis import strategies as st

from agentmesh.kit.spend_settings import ModelPrice
from agentmesh_llm.books.prices import Price, PriceList
from agentmesh_llm.domain import Usage

PRICES = PriceList(
    [
        ModelPrice(models="openai/gpt-5*", input_usd=1.25, output_usd=10, cached_input_usd=0.125, cache_write_usd=1.5),
        ModelPrice(models="*/gpt-5-mini", input_usd=9, output_usd=9),
        ModelPrice(models="*/emb[1]", input_usd=0.02),
    ]
)
COUNTS = st.integers(min_value=0, max_value=10**9)


def price(provider: str, model: str) -> Price:
    found = PRICES.of(provider, model)
    assert found is not None
    return found


def test_each_kind_of_token_has_its_price() -> None:
    usage = Usage(input_tokens=1000, output_tokens=100, cached_input_tokens=400, cache_write_tokens=100)
    assert price("openai", "gpt-5").of(usage) == 500 * 1250 + 400 * 125 + 100 * 1500 + 100 * 10_000


def test_what_has_no_price_of_its_own_costs_as_other_input() -> None:
    usage = Usage(input_tokens=1000, cached_input_tokens=400, cache_write_tokens=100)
    assert price("x", "gpt-5-mini").of(usage) == 1000 * 9000


def test_the_first_price_that_fits_counts_and_brackets_stand_for_themselves() -> None:
    assert price("openai", "gpt-5-mini") == price("openai", "gpt-5")
    assert price("x", "emb[1]").input == 20_000_000
    assert PRICES.of("x", "emb1") is None
    assert PRICES.of("x", "gpt-4") is None


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_tokens_that_are_counted_twice_cost_once_and_nothing_is_negative(
    given_in: int, out: int, cached: int, written: int
) -> None:
    cost = price("openai", "gpt-5").of(Usage(given_in, out, cached, written))
    assert out * 10_000 + given_in * 125 - 1 <= cost <= out * 10_000 + given_in * 1500 + 1
