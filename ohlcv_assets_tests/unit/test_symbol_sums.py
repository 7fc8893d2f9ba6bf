"""Promises of the check sums: whatever part of a day is read, it is what was written, or it is an error."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.bars import SCHEMA, VALUES
from ohlcv_assets.errors import CorruptFile, DayMissing
from ohlcv_assets.storage.bars_file import decode, encode
from ohlcv_assets.storage.day_reader import DaySource, Wanted, read_days
from ohlcv_assets.storage.symbol_sums import SUMMED, damage, parse_sums, runs, symbol_sums
from ohlcv_assets.timestamps import DAY_MS
from ohlcv_assets_tests.builders import DOWNLOADED, bars, corrupted, without

SYMBOLS = [f"S{number}/USDT:USDT" for number in range(5)]
DAY = date(2025, 6, 1)


def stored(day=0, minutes=200):
    """Bars as a day's file holds them."""
    known = pl.lit(DOWNLOADED, SCHEMA["knowledge_timestamp"])
    return bars(SYMBOLS, minutes=minutes).with_columns(pl.col("timestamp") + day * DAY_MS, knowledge_timestamp=known)


def source(path, content, day=DAY):
    """A day's file at a path."""
    path.write_bytes(content)
    return DaySource(day, str(path), lambda: decode(path.read_bytes(), str(path)).bars)


def wanted(symbols, *columns):
    """What a reader asks for."""
    return Wanted("futures", None if symbols is None else frozenset(symbols), ("symbol", "timestamp", *columns))


