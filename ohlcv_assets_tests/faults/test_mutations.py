"""The QA against planted defects in real days: every one is found and named by its kind, and clean days raise no alarm."""

from pathlib import Path

import polars as pl
import pytest

from ohlcv_assets.bars import KEY, VALUES
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.quality.causes import Evidence
from ohlcv_assets.quality.diagnosis import diagnose
from ohlcv_assets.quality.flat_blocks import flat_blocks
from ohlcv_assets.quality.ledger import ledger
from ohlcv_assets.quality.verdict import Verdict, verdict_on
from ohlcv_assets.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, Interval, floor_to, parse_time
from ohlcv_assets_tests.builders import recorded
from ohlcv_assets_tests.faults.mutations import MUTATIONS, plant

_FUTURES = "klines/um_rest_1m_2025-05-25_2025-06-03_A.parquet"
_SPOT = "klines/spot_rest_1m_40sym_2021-04-20_2021-04-25.parquet"
_FLAT_DAYS = "klines/um_vision_1m_flat_block_days.parquet"
_DAYS = [
    (_FUTURES, Market.FUTURES, "2025-05-28"),
    (_FUTURES, Market.FUTURES, "2025-06-01"),
    (_SPOT, Market.SPOT, "2021-04-23"),
]


def _day(folder: Path, file: str, market: Market, day: str) -> pl.DataFrame:
    bars = _filled(recorded(folder / file, market))
    start_ms = parse_time(day)
    return bars.filter(pl.col("timestamp").is_between(start_ms, start_ms + DAY_MS, closed="left"))


def _filled(bars: pl.DataFrame) -> pl.DataFrame:
    """With a taker's part, which most recordings lack, so that it can be damaged."""
    return bars.with_columns(taker_buy_volume=pl.col("volume") / 2, taker_buy_quote_volume=pl.col("quote_volume") / 2)


def _judged(streamed: pl.DataFrame, fetched: pl.DataFrame, clean: pl.DataFrame) -> Verdict:
    start_ms = floor_to(int(clean["timestamp"][0]), DAY_MS)
    symbols = clean["symbol"].unique().sort().to_list()
    market = Market.parse(clean["market"][0])
    return verdict_on(streamed, fetched, symbols, market, Interval(start_ms, start_ms + DAY_MS))


@pytest.mark.real_data
@pytest.mark.parametrize("side", ["streamed", "fetched"])
@pytest.mark.parametrize(("file", "market", "day"), _DAYS)
def test_every_planted_defect_is_found_and_named_by_its_kind(
    recorded_data: Path, file: str, market: Market, day: str, side: str
) -> None:
    """Thousands of defects of every kind, on either side of a real day: each is found and named, and nothing else is."""
    clean = _day(recorded_data, file, market, day)
    planted = plant(clean, each=80, seed=20250601)
    verdict = _judged(planted.day, clean, clean) if side == "streamed" else _judged(clean, planted.day, clean)
    named = diagnose(verdict).rename({"kind": "named"})

    found = planted.places.join(named, on=KEY, how="left", nulls_equal=True)
    lost = found.filter(pl.col("named").is_null())
    assert lost.is_empty(), lost
    misnamed = found.filter(~pl.col("kinds").str.split(",").list.contains(pl.col("named")))
    assert misnamed.is_empty(), misnamed
    assert found["mutation"].n_unique() == len(MUTATIONS)
    assert planted.places.height > 1_900

    # A bar that was moved is named where it went and where it lacks: these are the only other names.
    clean_of = _judged(clean, clean, clean)
    others = named.join(planted.places, on=KEY, how="anti", nulls_equal=True)
    others = others.join(diagnose(clean_of), on=KEY, how="anti")
    origins = others.filter(~pl.col("named").is_in(["missing", "other_minute", "duplicate"]))
    assert origins.is_empty(), origins
    assert not verdict.match.is_match


