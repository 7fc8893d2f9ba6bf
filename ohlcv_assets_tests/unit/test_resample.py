"""Promises of resampling: longer bars are what the exchange would have said, to the last digit, and never hide a gap."""

from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.bars import VALUES
from ohlcv_assets.client.question import WINDOWS_MS, Question, window_ms
from ohlcv_assets.client.resample import exact_sums, refuse_incomplete, resampled
from ohlcv_assets.errors import IncompleteWindow, UsageError
from ohlcv_assets.instruments import Market, Symbol, Universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, Interval, parse_time
from ohlcv_assets_tests.builders import bars, recorded

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
START_MS = parse_time("2025-06-01")
_AMOUNTS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")

decimals = st.integers(0, 10**15).map(lambda units: Decimal(units) / 10**8)
large = st.integers(0, 10**11).map(lambda units: Decimal(units) / 10)


def question(symbols=(BTC, ETH), hours=24):
    """Some hours of a day."""
    names = tuple(Symbol(name) for name in symbols)
    return Question(Market.FUTURES, names, Interval(START_MS, START_MS + hours * HOUR_MS))


def universe(listings=None):
    """The two symbols, listed at any time unless said."""
    return Universe.of("v1.0", {Market.FUTURES: [BTC, ETH]}, listings=listings)


def by_hand(window):
    """One longer bar from the bars of its minutes, by the words of the definition."""
    rows = window.to_dicts()
    sums = {name: float(sum((Decimal(repr(row[name])) for row in rows), Decimal(0))) for name in _AMOUNTS}
    return {
        "open": rows[0]["open"],
        "high": max(row["high"] for row in rows),
        "low": min(row["low"] for row in rows),
        "close": rows[-1]["close"],
        "trade_count": sum(row["trade_count"] for row in rows),
        **sums,
    }


@given(st.lists(st.lists(st.one_of(decimals, large), min_size=1, max_size=40), min_size=1, max_size=6))
def test_sums_are_those_of_the_exchanges_decimals(groups):
    """The sum is the double nearest to the decimal sum, in each group and whatever its neighbours are."""
    summed = exact_sums(
        np.array([float(value) for group in groups for value in group]), np.array([len(group) for group in groups])
    )
    assert summed.tolist() == [float(sum(group, Decimal(0))) for group in groups]


def test_a_plain_sum_would_be_wrong():
    """The reason for all this: ten times 0.1 is 1.0 to the exchange."""
    assert sum([0.1] * 10) != 1.0
    assert exact_sums(np.array([0.1] * 10), np.array([10])).tolist() == [1.0]
    assert exact_sums(np.array([]), np.array([], dtype=np.int64)).tolist() == []


@given(st.lists(st.floats(0, 1e12, allow_nan=False), min_size=1, max_size=30))
def test_numbers_off_the_exchanges_grid_are_summed_right_too(values):
    """A value with more than eight decimals, or too large to have them, makes the sum the nearest one of doubles."""
    summed = exact_sums(np.array(values), np.array([len(values)]))[0]
    assert summed == pytest.approx(float(sum(map(Decimal, values), Decimal(0))), rel=1e-15, abs=0)