@given(st.integers(0, 49), st.sampled_from(SUMMED[1:]))
def test_another_value_in_any_column_is_found_and_named(row, column):
    """One other value anywhere has another sum, and the answer names the day, the column and the symbol."""
    frame = stored(minutes=10)
    value = frame[column].to_physical()[row]
    other = corrupted(frame.with_columns(pl.col(column).to_physical()), row, column, value + 1)
    sums = {frame["timestamp"][0] // DAY_MS: parse_sums(symbol_sums(frame))}
    assert damage(frame, runs(frame), sums) is None
    wrong = damage(other, runs(other), sums)
    assert wrong == (next(iter(sums)), f"the column {column} of {frame['symbol'][row]}")


@pytest.mark.parametrize("row", [0, 9, 10, 49])
def test_a_row_that_is_gone_is_found(row):
    """Rows that a damaged file no longer gives are missed, also when it is a symbol's only one."""
    frame = stored(minutes=10)
    sums = {frame["timestamp"][0] // DAY_MS: parse_sums(symbol_sums(frame))}
    short = without(frame, row)
    assert damage(short, runs(short), sums) is not None
    none = frame.filter(pl.col("symbol") != SYMBOLS[3])
    assert damage(none, runs(none), sums) == (next(iter(sums)), f"no rows of {SYMBOLS[3]}")


def test_part_of_a_file_is_read_as_it_was_written(tmp_path):
    """Some symbols and columns of several days come back bit for bit, by symbol and time, with the market set."""
    days = [stored(day) for day in range(3)]
    sources = [
        source(tmp_path / f"{day}.parquet", encode(frame), date(2025, 6, 1 + day)) for day, frame in enumerate(days)
    ]
    read = read_days(sources, wanted([SYMBOLS[4], SYMBOLS[1], "NO/USDT:USDT"], "close", "market", "trade_count"), {})
    expected = pl.concat(days).filter(pl.col("symbol").is_in([SYMBOLS[1], SYMBOLS[4]])).sort("symbol", "timestamp")
    assert read.equals(expected.select("symbol", "timestamp", "close", "market", "trade_count"))
    everything = read_days(sources, wanted(None, *VALUES), {})
    assert everything.equals(pl.concat(days).sort("symbol", "timestamp").select("symbol", "timestamp", *VALUES))


@given(st.integers(0, 10**9), st.integers(0, 7))
@settings(max_examples=300)
def test_no_flipped_bit_of_a_file_is_ever_read(tmp_path_factory, place, bit):
    """With any one bit of the file flipped a reader of one symbol gets the true values or an error, and never others."""
    frame = stored(minutes=60)
    content = bytearray(encode(frame))
    content[place % len(content)] ^= 1 << bit
    damaged = source(tmp_path_factory.getbasetemp() / "flipped.parquet", bytes(content))
    try:
        read = read_days([damaged], wanted([SYMBOLS[2]], *VALUES), {})
    except CorruptFile:
        return
    assert read.equals(frame.filter(pl.col("symbol") == SYMBOLS[2]).select("symbol", "timestamp", *VALUES))


def test_a_file_without_sums_is_read_whole_and_verified(tmp_path, monkeypatch):
    """A day that was written before there were sums is compared with its content hash; beside others it reads the same."""
    with monkeypatch.context() as before:
        before.setattr("ohlcv_assets.storage.bars_file.SUMS_KEY", "ohlcv.something_else")
        old = encode(stored())
    sources = [
        source(tmp_path / "old.parquet", old),
        source(tmp_path / "new.parquet", encode(stored(1)), date(2025, 6, 2)),
    ]
    read = read_days(sources, wanted(SYMBOLS[:2], "close"), {})
    expected = (
        pl.concat([stored(), stored(1)]).filter(pl.col("symbol").is_in(SYMBOLS[:2])).sort("symbol", "timestamp")
    )
    assert read.equals(expected.select("symbol", "timestamp", "close"))
    flipped = bytearray(old)
    flipped[len(old) // 3] ^= 1
    with pytest.raises(CorruptFile):
        read_days([source(tmp_path / "old.parquet", bytes(flipped))], wanted([SYMBOLS[0]], "close"), {})


def test_every_day_that_is_not_there_is_counted(tmp_path):
    """Of several absent days the first is named and the others are counted, and nothing is returned."""
    there = source(tmp_path / "there.parquet", encode(stored()))
    gone = [DaySource(date(2025, 6, day), str(Path(tmp_path, f"gone{day}.parquet")), lambda: None) for day in (2, 3)]
    with pytest.raises(DayMissing, match=r"gone2\.parquet and 1 more"):
        read_days([there, *gone], wanted(None, "close"), {})


def twenty_days(folder):
    """Files of more days than are read at once, and their bars; of each day another symbol lacks."""
    frames = [stored(day, minutes=9).filter(pl.col("symbol") != SYMBOLS[day % 5]) for day in range(20)]
    return frames, [
        source(folder / f"{day:02}.parquet", encode(frame), date(2025, 6, 1 + day))
        for day, frame in enumerate(frames)
    ]


@pytest.mark.parametrize("symbols", [None, SYMBOLS[3:4], SYMBOLS[1:4]], ids=["all", "one", "some"])
def test_days_that_are_read_in_parts_are_one_answer(tmp_path, symbols):
    """Of many days, read part by part, each bar comes once, sorted by symbol and time."""
    frames, sources = twenty_days(tmp_path)
    expected = pl.concat(frames).filter(pl.col("symbol").is_in(symbols or SYMBOLS)).sort("symbol", "timestamp")
    assert read_days(sources, wanted(symbols, "close"), {}).equals(expected.select("symbol", "timestamp", "close"))


def test_of_days_that_are_read_in_parts_the_damaged_one_is_named(tmp_path):
    """Damage in the last part, which is read while others are compared, is an error that names its file."""
    frames, sources = twenty_days(tmp_path)
    noted = pl.read_parquet_metadata(sources[-1].location)
    other = corrupted(frames[-1], 5, "close", 1.25)
    other.write_parquet(sources[-1].location, metadata={name: noted[name] for name in noted if "ohlcv" in name})
    with pytest.raises(CorruptFile, match=r"/19\.parquet is damaged"):
        read_days(sources, wanted(None, "close"), {})


def test_days_that_are_not_there_are_counted_over_all_parts(tmp_path):
    """Of absent days in different parts the first is named, and all are counted."""
    _, sources = twenty_days(tmp_path)
    for day in (2, 11, 19):
        Path(sources[day].location).unlink()
    with pytest.raises(DayMissing, match=r"02\.parquet and 2 more"):
        read_days(sources, wanted(SYMBOLS[:1], "close"), {})