@pytest.mark.real_data
@pytest.mark.parametrize(("file", "market", "day"), _DAYS)
def test_a_clean_real_day_has_nothing_but_the_minutes_that_the_exchange_omitted(
    recorded_data: Path, file: str, market: Market, day: str
) -> None:
    """Two equal captures of a real day: a match, sound, and no diagnosis but of minutes that neither side has."""
    clean = _day(recorded_data, file, market, day)
    verdict = _judged(clean, clean, clean)
    assert verdict.match.is_match
    assert verdict.streamed_soundness.is_sound
    assert set(diagnose(verdict)["kind"]) <= {"missing"}
    assert diagnose(verdict).height == verdict.streamed_coverage.missing.height


_QUIET_DAYS = [
    *_DAYS,
    (_SPOT, Market.SPOT, "2021-04-20"),  # a halt of 150 minutes; two symbols are silent in 39 minutes of 100
    (_SPOT, Market.SPOT, "2021-04-25"),  # a halt of 284 minutes
    (_FLAT_DAYS, Market.FUTURES, "2023-09-12"),  # a halt of the whole exchange, in flat bars
]


@pytest.mark.real_data
@pytest.mark.parametrize(("file", "market", "day"), _QUIET_DAYS)
def test_a_real_day_raises_no_alarm_about_flat_blocks(
    recorded_data: Path, file: str, market: Market, day: str
) -> None:
    """Halts, restarts after them, and symbols that are silent in two minutes of five are nothing suspicious."""
    assert flat_blocks(_day(recorded_data, file, market, day)).is_empty()


@pytest.mark.real_data
@pytest.mark.parametrize("start_hour", [3, 9, 15, 20])
def test_a_flat_block_in_both_captures_is_pointed_out(recorded_data: Path, start_hour: int) -> None:
    """Two captures that agree on an hour without trades of a symbol that always trades: what no comparison can find."""
    file, market, day = _DAYS[0]
    clean = _day(recorded_data, file, market, day)
    start_ms = parse_time(day) + start_hour * HOUR_MS
    symbol = clean["symbol"].unique().sort()[start_hour % 16]
    block = (pl.col("symbol") == symbol) & pl.col("timestamp").is_between(
        start_ms, start_ms + 60 * MINUTE_MS, closed="left"
    )
    price = clean.filter(block)["open"][0]
    prices = {name: pl.when(block).then(price).otherwise(pl.col(name)) for name in ("open", "high", "low", "close")}
    nothing = {name: pl.when(block).then(0).otherwise(pl.col(name)).cast(clean.schema[name]) for name in VALUES[4:]}
    damaged = clean.with_columns(**prices, **nothing)
    assert _judged(damaged, damaged, clean).match.is_match
    assert flat_blocks(damaged).select("symbol", "start", "minutes").rows() == [(symbol, start_ms, 60)]


@pytest.mark.real_data
@pytest.mark.parametrize("hours_off", [-1, 1, 7, 23])
def test_a_wrong_listing_time_is_found_by_the_bars(recorded_data: Path, hours_off: int) -> None:
    """A universe that says "not listed" of minutes in which the symbol traded is contradicted; a right one is not."""
    file, market, day = _DAYS[0]
    clean, start_ms = _day(recorded_data, file, market, day), parse_time(day)
    symbol, interval = clean["symbol"][0], Interval(start_ms, start_ms + DAY_MS)
    since_ms = start_ms + hours_off * HOUR_MS
    listing = {Symbol(symbol): ListingTimes("X", (Span(since_ms, None, "planted"),))}
    made = ledger(clean, clean, clean["symbol"].unique(), market, interval, Evidence(listing=listing))
    told = made.unlisted_trades
    traded = clean.filter((pl.col("symbol") == symbol) & (pl.col("timestamp") < since_ms) & (pl.col("volume") > 0))
    assert told.rows() == traded.select("symbol", "timestamp").rows()
    assert (told.height > 0) == (hours_off > 0)
