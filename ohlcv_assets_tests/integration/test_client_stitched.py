"""Promises of stitched reads: finished days from the lake, the rest from the database, each bar once and without a seam."""

import io

import polars as pl
import pytest

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import VALUES, Channel
from ohlcv_assets.client.verified import ledger_key
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import DayMissing, NoBars
from ohlcv_assets.instruments import Market, load_universe
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.storage.quality_store import RANGES_SCHEMA
from ohlcv_assets.timestamps import DAY_MS, HOUR_MS, MINUTE_MS
from ohlcv_assets_tests.builders import bars
from ohlcv_assets_tests.integration.conftest import BTC, ETH, START_MS

THREE_DAYS = {"start": "2025-06-01", "end": "2025-06-04", "market": "futures", "source": "stitched"}


@pytest.fixture
def today(truth):
    """The third day's first two hours, which no lake has, of a stream that also caught the second day, with other values."""
    second = truth.filter(pl.col("timestamp") >= START_MS + DAY_MS).with_columns(pl.col("trade_count") + 1)
    third = bars((BTC, ETH), start="2025-06-03", minutes=120)
    return pl.concat([second, third])


@pytest.fixture
def stitching(with_database, database, today):
    """A client of the lake's two days and of a database with the second and third."""
    database.record(today, channel=Channel.WEBSOCKET, run_id="a")
    with OhlcvClient(with_database) as opened:
        yield opened


@pytest.fixture
def tell(place):
    """Puts the ledger of the second day into the lake; removed after the test."""
    lake, universe = Lake(place.lake_url), load_universe("v1.0", place.universes)
    keys = [
        ledger_key(Market.FUTURES, universe, day.date())
        for day in pl.Series([START_MS, START_MS + DAY_MS]).cast(pl.Datetime("ms"))
    ]

    def put(number, *rows):
        content = io.BytesIO()
        pl.DataFrame(rows, schema=RANGES_SCHEMA, orient="row").write_parquet(content)
        lake.put(keys[number], content.getvalue())

    yield put
    for number in range(2):
        put(number)


def day(number, symbol, state="confirmed", *, minutes=1440):
    """A ledger's row: the first minutes of a day in one state."""
    start_ms = START_MS + number * DAY_MS
    return (symbol, start_ms, start_ms + minutes * MINUTE_MS, state, None, None)


def days_of(frame):
    """Which source each symbol and day comes from."""
    return set(frame.select("symbol", (pl.col("timestamp") - START_MS) // DAY_MS, "source").unique().rows())


def test_a_finished_day_comes_from_the_lake_and_today_from_the_database(stitching, tell, truth, today):
    """With a ledger over both days the lake gives them and the database gives the third: each bar once, values of its source."""
    tell(0, day(0, BTC), day(0, ETH))
    tell(1, day(1, BTC), day(1, ETH))
    read = stitching.read(None, **THREE_DAYS, columns=["timestamp", *VALUES, "source"])
    assert days_of(read) == {
        (symbol, number, "streamed" if number == 2 else "daily") for symbol in (BTC, ETH) for number in range(3)
    }
    third = today.filter(pl.col("timestamp") >= START_MS + 2 * DAY_MS)
    whole = pl.concat([truth, third]).sort("symbol", "timestamp")
    assert read.select("symbol", "timestamp", *VALUES).equals(whole.select("symbol", "timestamp", *VALUES))
    assert not read.select("symbol", "timestamp").is_duplicated().any()


def test_a_day_without_a_ledger_comes_from_the_database(stitching, tell):
    """Before the QA of a day nobody has compared it: the database answers, and the lake where the database has nothing."""
    read = stitching.read(None, **THREE_DAYS, columns=["timestamp", "source"])
    assert days_of(read) == {
        (symbol, number, "streamed" if number else "daily") for symbol in (BTC, ETH) for number in range(3)
    }


def test_of_an_unfinished_day_the_store_with_more_bars_answers(stitching, tell):
    """The stream answers for a symbol of which it has bars that the lake lacks, and only for that symbol."""
    tell(0, day(0, BTC), day(0, ETH))
    tell(1, day(1, BTC, "fetched_only"), day(1, ETH, "streamed_only", minutes=1))
    read = stitching.read(None, **THREE_DAYS, columns=["timestamp", "source"])
    assert {(BTC, 1, "daily"), (ETH, 1, "streamed")} <= days_of(read)


def test_the_seam_shows_no_gap_and_no_copy(stitching, tell):
    """Across the midnight between the two stores the bars follow each other minute by minute."""
    tell(1, day(1, BTC))
    read = stitching.read(
        BTC,
        **(THREE_DAYS | {"start": "2025-06-02T23:00Z", "end": "2025-06-03T01:00Z"}),
        columns=["timestamp", "source"],
    )
    assert read["timestamp"].to_list() == list(
        range(START_MS + 2 * DAY_MS - HOUR_MS, START_MS + 2 * DAY_MS + HOUR_MS, MINUTE_MS)
    )
    assert read["source"].to_list() == ["daily"] * 60 + ["streamed"] * 60


def test_what_was_not_known_then_is_in_neither_store(stitching, database):
    """An as_of before the stores learnt anything finds nothing, and one of today finds everything."""
    with pytest.raises(NoBars, match="known at"):
        stitching.read(BTC, **THREE_DAYS, as_of="2025-06-05")
    now = stitching.read(BTC, **THREE_DAYS, as_of=utc_now())
    assert now.equals(stitching.read(BTC, **THREE_DAYS))


def test_a_hole_of_a_whole_day_is_no_answer(stitching, database):
    """A day that neither store has, with bars after it, is named; skipping it must be asked for."""
    asked = {"start": "2025-05-31", "end": "2025-06-02", "market": "futures", "source": "stitched"}
    with pytest.raises(DayMissing, match="2025-05-31"):
        stitching.read(BTC, **asked)
    assert stitching.read(BTC, **asked, on_missing="skip").height == 1435


def test_the_lake_alone_is_stitched_too(client):
    """Without a database the lake answers, and a day that it lacks is named with those that it has."""
    asked = {"market": "futures", "columns": ["source"]}
    assert client.read(BTC, "2025-06-01", "2025-06-03", **asked, source="stitched")["source"].unique().to_list() == [
        "daily"
    ]
    with pytest.raises(DayMissing, match="2 futures days, 2025-06-01 to 2025-06-02"):
        client.read(BTC, "2025-06-02", "2025-06-04", **asked, source="stitched")
