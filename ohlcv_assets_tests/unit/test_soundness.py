"""Soundness: every invariant of the bar is counted by its name, over all bars, and real bars break none."""

import math
from pathlib import Path

import polars as pl
import pytest

from ohlcv_assets.bars import INVARIANTS
from ohlcv_assets.errors import InvalidBars
from ohlcv_assets.instruments import Market
from ohlcv_assets.quality.soundness import soundness
from ohlcv_assets_tests.builders import bars, corrupted, recorded, shuffled


def test_sound_bars_break_nothing() -> None:
    """Valid bars are sound, and every invariant is listed with 0, so that a chart of it has a line."""
    report = soundness(bars())
    assert report.is_sound
    assert report.rows == 20
    assert dict(report.broken) == {invariant.name: 0 for invariant in INVARIANTS}


def test_no_bars_are_no_proof() -> None:
    """An empty frame breaks nothing and is not sound."""
    assert not soundness(bars().clear()).is_sound


@pytest.mark.parametrize(
    ("column", "value", "invariants"),
    [
        ("close", None, {"complete", "prices_positive", "low_is_lowest", "high_is_highest"}),
        ("close", math.nan, {"prices_positive", "high_is_highest"}),
        ("low", -1.0, {"prices_positive"}),
        ("high", math.inf, {"prices_positive"}),
        ("high", 1.0, {"high_is_highest", "low_is_lowest"}),
        ("low", 1e6, {"high_is_highest", "low_is_lowest"}),
        ("volume", -1.0, {"amounts_not_negative", "taker_part_of_whole"}),
        ("volume", math.nan, {"amounts_not_negative"}),
        ("trade_count", -1, {"trade_count_not_negative", "no_trade_no_volume"}),
        ("trade_count", 0, {"no_trade_no_volume"}),
        ("taker_buy_volume", 1e12, {"taker_part_of_whole"}),
        ("timestamp", 1_748_736_000_001, {"on_the_grid"}),
        ("timestamp", 1_748_736_000, {"in_milliseconds"}),
        ("timestamp", 1_748_736_000_000_000, {"in_milliseconds"}),
    ],
)
def test_one_broken_bar_is_named(column: str, value: object, invariants: set[str]) -> None:
    """One wrong value breaks its invariants, once each, in its own bar alone."""
    report = soundness(corrupted(bars(), 7, column, value))
    names = {name for name, times in report.broken.items() if times}
    assert names >= invariants - {"low_is_lowest", "high_is_highest"}
    assert all(report.broken[name] == 1 for name in names)
    assert report.violations["symbol"].unique().to_list() == [bars()["symbol"][7]]
    assert not report.is_sound


def test_it_goes_on_after_the_first() -> None:
    """Every broken bar is counted, and the list is in the same order however the rows stand."""
    broken = bars().with_columns(pl.col("volume") * -1)
    assert soundness(broken).broken["amounts_not_negative"] == 20
    assert soundness(broken).violations.equals(soundness(shuffled(broken, 3)).violations)


def test_what_are_no_bars_are_refused() -> None:
    """A frame without a value column is not looked at in part."""
    with pytest.raises(InvalidBars, match="trade_count"):
        soundness(bars().drop("trade_count"))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "market"),
    [
        ("um_rest_1m_2025-05-25_2025-06-03_A.parquet", Market.FUTURES),
        ("um_vision_1m_FIL_NEAR_2025-06-01_03.parquet", Market.FUTURES),
        ("um_vision_1m_flat_block_days.parquet", Market.FUTURES),
        ("spot_rest_1m_40sym_2021-04-20_2021-04-25.parquet", Market.SPOT),
        ("spot_rest_1m_BTC_ETH_2024-08-08_09.parquet", Market.SPOT),
    ],
)
def test_real_bars_are_sound(recorded_data: Path, file: str, market: Market) -> None:
    """No real bar, of quiet symbols and of days with outages and flat blocks among them, breaks an invariant."""
    report = soundness(recorded(recorded_data / "klines" / file, market))
    assert report.is_sound, report.violations
