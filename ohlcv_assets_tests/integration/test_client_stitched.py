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
from ohlcv_assets.storage.signature import Signature
from ohlcv_assets.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, from_ms
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


def test_a_finished_day_without_a_ledger_comes_from_the_store_with_more_of_it(stitching, database, truth):
    """Before its QA the lake answers for a day of which the database has as much, or only an hour; and nothing is lost."""
    read = stitching.read(None, **THREE_DAYS, columns=["timestamp", *VALUES, "source"])
    assert days_of(read) == {
        (symbol, number, "streamed" if number == 2 else "daily") for symbol in (BTC, ETH) for number in range(3)
    }
    both_days = read.filter(pl.col("timestamp") < START_MS + 2 * DAY_MS)
    assert both_days.select("timestamp", *VALUES).equals(truth.select("timestamp", *VALUES))


def test_the_database_answers_for_a_day_of_which_it_has_more(stitching, database, truth):
    """The halt of the first day, streamed after all, makes the database the better store of that day and symbol, and no other."""
    fuller = bars((BTC,), minutes=1440)
    database.record(fuller, channel=Channel.REST, run_id="b")
    read = stitching.read(None, **THREE_DAYS, columns=["timestamp", "close", "source"])
    assert {(BTC, 0, "streamed"), (ETH, 0, "daily"), (BTC, 1, "daily")} <= days_of(read)
    first = read.filter((pl.col("symbol") == BTC) & (pl.col("timestamp") < START_MS + DAY_MS))
    assert first.select("timestamp", "close").equals(fuller.select("timestamp", "close"))


@pytest.mark.parametrize("told", [False, True])
def test_the_store_of_a_day_does_not_depend_on_the_interval(stitching, database, tell, told):
    """Any part of a day comes from the store that has more of the whole day, also a part of which the other has as much."""
    database.record(bars((BTC,), minutes=1440), channel=Channel.REST, run_id="b")
    if told:  # what the ledger said before the database got the halt's minutes
        tell(0, day(0, BTC, "missing"), day(0, ETH))
    morning = {"start": "2025-06-01T03:00Z", "end": "2025-06-01T04:00Z", "market": "futures", "source": "stitched"}
    read = stitching.read([BTC, ETH], **morning, columns=["source"])
    assert set(read.select("symbol", "source").rows()) == {(BTC, "streamed"), (ETH, "daily")}


def test_an_hour_in_the_database_costs_no_bar_of_a_finished_day(with_database, database, truth):
    """Of an hour that was filled in, and no ledger, a read, its gaps, its fill and its longer bars are those of the whole day."""
    hour = truth.filter(pl.col("timestamp").is_between(START_MS + DAY_MS, START_MS + DAY_MS + HOUR_MS, closed="left"))
    database.record(hour, channel=Channel.REST, run_id="a")
    asked = {"start": "2025-06-02", "end": "2025-06-03", "market": "futures", "source": "stitched"}
    with OhlcvClient(with_database) as opened:
        assert opened.read(BTC, **asked).height == 1440
        assert not opened.read(BTC, **asked, fill="forward")["synthetic"].any()
        assert opened.read(BTC, **asked, resample="1d")["bars"].to_list() == [1440]
        assert opened.missing_ranges("futures", "2025-06-02", "2025-06-03", BTC, source="stitched").is_empty()


def test_the_better_store_is_that_of_the_moment(stitching, database):
    """With as_of both stores are counted as they were: what the database got later makes it the better one from then on."""
    before = utc_now()
    database.record(bars((BTC,), minutes=1440), channel=Channel.REST, run_id="b")
    asked = {"start": "2025-06-01", "end": "2025-06-02", "market": "futures", "source": "stitched"}
    sources = [
        stitching.read(BTC, **asked, as_of=moment, columns=["source"])["source"].unique().to_list()
        for moment in (before, utc_now())
    ]
    assert sources == [["daily"], ["streamed"]]


