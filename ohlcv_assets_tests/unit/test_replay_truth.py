"""The replay exchange's truth: what files and generators become, and what is refused."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets import bars
from ohlcv_assets.errors import InvalidBars, OhlcvError, UsageError
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay import derive
from ohlcv_assets.replay.truth import (
    TRUTH_SCHEMA,
    exchange_symbol,
    generate_truth,
    held_interval,
    load_truth,
    unified,
)
from ohlcv_assets.timestamps import MINUTE_MS, Interval, parse_time

START_MS = parse_time("2025-06-01")

prices = st.integers(1, 10**7).map(lambda ticks: ticks / 100)
amounts = st.one_of(st.just(0.0), st.integers(1, 10**10).map(lambda steps: steps / 1000))


@st.composite
def recorded_rows(draw: st.DrawFn) -> pl.DataFrame:
    """Rows as in a recorded file: open, high, low, close and volume of one symbol."""
    drawn = draw(st.lists(st.tuples(st.lists(prices, min_size=4, max_size=4), amounts), min_size=1, max_size=20))
    rows = []
    for minute, ((low, a, b, high), volume) in enumerate((sorted(four), volume) for four, volume in drawn):
        opening, close = (a, b) if draw(st.booleans()) else (b, a)
        rows.append(("BTCUSDT", START_MS + minute * MINUTE_MS, opening, high, low, close, volume))
    return pl.DataFrame(rows, schema=RECORDED, orient="row")


RECORDED = {"symbol": pl.String, "open_time": pl.Int64} | dict.fromkeys(
    ("open", "high", "low", "close", "volume"), pl.Float64
)
ONE_ROW = pl.DataFrame([("BTCUSDT", START_MS, 1.5, 2.0, 1.0, 1.5, 10.0)], schema=RECORDED, orient="row")


def as_bars(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.rename({"open_time": "timestamp"}).with_columns(market=pl.lit("futures"))


@settings(max_examples=60, deadline=None)
@given(recorded_rows())
def test_derived_bars_obey_every_invariant(rows: pl.DataFrame) -> None:
    """Whatever a file holds, the completed bar breaks no invariant, and what was there is untouched."""
    derived = derive.complete(as_bars(rows))
    assert bars.violations(derived).is_empty()
    assert derived.select(as_bars(rows).columns).equals(as_bars(rows))


@settings(max_examples=30, deadline=None)
@given(recorded_rows())
def test_a_derived_bar_depends_on_the_recording_only(rows: pl.DataFrame) -> None:
    """Deriving twice, or with the rows in another order, gives the same bits."""
    forward, backward = derive.complete(as_bars(rows)), derive.complete(as_bars(rows.reverse()))
    assert forward.equals(backward.reverse())


@settings(max_examples=60, deadline=None)
@given(recorded_rows())
def test_derived_amounts_lie_on_the_recordings_grid(rows: pl.DataFrame) -> None:
    """A derived amount needs no more decimals than the recorded prices and volumes do."""
    derived = derive.complete(as_bars(rows))
    price, volume, taker, quote = (
        derive.grid_decimals([derived[name].to_numpy() for name in names])
        for names in (
            ("open", "high", "low", "close"),
            ("volume",),
            ("taker_buy_volume",),
            ("quote_volume", "taker_buy_quote_volume"),
        )
    )
    assert taker <= volume
    assert quote <= price + volume


def test_columns_that_are_there_are_not_derived() -> None:
    """A file's own count and taker volumes are served as they are."""
    given_columns = ONE_ROW.with_columns(count=3, taker_buy_volume=4.0, taker_buy_quote_volume=5.0, quote_volume=15.0)
    derived = derive.complete(as_bars(given_columns).rename({"count": "trade_count"}))
    assert derived.select("quote_volume", "trade_count", "taker_buy_volume", "taker_buy_quote_volume").row(0) == (
        15,
        3,
        4,
        5,
    )


def test_generated_bars_obey_every_invariant() -> None:
    """A made-up market is a market: bars of the schema, every minute there, no invariant broken."""
    truth = generate_truth(symbols=23, days=1, seed=3, first_day=date(2025, 2, 28))
    for market, frame in truth.items():
        assert dict(frame.schema) == TRUTH_SCHEMA
        assert bars.violations(frame).is_empty()
        assert frame.group_by("symbol").len()["len"].unique().to_list() == [1440]
        assert frame["market"].unique().to_list() == [market.value]
        assert frame.equals(frame.sort("symbol", "timestamp"))


def test_a_seed_decides_a_generated_market() -> None:
    """The same seed gives the same bits, another seed others, and a larger market holds the smaller one."""
    small, again, other, large = (
        generate_truth(symbols=count, days=1, seed=seed, first_day=date(2025, 6, 1))[Market.SPOT]
        for count, seed in ((3, 7), (3, 7), (3, 8), (6, 7))
    )
    assert small.equals(again)
    assert not small.equals(other)
    assert large.filter(pl.col("symbol").is_in(small["symbol"].unique().implode())).equals(small)


