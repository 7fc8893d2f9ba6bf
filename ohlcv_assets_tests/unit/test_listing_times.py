"""Promises of listing times: a past moment has the symbols that were listed then, the delisted ones included."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.errors import NaiveTime, UsageError
from ohlcv_assets.instruments import Market, Symbol, Universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, day_start_ms

BTC, LIT, OLD = Symbol("BTC/USDT"), Symbol("LIT/USDT"), Symbol("OLD/USDT")
JUNE_1, JUNE_2 = date(2025, 6, 1), date(2025, 6, 2)
NOON = day_start_ms(JUNE_1) + DAY_MS // 2


def universe(**spans):
    """A spot universe of BTC, of which no times are known, and of others with these spans of (since, until)."""
    times = {
        Symbol(f"{base}/USDT"): ListingTimes(f"{base}USDT", tuple(Span(*span, "") for span in each))
        for base, each in spans.items()
    }
    return Universe.of("v1.0", {Market.SPOT: [BTC, *times]}, listings=times)


moments = st.integers(0, 50)
cuts = st.lists(moments, unique=True, min_size=1, max_size=6).map(sorted)


@st.composite
def listing_times(draw):
    """Times of one to three spans, open at either end or not, and the model: the set of moments in which it was listed."""
    edges = draw(cuts)
    if draw(st.booleans()):
        edges = [None, *edges]
    if len(edges) % 2:
        edges = [*edges, None]
    pairs = list(zip(edges[::2], edges[1::2], strict=True))
    listed = {m for since, until in pairs for m in range(since or 0, 60 if until is None else until)}
    return ListingTimes("X", tuple(Span(*pair, "") for pair in pairs)), listed


@given(listing_times(), moments, st.integers(1, 9))
def test_a_symbol_is_listed_in_an_interval_when_it_was_at_some_moment_of_it(drawn, start_ms, length_ms):
    """Whatever the spans are: half-open, open at an end, or several."""
    times, listed = drawn
    interval = Interval(start_ms, start_ms + length_ms)
    assert times.listed_in(interval) == bool(listed & set(range(interval.start_ms, interval.end_ms)))


@given(listing_times())
def test_times_round_trip_through_their_file_form(drawn):
    """What is written is what is read."""
    times, _ = drawn
    assert ListingTimes.from_json(times.to_json()) == times


def test_a_past_moment_has_the_universe_of_that_moment():
    """A symbol is there from its listing to its delisting, and no longer; one of unknown times is always there."""
    made = universe(OLD=[(None, NOON)], LIT=[(NOON + 1, None)])
    assert made.symbols[Market.SPOT] == (BTC, LIT, OLD)
    assert made.at(NOON - 1)[Market.SPOT] == (BTC, OLD)
    assert made.at(NOON)[Market.SPOT] == (BTC,)
    assert made.at(NOON + 1)[Market.SPOT] == (BTC, LIT)
    assert made.at(NOON)[Market.FUTURES] == ()


def test_a_day_has_every_symbol_that_was_listed_in_it():
    """On the day of its delisting a symbol is still expected, on the day after it is not."""
    made = universe(OLD=[(None, NOON)], LIT=[(NOON, None)])
    assert made.at(JUNE_1)[Market.SPOT] == (BTC, LIT, OLD)
    assert made.at(JUNE_2)[Market.SPOT] == (BTC, LIT)
    assert made.listed_in(Market.SPOT, Interval.of_day(JUNE_2)) == (BTC, LIT)


def test_a_symbol_that_came_back_was_away_in_between():
    """The gap between two listings of one name is no listing; since is the very first, until the very last."""
    made = universe(LIT=[(0, NOON), (NOON + DAY_MS, None)])
    assert LIT in made.at(NOON - 1)[Market.SPOT]
    assert LIT not in made.at(NOON)[Market.SPOT]
    assert LIT in made.at(NOON + DAY_MS)[Market.SPOT]
    assert (made.listings[LIT].since_ms, made.listings[LIT].until_ms) == (0, None)


def test_the_minute_of_a_delisting_is_listed():
    """A minute counts when any part of it was within the listing."""
    times = ListingTimes("X", (Span(90_000, 150_000, ""),))
    assert [times.listed_at(minute * MINUTE_MS) for minute in range(4)] == [False, True, True, False]


def test_a_datetime_needs_its_zone():
    """A moment without a time zone is refused; one with a zone is that moment."""
    made = universe(OLD=[(None, NOON)])
    with pytest.raises(NaiveTime):
        made.at(datetime(2025, 6, 1, 12))  # noqa: DTZ001
    assert made.at(datetime(2025, 6, 1, 12, tzinfo=UTC)) == made.at(NOON)


@pytest.mark.parametrize(
    "spans", [[], [(5, 5)], [(5, 4)], [(0, 5), (4, 9)], [(0, None), (4, 9)], [(4, 9), (None, None)]]
)
def test_spans_that_cannot_be_are_refused(spans):
    """Spans have a beginning before their end, and do not overlap; there is at least one."""
    with pytest.raises(UsageError):
        ListingTimes("X", tuple(Span(*span, "") for span in spans))
