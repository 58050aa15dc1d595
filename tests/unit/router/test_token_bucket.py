from hypothesis import given
from hypothesis import strategies as st

from agentmesh_router.token_bucket import US, Rate, draw

rates = st.builds(Rate, per_s=st.floats(0.01, 50_000), burst=st.integers(1, 1000))
draws = st.lists(st.tuples(st.integers(0, 3 * US), st.integers(1, 50)), max_size=80)


@given(rates, draws)
def test_no_stretch_of_time_sees_more_than_its_rate_and_a_burst(rate: Rate, asked: list[tuple[int, int]]) -> None:
    full_at_us, now_us = 0, 10**15
    granted: list[tuple[int, int]] = []
    for pause_us, wanted in asked:
        now_us += pause_us
        grant, full_at_us = draw(full_at_us, now_us, rate, wanted)
        assert 0 <= grant.tokens <= wanted
        assert bool(grant.wait_s) == (grant.tokens < wanted)
        granted.append((now_us, grant.tokens))
    for first in range(len(granted)):
        total, start_us = 0, granted[first][0]
        for at_us, tokens in granted[first:]:
            total += tokens
            assert total <= rate.burst + rate.per_s * (at_us - start_us) / US + 1e-6


@given(rates, draws)
def test_who_waits_as_long_as_told_gets_a_token_and_not_sooner(rate: Rate, asked: list[tuple[int, int]]) -> None:
    full_at_us, now_us = 0, 10**15
    for pause_us, wanted in asked:
        now_us += pause_us
        grant, full_at_us = draw(full_at_us, now_us, rate, wanted)
        if grant.wait_s:
            then_us = now_us + round(grant.wait_s * US)
            assert draw(full_at_us, then_us, rate, 1)[0].tokens == 1
            assert draw(full_at_us, then_us - 1, rate, 1)[0].tokens == 0


def test_a_bucket_that_nobody_drew_from_is_full_and_holds_no_more() -> None:
    rate = Rate(10, 5)
    assert draw(0, 10**15, rate, 100)[0].tokens == 5