def test_every_generated_market_has_minutes_without_a_trade() -> None:
    """Some minutes are flat and empty: the last close goes on."""
    for frame in generate_truth(symbols=5, days=1, seed=7, first_day=date(2025, 6, 1)).values():
        idle = frame.with_columns(last=pl.col("close").shift(1).over("symbol")).filter(pl.col("trade_count") == 0)
        assert idle.height > 10
        idle = idle.drop_nulls("last")
        assert idle.filter(pl.any_horizontal(pl.col("open", "high", "low", "close") != pl.col("last"))).is_empty()
        assert idle["volume"].sum() == 0


@pytest.mark.parametrize(
    ("name", "market", "expected"),
    [
        ("BTCUSDT", Market.SPOT, "BTC/USDT"),
        ("BTCUSDT", Market.FUTURES, "BTC/USDT:USDT"),
        ("ETHBTC", Market.SPOT, "ETH/BTC"),
        ("BTCFDUSD", Market.SPOT, "BTC/FDUSD"),
        ("1000SHIBUSDC", Market.FUTURES, "1000SHIB/USDC:USDC"),
        ("币安人生USDT", Market.FUTURES, "币安人生/USDT:USDT"),
    ],
)
def test_exchange_names_and_unified_symbols(name: str, market: Market, expected: str) -> None:
    """The exchange's name of a symbol and the unified one lead to each other."""
    assert unified(name, market) == expected
    assert exchange_symbol(expected) == name


@pytest.mark.parametrize("name", ["BTC", "USDT", "BTCXYZ", "../USDT"])
def test_a_name_without_a_known_quote_is_refused(name: str) -> None:
    """A symbol that cannot be split is an error, never a guess."""
    with pytest.raises(UsageError):
        unified(name, Market.SPOT)


def test_a_loaded_truth_is_the_file(tmp_path: Path) -> None:
    """Every value of the file arrives bit for bit under the unified symbol; the other market is empty."""
    file = tmp_path / "bars.parquet"
    ONE_ROW.write_parquet(file)
    truth = load_truth(file, Market.FUTURES)
    assert truth[Market.SPOT].is_empty()
    assert truth[Market.FUTURES].select("symbol", "timestamp", "open", "high", "low", "close", "volume").row(0) == (
        "BTC/USDT:USDT", START_MS, 1.5, 2.0, 1.0, 1.5, 10.0,
    )  # fmt: skip
    assert held_interval(file) == Interval(START_MS, START_MS + MINUTE_MS)


@pytest.mark.parametrize(
    ("frame", "error", "told"),
    [
        (ONE_ROW.drop("volume"), UsageError, "volume"),
        (ONE_ROW.clear(), UsageError, "no bars"),
        (ONE_ROW.with_columns(open=pl.lit("dear")), UsageError, "open"),
        (ONE_ROW.with_columns(symbol=pl.lit("BTCXYZ")), UsageError, "BTCXYZ"),
        (pl.concat([ONE_ROW, ONE_ROW]), InvalidBars, "more than once"),
        (ONE_ROW.with_columns(high=pl.lit(0.5)), InvalidBars, "high_is_highest"),
        (ONE_ROW.with_columns(open_time=pl.col("open_time") + 1), InvalidBars, "on_the_grid"),
        (ONE_ROW.with_columns(volume=pl.lit(None, pl.Float64)), InvalidBars, "complete"),
    ],
)
def test_a_file_that_cannot_be_played_is_refused(
    tmp_path: Path, frame: pl.DataFrame, error: type[OhlcvError], told: str
) -> None:
    """A bad file is one error that names what is wrong."""
    file = tmp_path / "bars.parquet"
    frame.write_parquet(file)
    with pytest.raises(error, match=told):
        load_truth(file, Market.SPOT)


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    """An absent file and a file of something else are errors that name the path."""
    with pytest.raises(UsageError, match=r"absent\.parquet"):
        load_truth(tmp_path / "absent.parquet", Market.SPOT)
    (tmp_path / "text.parquet").write_text("open,high")
    with pytest.raises(UsageError, match=r"text\.parquet"):
        load_truth(tmp_path / "text.parquet", Market.SPOT)


@pytest.mark.parametrize(("symbols", "days"), [(0, 1), (1, 0), (-1, 1), (1, 10_000)])
def test_a_market_without_symbols_or_days_is_refused(symbols: int, days: int) -> None:
    """There is nothing to generate, or too much: an error at once."""
    with pytest.raises(UsageError):
        generate_truth(symbols=symbols, days=days, seed=7, first_day=date(2025, 6, 1))
