"""Promises of filling: only when asked, only between what is known, the last real price, and always marked."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.client.fill import SYNTHETIC, filled
from ohlcv_assets.client.question import Question
from ohlcv_assets.instruments import Market, Symbol, Universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.timestamps import MINUTE_MS, Interval, parse_time
from ohlcv_assets_tests.builders import bars

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
START_MS = parse_time("2025-06-01")
END_MS = START_MS + 20 * MINUTE_MS
LATER_MS = END_MS + 10 * MINUTE_MS
QUESTION = Question(Market.FUTURES, (Symbol(BTC), Symbol(ETH)), Interval(START_MS, END_MS))
EVERYTHING = bars((BTC, ETH), minutes=20)


def universe(*spans):
    """The two symbols; ETH was listed in these spans, or at any time."""
    listings = {Symbol(ETH): ListingTimes("ETHUSDT", spans)} if spans else None
    return Universe.of("v1.0", {Market.FUTURES: [BTC, ETH]}, listings=listings)


def minute(number):
    """The start of a minute of the interval."""
    return START_MS + number * MINUTE_MS


@given(st.sets(st.integers(0, 39)))
def test_every_gap_is_filled_with_the_last_real_close(absent):
    """Whatever is missing: real bars stay as they are, and each made up one carries the close before it, and no volume."""
    kept = EVERYTHING.filter(~pl.int_range(pl.len()).is_in(list(absent)))
    whole = filled(kept, QUESTION, universe(), LATER_MS)
    real = whole.filter(~pl.col(SYNTHETIC))
    assert real.drop(SYNTHETIC).equals(kept)
    close = {}
    for row in whole.iter_rows(named=True):
        if row[SYNTHETIC]:
            assert {row[name] for name in ("open", "high", "low", "close")} == {close[row["symbol"]]}
            assert {row[name] for name in ("volume", "quote_volume", "trade_count", "taker_buy_volume")} == {0}
            assert row["end_download_timestamp"] is None
        close[row["symbol"]] = row["close"]
    for symbol in kept["symbol"].unique():
        times = whole.filter(pl.col("symbol") == symbol)["timestamp"].to_list()
        assert times == list(range(times[0], END_MS, MINUTE_MS))
        assert times[0] == kept.filter(pl.col("symbol") == symbol)["timestamp"][0]


def test_nothing_comes_before_the_first_real_bar():
    """Before a symbol's first bar in the interval there is no price to carry, and a symbol without one stays absent."""
    late = EVERYTHING.filter((pl.col("symbol") == BTC) & (pl.col("timestamp") >= minute(7)))
    whole = filled(late, QUESTION, universe(), LATER_MS)
    assert whole.height == 13
    assert not whole[SYNTHETIC].any()


def test_the_future_is_not_filled():
    """A minute that is not over by now is nobody's: it is not made up."""
    early = EVERYTHING.filter(pl.col("timestamp") < minute(5))
    whole = filled(early, QUESTION, universe(), minute(8) + 30_000)
    assert whole["timestamp"].max() == minute(7)
    assert whole[SYNTHETIC].sum() == 2 * 3


def test_after_a_delisting_nothing_is_made_up():
    """The price ends with the listing."""
    traded = EVERYTHING.filter((pl.col("symbol") == BTC) | (pl.col("timestamp") < minute(4)))
    whole = filled(traded, QUESTION, universe(Span(None, minute(6), "told")), LATER_MS)
    assert whole.filter(pl.col("symbol") == ETH)["timestamp"].max() == minute(5)


def test_one_listing_says_nothing_of_the_next():
    """A symbol that came back may be another asset: its price begins anew, and the time between is not filled."""
    two = universe(Span(None, minute(6), "told"), Span(minute(12), None, "told"))
    traded = EVERYTHING.filter(
        (pl.col("symbol") == BTC) | (pl.col("timestamp") < minute(4)) | (pl.col("timestamp") >= minute(14))
    )
    whole = filled(traded, QUESTION, two, LATER_MS).filter(pl.col("symbol") == ETH)
    numbers = [(at - START_MS) // MINUTE_MS for at in whole["timestamp"]]
    assert numbers == [*range(6), *range(14, 20)]
    assert whole.filter(pl.col(SYNTHETIC))["timestamp"].to_list() == [minute(4), minute(5)]


def test_a_stored_bar_outside_of_its_listing_stays():
    """What is stored is in the answer, whatever the universe thinks of its time."""
    whole = filled(EVERYTHING, QUESTION, universe(Span(minute(3), minute(9), "told")), LATER_MS)
    assert whole.drop(SYNTHETIC).equals(EVERYTHING)
    assert not whole[SYNTHETIC].any()


@pytest.mark.parametrize("columns", [["close"], ["close", "trade_count", "market"]])
def test_only_the_columns_that_were_read_are_filled(columns):
    """The answer has the columns that came in, their dtypes, and the flag."""
    kept = EVERYTHING.filter(pl.col("timestamp") != minute(3)).select("symbol", "timestamp", *columns)
    whole = filled(kept, QUESTION, universe(), LATER_MS)
    assert whole.schema == kept.schema | {SYNTHETIC: pl.Boolean()}
    assert whole.null_count().sum_horizontal().item() == 0
    assert whole[SYNTHETIC].sum() == 2
