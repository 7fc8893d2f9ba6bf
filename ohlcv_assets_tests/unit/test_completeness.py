"""Completeness: every expected minute is there or named, and every row is counted in one class."""

from collections import Counter
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.instruments import Market
from ohlcv_assets.quality.completeness import coverage, missing_ranges
from ohlcv_assets.timestamps import MINUTE_MS, Interval, runs_of_minutes
from ohlcv_assets_tests.builders import SYMBOLS, bars, recorded, shuffled, without

TEN_MINUTES = Interval.parse("2025-06-01T00:00Z", "2025-06-01T00:10Z")
_START_MS = TEN_MINUTES.start_ms


def test_a_whole_grid_is_complete() -> None:
    """Every symbol at every minute, in any order: 100 %, nothing missing, nothing else."""
    report = coverage(shuffled(bars(), 1), SYMBOLS, TEN_MINUTES)
    assert report.is_complete
    assert report.coverage_pct == 100.0
    assert report.counts() == {
        "rows": 20, "expected": 20, "present": 20, "duplicate": 0, "off_grid": 0, "outside": 0, "missing": 0
    }  # fmt: skip


@pytest.mark.parametrize("row", [0, 4, 9, 10, 19])
def test_a_missing_minute_is_named(row: int) -> None:
    """A bar that is not there is named by symbol and minute, at the edges of the interval as inside it."""
    report = coverage(without(bars(), row), SYMBOLS, TEN_MINUTES)
    assert report.missing.rows() == [bars().select("symbol", "timestamp").row(row)]
    assert (report.coverage_pct, report.is_complete) == (95.0, False)


def test_a_symbol_without_any_bar_is_missing_whole() -> None:
    """An expected symbol that delivered nothing misses every minute: the grid comes from the universe, not from the data."""
    report = coverage(bars(), [*SYMBOLS, "SOL/USDT:USDT"], TEN_MINUTES)
    assert report.missing["symbol"].to_list() == ["SOL/USDT:USDT"] * 10
    assert report.missing["timestamp"].to_list() == list(TEN_MINUTES.minutes)


def test_a_copy_covers_nothing() -> None:
    """A duplicate does not stand in for a missing bar, though the number of rows is right."""
    report = coverage(pl.concat([without(bars(), 3), bars().slice(5, 1)]), SYMBOLS, TEN_MINUTES)
    assert (report.rows, report.present, report.duplicate, report.missing.height) == (20, 19, 1, 1)
    assert not report.is_complete


def test_what_does_not_belong_is_counted_apart() -> None:
    """Rows off the minute grid, of another symbol, before the start or at the end (which is no part) are not coverage."""
    keys = bars().select("symbol", "timestamp")
    strangers = pl.DataFrame(
        {
            "symbol": ["BTC/USDT:USDT", "DOGE/USDT:USDT", "BTC/USDT:USDT", "BTC/USDT:USDT", None, "BTC/USDT:USDT"],
            "timestamp": [_START_MS + 1, _START_MS, _START_MS - MINUTE_MS, TEN_MINUTES.end_ms, _START_MS, None],
        },
        schema=keys.schema,
    )
    report = coverage(pl.concat([keys, strangers]), SYMBOLS, TEN_MINUTES)
    assert (report.present, report.off_grid, report.outside, report.duplicate) == (20, 1, 5, 0)
    assert not report.is_complete