def test_what_a_stitched_read_lacks_is_what_is_told_to_be_missing(stitching, database):
    """One store answers for a day: minutes that only the other has are missing from the answer, and from neither store."""
    others = bars((BTC,), minutes=1440).filter(pl.col("timestamp") != START_MS)
    database.record(others, channel=Channel.REST, run_id="b")
    asked = ("futures", "2025-06-01", "2025-06-02", BTC)
    lacking = stitching.missing_ranges(*asked, source="stitched")
    assert lacking.select("start", "minutes").rows() == [(from_ms(START_MS), 1)]
    assert stitching.read(BTC, "2025-06-01", "2025-06-02", market="futures", source="stitched").height == 1439
    assert stitching.missing_ranges(*asked, source="both").is_empty()


def test_of_a_day_that_two_captures_agree_about_the_database_is_asked_nothing(stitching, database, tell, monkeypatch):
    """The halt is not there to be had, as the ledger knows: no bar is counted in the database, nor read."""
    tell(0, day(0, BTC), day(0, ETH))

    def refused(*_, **__):
        raise AssertionError("asked")

    monkeypatch.setattr(type(database), "counts", refused)
    monkeypatch.setattr(type(database), "read", refused)
    asked = {"start": "2025-06-01", "end": "2025-06-03", "market": "futures", "source": "stitched"}
    assert stitching.read([BTC, ETH], **asked).height == 2 * (1435 + 1440)


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
    """A day that is over and in neither store is named, before other days and after them; skipping it must be asked for."""
    asked = {"end": "2025-06-02", "market": "futures", "source": "stitched"}
    with pytest.raises(DayMissing, match="2025-05-31"):
        stitching.read(BTC, "2025-05-31", **asked)
    assert stitching.read(BTC, "2025-05-31", **asked, on_missing="skip").height == 1435
    later = {"start": "2025-06-03", "end": "2025-06-05", "market": "futures", "source": "stitched"}
    with pytest.raises(DayMissing, match="neither store has a bar of BTC/USDT:USDT of 2025-06-04"):
        stitching.read(BTC, **later)
    assert stitching.read(BTC, **later, on_missing="skip").height == 120


def test_the_lake_alone_is_stitched_too(client):
    """Without a database the lake answers, and a day that it lacks is named with those that it has."""
    asked = {"market": "futures", "columns": ["source"]}
    assert client.read(BTC, "2025-06-01", "2025-06-03", **asked, source="stitched")["source"].unique().to_list() == [
        "daily"
    ]
    with pytest.raises(DayMissing, match="2 futures days, 2025-06-01 to 2025-06-02"):
        client.read(BTC, "2025-06-02", "2025-06-04", **asked, source="stitched")


def test_many_symbol_days_are_few_questions_to_the_database(with_database, database, tmp_path, monkeypatch):
    """Of days that each are short of other symbols the database counts and reads in one statement each, and nothing else is lost."""
    own = with_database.model_copy(update={"lake": str(tmp_path / "lake")})
    lake, signature = Lake(own.lake_url), Signature.daily(Market.FUTURES, load_universe("v1.0", own.universes))
    every = bars((BTC, ETH), minutes=10 * 1440)
    minute = (pl.col("timestamp") - START_MS) // MINUTE_MS
    of_even_days = (minute // 1440 % 2 == 0) == (pl.col("symbol") == BTC)
    lacking = (minute % 1440 == 60) & of_even_days
    for number in range(10):
        part = every.filter(~lacking & (minute // 1440 == number))
        lake.write_day(signature, from_ms(part["timestamp"][0]).date(), part)
    database.record(every, channel=Channel.REST, run_id="b")
    asked = []
    fetched = type(database).fetched
    monkeypatch.setattr(type(database), "fetched", lambda self, text: asked.append(text) or fetched(self, text))
    asked_for = {"end": "2025-06-11", "columns": ["timestamp", "source"]}
    with OhlcvClient(own) as opened:
        read = opened.read(None, **(THREE_DAYS | asked_for))
    assert days_of(read) == {
        (symbol, number, "streamed" if (number % 2 == 0) == (symbol == BTC) else "daily")
        for symbol in (BTC, ETH)
        for number in range(10)
    }
    assert read.select("symbol", "timestamp").equals(every.select("symbol", "timestamp"))
    bar_statements = [text for text in asked if "ledger" not in text.as_string(None)]
    assert len(bar_statements) == 2
