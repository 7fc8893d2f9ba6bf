"""Flat blocks: silence that a symbol's own habit does not explain is suspicious, silence of all of them is a halt."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.instruments import Market
from ohlcv_assets.quality.flat_blocks import FLAT_BLOCKS_SCHEMA, HALTS_SCHEMA, flat_blocks, halts
from ohlcv_assets.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, parse_time
from ohlcv_assets_tests.builders import bars, recorded, shuffled

_START_MS = parse_time("2025-06-01")
_NAMES = ["A/USDT:USDT", "B/USDT:USDT", "C/USDT:USDT"]


def _flat(frame: pl.DataFrame, symbols: list[str], first: int, minutes: int) -> pl.DataFrame:
    """The same bars, those of these symbols and minutes flat at the close before, as the exchange makes them."""
    begins = _START_MS + first * MINUTE_MS
    here = pl.col("symbol").is_in(symbols) & pl.col("timestamp").is_between(
        begins, begins + (minutes - 1) * MINUTE_MS
    )
    before = pl.col("close").filter(pl.col("timestamp") < begins).last().over("symbol")
    prices = [pl.when(here).then(before).otherwise(name).alias(name) for name in ("open", "high", "low", "close")]
    return frame.with_columns(*prices, volume=pl.when(here).then(0.0).otherwise("volume"))


def _days(frame: pl.DataFrame, step_ms: int = DAY_MS) -> list[pl.DataFrame]:
    return frame.with_columns(day=pl.col("timestamp") // step_ms).partition_by("day", include_key=False)


def test_a_long_block_of_a_busy_symbol_is_suspicious_and_named() -> None:
    """Twelve silent minutes of a symbol that is never silent, after which it opens elsewhere: start, end, length and jump."""
    found = flat_blocks(_flat(bars(_NAMES, minutes=1440), ["B/USDT:USDT"], 200, 12))
    row = found.row(0, named=True)
    assert found.height == 1
    assert dict(found.schema) == FLAT_BLOCKS_SCHEMA
    assert (row["symbol"], row["minutes"]) == ("B/USDT:USDT", 12)
    assert (row["start"], row["end"]) == (_START_MS + 200 * MINUTE_MS, _START_MS + 212 * MINUTE_MS)
    assert row["jump_pct"] == pytest.approx(abs(row["next_open"] / row["price"] - 1) * 100)
    assert row["jump_pct"] > 0


def test_a_block_whose_price_is_still_right_is_not_suspicious() -> None:
    """The next bar opens where the block stood: perhaps nobody trades the symbol; nothing was left out for sure."""
    silent = _flat(bars(_NAMES, minutes=1440), ["B/USDT:USDT"], 100, 30)
    after = (pl.col("symbol") == "B/USDT:USDT") & (pl.col("timestamp") == _START_MS + 130 * MINUTE_MS)
    stays = silent.with_columns(open=pl.when(after).then(pl.col("close").shift().over("symbol")).otherwise("open"))
    assert flat_blocks(silent).height == 1
    assert flat_blocks(stays).is_empty()


def test_a_short_block_or_one_without_an_end_is_not_suspicious() -> None:
    """Nine minutes are no block, and of one that reaches the end of what was looked at nobody knows what came after."""
    day = bars(_NAMES, minutes=1440)
    assert flat_blocks(_flat(day, ["B/USDT:USDT"], 100, 9)).is_empty()
    assert flat_blocks(_flat(day, ["B/USDT:USDT"], 1400, 40)).is_empty()


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.05, 0.9), seed=st.integers(0, 10_000))
def test_silence_by_habit_is_never_suspicious(share: float, seed: int) -> None:
    """A symbol that is silent in any share of its minutes, at random, gives no alarm, however long its silences get."""
    day = bars(["A/USDT"], minutes=1440, seed=seed % 50)
    silent = np.random.default_rng(seed).random(1440) < share
    quiet = pl.Series(silent)
    thin = day.with_columns(
        *[pl.when(quiet).then(1.0).otherwise(name).alias(name) for name in ("open", "high", "low", "close")],
        volume=pl.when(quiet).then(0.0).otherwise("volume"),
    )
    assert flat_blocks(thin).is_empty()


def test_when_all_stand_still_it_is_a_halt_and_not_suspicious() -> None:
    """Every symbol flat at once for fifteen minutes: one halt with its symbols counted, and no suspicious block."""
    halted = _flat(bars(_NAMES, minutes=1440), _NAMES, 600, 15)
    found = halts(halted)
    assert dict(found.schema) == HALTS_SCHEMA
    assert found.rows() == [(_START_MS + 600 * MINUTE_MS, _START_MS + 615 * MINUTE_MS, 15, 3, 3)]
    assert flat_blocks(halted).is_empty()


def test_a_block_that_goes_on_after_a_halt_is_suspicious() -> None:
    """A symbol that stays flat for half an hour after the others came back is not excused by the halt."""
    bars_of_day = _flat(_flat(bars(_NAMES, minutes=1440), _NAMES, 600, 15), ["C/USDT:USDT"], 600, 45)
    assert flat_blocks(bars_of_day)["symbol"].to_list() == ["C/USDT:USDT"]


def test_one_symbol_or_one_minute_is_no_halt() -> None:
    """A single symbol proves nothing about the exchange, nor does one minute, nor two symbols of three."""
    day = bars(_NAMES, minutes=1440)
    assert halts(_flat(bars(["A/USDT:USDT"], minutes=1440), ["A/USDT:USDT"], 600, 30)).is_empty()
    assert halts(_flat(day, _NAMES, 600, 1)).is_empty()
    assert halts(_flat(day, _NAMES[:2], 600, 30)).is_empty()
    assert halts(_flat(day, _NAMES, 600, 2)).height == 1


def test_two_thin_symbols_that_are_silent_together_are_no_halt() -> None:
    """Symbols that are silent in four minutes of ten are often silent at once for a few minutes: that is chance."""
    random = np.random.default_rng(3)
    day = bars(["A/USDT", "B/USDT"], minutes=1440)
    quiet = pl.Series(random.random(2880) < 0.4)
    thin = day.with_columns(
        *[pl.when(quiet).then(1.0).otherwise(name).alias(name) for name in ("open", "high", "low", "close")],
        volume=pl.when(quiet).then(0.0).otherwise("volume"),
    )
    assert halts(thin).is_empty()


def test_order_and_copies_do_not_matter() -> None:
    """Shuffled rows, and a block that stands twice, give the same findings."""
    day = _flat(_flat(bars(_NAMES, minutes=1440), _NAMES, 600, 15), ["B/USDT:USDT"], 100, 20)
    assert flat_blocks(shuffled(day, 1)).equals(flat_blocks(day))
    assert halts(shuffled(day, 1)).equals(halts(day))
    assert flat_blocks(pl.concat([day, day.slice(1540, 10)])).equals(flat_blocks(day))


def test_nothing_is_found_in_nothing() -> None:
    """No bars, no blocks and no halts."""
    assert flat_blocks(bars().clear()).is_empty()
    assert halts(bars().clear()).is_empty()


@pytest.mark.real_data
def test_the_archives_known_defects_are_suspicious_and_the_real_halt_is_not(recorded_data) -> None:
    """FIL of 2024-10-28 (14 and 74 minutes) is named; the halt of 2023-09-12 is one halt; thin ALGO gives no alarm."""
    real = recorded(recorded_data / "klines" / "um_vision_1m_flat_block_days.parquet", Market.FUTURES)
    found, stood_still = (pl.concat([rule(day) for day in _days(real)]) for rule in (flat_blocks, halts))
    assert found.select("symbol", "start", "minutes").sort("start").rows() == [
        ("FIL/USDT:USDT", parse_time("2024-10-28T16:21Z"), 14),
        ("FIL/USDT:USDT", parse_time("2024-10-28T20:00Z"), 74),
    ]
    assert stood_still.select("start", "minutes", "symbols_flat").rows() == [(parse_time("2023-09-12T08:34Z"), 19, 3)]


@pytest.mark.real_data
@pytest.mark.parametrize("step_ms", [DAY_MS, HOUR_MS], ids=["by the day", "by the hour"])
@pytest.mark.parametrize(
    ("name", "market"),
    [
        ("spot_rest_1m_40sym_2021-04-20_2021-04-25", Market.SPOT),
        ("um_rest_1m_2025-05-25_2025-06-03_A", Market.FUTURES),
        ("um_vision_1m_FIL_NEAR_2025-06-01_03", Market.FUTURES),
    ],
)
def test_real_days_without_defects_give_no_alarm(recorded_data, name: str, market: Market, step_ms: int) -> None:
    """Neither symbols with 39 % silent minutes nor the outages of April 2021 are suspicious or halts by flat bars."""
    real = recorded(recorded_data / "klines" / f"{name}.parquet", market)
    for part in _days(real, step_ms):
        assert flat_blocks(part).is_empty()
        assert halts(part).is_empty()