def test_nothing_expected_is_no_proof() -> None:
    """No symbols, or an interval without a whole minute, are covered to 0 %, not to 100."""
    for report in (
        coverage(bars(), [], TEN_MINUTES),
        coverage(bars().clear(), SYMBOLS, Interval(_START_MS + 1, _START_MS + 2)),
    ):
        assert (report.expected, report.coverage_pct, report.is_complete) == (0, 0.0, False)
    assert coverage(bars().clear(), SYMBOLS, TEN_MINUTES).missing.height == 20


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["A/USDT", "B/USDT", "C/USDT", None]),
            st.integers(-2, 5).map(lambda half: _START_MS + half * MINUTE_MS // 2) | st.none(),
        ),
        max_size=20,
    ),
    symbols=st.lists(st.sampled_from(["A/USDT", "B/USDT", "D/USDT"]), max_size=4),
    minutes=st.integers(1, 3),
)
def test_it_counts_as_sets_do(rows: list[tuple[str, int]], symbols: list[str], minutes: int) -> None:
    """On any rows, symbols and interval the report is what plain sets give, and every row is in exactly one class."""
    interval = Interval(_START_MS, _START_MS + minutes * MINUTE_MS)
    frame = pl.DataFrame(rows, schema={"symbol": pl.String, "timestamp": pl.Int64}, orient="row")
    report = coverage(frame, symbols, interval)
    grid = {(symbol, minute) for symbol in symbols for minute in interval.minutes}
    times = Counter(rows)
    assert report.expected == len(grid)
    assert report.present == len(grid & set(rows))
    assert report.missing.rows() == sorted(grid - set(rows))
    assert report.duplicate == sum(times[key] - 1 for key in grid if key in times)
    assert report.rows == report.present + report.duplicate + report.off_grid + report.outside == len(rows)


@pytest.mark.real_data
def test_a_recorded_futures_day_is_complete(recorded_data: Path) -> None:
    """USD-M never omits a minute: sixteen symbols have 23,040 of 23,040 bars on 2025-06-01."""
    real = recorded(recorded_data / "klines" / "um_rest_1m_2025-05-25_2025-06-03_A.parquet", Market.FUTURES)
    day = Interval.of_day(date(2025, 6, 1))
    report = coverage(real, real["symbol"].unique(), day)
    assert (report.expected, report.present, report.coverage_pct) == (23_040, 23_040, 100.0)
    assert report.outside == real.height - 23_040


@pytest.mark.real_data
def test_a_recorded_outage_is_named_per_symbol(recorded_data: Path) -> None:
    """Binance's outages of April 2021 come out with their true minutes, also where one symbol's outage is one shorter."""
    real = recorded(recorded_data / "klines" / "spot_rest_1m_40sym_2021-04-20_2021-04-25.parquet", Market.SPOT)
    first = coverage(real, ["AAVE/BTC", "ADA/BTC"], Interval.of_day(date(2021, 4, 20))).missing
    assert {str(run) for run in _runs(first, "AAVE/BTC")} == {"[2021-04-20T02:00Z, 2021-04-20T04:30Z)"}
    assert first.height == 2 * 150
    second = coverage(real, ["BTC/USDT", "XRP/USDT"], Interval.of_day(date(2021, 4, 25))).missing
    assert [str(run) for run in _runs(second, "BTC/USDT")] == ["[2021-04-25T04:01Z, 2021-04-25T08:45Z)"]
    assert [str(run) for run in _runs(second, "XRP/USDT")] == ["[2021-04-25T04:02Z, 2021-04-25T08:45Z)"]


def _runs(missing: pl.DataFrame, symbol: str) -> list[Interval]:
    return runs_of_minutes(missing.filter(symbol=symbol)["timestamp"].to_list())


def test_missing_minutes_are_ranges_and_a_halt_is_one_row() -> None:
    """Symbols that lack the same minutes stand in one row, the longest first, and no minute is lost in it."""
    minutes = {"BTC/USDT": range(4, 9), "ETH/USDT": range(4, 9), "XRP/USDT": range(2, 3)}
    rows = [(symbol, minute * 60_000) for symbol, lacking in minutes.items() for minute in lacking]
    missing = pl.DataFrame(rows, schema={"symbol": pl.String, "timestamp": pl.Int64}, orient="row")
    assert missing_ranges(missing).rows() == [
        (4 * 60_000, 9 * 60_000, 2, "BTC/USDT", 10),
        (2 * 60_000, 3 * 60_000, 1, "XRP/USDT", 1),
    ]
