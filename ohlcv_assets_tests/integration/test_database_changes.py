"""The difference of two as-of reads of the database, against a real server."""

from datetime import UTC, datetime

import polars as pl
import pytest

from ohlcv_assets.bars import Channel
from ohlcv_assets.errors import NaiveTime
from ohlcv_assets.instruments import Market
from ohlcv_assets.storage.changes import CHANGES_SCHEMA
from ohlcv_assets.storage.database import Database
from ohlcv_assets.timestamps import MINUTE_MS, Interval
from ohlcv_assets_tests.integration.test_database import DAY, START_MS, bar


def recorded_in_turn(database: Database, *batches: pl.DataFrame) -> list[datetime]:
    """A moment before the first of these captures was recorded, and one after each."""
    moments = [datetime.now(UTC)]
    for batch in batches:
        database.record(batch, channel=Channel.REST, run_id="run", reason="third fetch")
        moments.append(datetime.now(UTC))
    return moments


def test_the_changes_between_two_moments_are_named(database: Database) -> None:
    """Each changed column is a row with before and after, each bar first known in between is one row, and no more."""
    moments = recorded_in_turn(
        database,
        pl.concat([bar(minute) for minute in range(3)]),
        pl.concat([bar(0, close=10.5, trade_count=8), bar(1), bar(3)]),
        bar(3, close=10.5),
    )
    found = database.changes(Market.FUTURES, DAY, moments[1], moments[3])
    assert dict(found.schema) == CHANGES_SCHEMA
    assert found.drop("knowledge_timestamp", "symbol").rows() == [
        (START_MS, "changed", "close", 11.0, 10.5, "third fetch"),
        (START_MS, "changed", "trade_count", 7.0, 8.0, "third fetch"),
        (START_MS + 3 * MINUTE_MS, "new", None, None, None, None),
    ]
    assert all(moments[1] < known < moments[2] for known in found["knowledge_timestamp"])


def test_changes_are_the_difference_of_two_reads(database: Database) -> None:
    """What went and came back is no change; between every two moments the changes lead from one read to the other."""
    closes = (11.0, 10.5, 11.0, 9.5)
    moments = recorded_in_turn(database, *(bar(close=close) for close in closes))
    known = [None, *closes]
    for first, since in enumerate(moments):
        for last in range(first, len(moments)):
            found = database.changes(Market.FUTURES, DAY, since, moments[last])
            expected = [] if known[first] == known[last] else [(known[first], known[last])]
            if known[first] is None and expected:
                assert found["kind"].to_list() == ["new"]
            else:
                assert found.select("before", "after").rows() == expected


def test_changes_are_of_what_was_asked(database: Database) -> None:
    """Changes are those of the market, the half-open interval and the symbols asked for; naive moments are refused."""
    everything = pl.concat([bar(minute, symbol) for minute in range(3) for symbol in ("A/U:U", "B/U:U")])
    moments = recorded_in_turn(database, everything, everything.with_columns(close=pl.lit(10.5)))
    minute = Interval(START_MS + MINUTE_MS, START_MS + 2 * MINUTE_MS)
    found = database.changes(Market.FUTURES, minute, moments[1], moments[2], symbols=["B/U:U"])
    assert found.select("symbol", "timestamp").rows() == [("B/U:U", START_MS + MINUTE_MS)]
    assert database.changes(Market.SPOT, DAY, moments[0], moments[2]).is_empty()
    with pytest.raises(NaiveTime):
        database.changes(Market.FUTURES, DAY, moments[0], datetime(2025, 6, 1))  # noqa: DTZ001