@pytest.mark.parametrize("length", list(WINDOWS_MS))
def test_every_window_is_what_its_minutes_say(length):
    """Each length gives first, highest, lowest, last and sums of its minutes, aligned to midnight, once each."""
    minutes = bars((BTC, ETH), minutes=1440).with_columns(pl.col(name).round(8) for name in _AMOUNTS)
    length_ms = WINDOWS_MS[length]
    longer = resampled(minutes, length_ms)
    assert longer.height == 2 * DAY_MS // length_ms
    assert (longer["timestamp"] % length_ms).sum() == 0
    assert set(longer["bars"]) == {length_ms // MINUTE_MS}
    for row in (0, longer.height // 3, longer.height - 1):
        symbol, start_ms = longer["symbol"][row], longer["timestamp"][row]
        inside = pl.col("timestamp").is_between(start_ms, start_ms + length_ms, closed="left")
        expected = by_hand(minutes.filter((pl.col("symbol") == symbol) & inside))
        assert {name: longer[name][row] for name in expected} == expected


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "market"),
    [
        ("spot_rest_1m_BTC_ETH_2024-08-08_09.parquet", Market.SPOT),
        ("um_vision_1m_FIL_NEAR_2025-06-01_03.parquet", Market.FUTURES),
        ("spot_rest_1m_40sym_2021-04-20_2021-04-25.parquet", Market.SPOT),
    ],
)
def test_an_hour_of_real_bars_is_the_sum_of_its_decimals(recorded_data, file, market):
    """Over real days every amount of every hour is the exchange's own decimals added up, and hours of hours agree."""
    minutes = recorded(recorded_data / "klines" / file, market)
    hours = resampled(minutes, HOUR_MS)
    of_hour = minutes.group_by("symbol", pl.col("timestamp") // HOUR_MS, maintain_order=True).agg("volume")
    added = [float(sum((Decimal(repr(value)) for value in values), Decimal(0))) for values in of_hour["volume"]]
    assert hours["volume"].to_list() == added
    through_quarters = resampled(resampled(minutes, 15 * MINUTE_MS).drop("bars"), HOUR_MS)
    assert through_quarters.select(VALUES[:4]).equals(hours.select(VALUES[:4]))
    assert through_quarters["volume"].equals(hours["volume"])


def test_a_window_with_a_gap_is_named():
    """A missing minute makes its window an error that says which, how many bars it has, and what can be done."""
    minutes = bars((BTC, ETH), minutes=1440).filter(
        ~((pl.col("symbol") == ETH) & (pl.col("timestamp") == START_MS + 61 * MINUTE_MS))
    )
    windows = resampled(minutes, HOUR_MS)
    with pytest.raises(IncompleteWindow, match=r"1 of 48 windows.*ETH/USDT:USDT \[2025-06-01T01:00Z.* has 59 of 60"):
        refuse_incomplete(question(), universe(), windows, HOUR_MS, "raise")
    assert refuse_incomplete(question(), universe(), windows, HOUR_MS, "drop").height == 47
    kept = refuse_incomplete(question(), universe(), windows, HOUR_MS, "keep")
    assert kept.filter(pl.col("bars") < 60)["bars"].to_list() == [59]


def test_a_window_without_any_bar_is_named_too():
    """An hour that is not there at all is as incomplete as one that lacks a minute; it is never made up."""
    lost = pl.col("timestamp").is_between(START_MS + HOUR_MS, START_MS + 2 * HOUR_MS, closed="left")
    windows = resampled(bars((BTC, ETH), minutes=1440).filter(~lost), HOUR_MS)
    with pytest.raises(IncompleteWindow, match=r"2 of 48 windows.* has 0 of 60 bars"):
        refuse_incomplete(question(), universe(), windows, HOUR_MS, "raise")
    assert refuse_incomplete(question(), universe(), windows, HOUR_MS, "keep").height == 46


def test_before_its_listing_a_symbol_lacks_nothing():
    """Windows before the listing are not expected, and the one in which it falls is whole with the minutes since."""
    since_ms = START_MS + 90 * MINUTE_MS
    listed = universe({Symbol(ETH): ListingTimes("ETHUSDT", (Span(since_ms, None, "told"),))})
    minutes = bars((BTC, ETH), minutes=1440).filter((pl.col("symbol") == BTC) | (pl.col("timestamp") >= since_ms))
    windows = resampled(minutes, HOUR_MS)
    whole = refuse_incomplete(question(), listed, windows, HOUR_MS, "raise")
    assert whole.filter(pl.col("symbol") == ETH)["bars"].to_list() == [30] + [60] * 22
    with pytest.raises(IncompleteWindow):
        refuse_incomplete(question(), universe(), windows, HOUR_MS, "raise")


@pytest.mark.parametrize(
    ("start", "end"), [("2025-06-01T00:01Z", "2025-06-01T02:00Z"), ("2025-06-01", "2025-06-01T01:30Z")]
)
def test_an_interval_that_cuts_a_window_is_refused(start, end):
    """The error gives the interval that holds its windows whole; a length that does not divide a day is refused as well."""
    with pytest.raises(UsageError) as refused:
        window_ms("1h", Interval.parse(start, end))
    assert refused.value.hint == "read [2025-06-01T00:00Z, 2025-06-01T02:00Z)"
    assert window_ms("1h", Interval.parse("2025-06-01", "2025-06-01T02:00Z")) == HOUR_MS
    with pytest.raises(UsageError, match="7m"):
        window_ms("7m", Interval.parse("2025-06-01", "2025-06-02"))
