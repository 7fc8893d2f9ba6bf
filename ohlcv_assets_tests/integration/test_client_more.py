"""Promises of the client around the plain read: patterns, longer bars, gaps, lazy queries, the newest bars, and what is missing."""

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import VALUES, Channel
from ohlcv_assets.client.resample import resampled
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import DayMissing, IncompleteWindow, NoBars, UnknownSymbol, UsageError
from ohlcv_assets.instruments import Market, Symbol, Universe, release_universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, Interval, from_ms, to_ms
from ohlcv_assets_tests.builders import bars
from ohlcv_assets_tests.integration.conftest import BTC, ETH, HALT, START_MS, expected

SOL = "SOL/USDT:USDT"
BOTH_DAYS = {"start": "2025-06-01", "end": "2025-06-03", "market": "futures"}


@pytest.mark.parametrize(
    ("asked", "found"),
    [(None, [BTC, ETH]), ("*", [BTC, ETH]), ("*/USDT:USDT", [BTC, ETH]), (["B*", ETH], [BTC, ETH]), ("[BS]*", [BTC])],
)
def test_symbols_can_be_asked_for_by_pattern(client, asked, found):
    """A pattern means every symbol of the universe that it fits, and None means all of them."""
    assert client.read(asked, **BOTH_DAYS)["symbol"].unique(maintain_order=True).to_list() == found


def test_a_pattern_that_fits_nothing_is_refused(client):
    """A pattern of the other market finds nothing here, and the error shows one of this."""
    with pytest.raises(UnknownSymbol) as refused:
        client.read("*/BTC", **BOTH_DAYS)
    assert "*/USDT:USDT" in (refused.value.hint or "")


def test_longer_bars_are_those_of_the_minutes(client, truth):
    """An hour is read as its minutes say, labelled by its own end, with how many minutes it is made of."""
    asked = {"start": "2025-06-01", "end": "2025-06-01T12:00Z", "market": "futures", "resample": "1h"}
    read = client.read(BTC, **asked)
    minutes = expected(truth, [BTC], Interval(START_MS, START_MS + 12 * HOUR_MS))
    assert read.columns == ["interval_end", "symbol", *VALUES, "bars"]
    assert read.select(VALUES).equals(resampled(minutes, HOUR_MS).select(VALUES))
    assert read["interval_end"].to_list() == [datetime(2025, 6, 1, hour, tzinfo=UTC) for hour in range(1, 13)]
    by_start = client.read(BTC, **asked, label="start", columns=["interval_end", "close"])
    assert (by_start["interval_end"] - by_start["interval_start"]).dt.total_hours().unique().to_list() == [1]


def test_an_hour_with_a_halt_in_it_is_incomplete(client):
    """The halt's hour is named; it can be left out, or kept with its count, or its minutes can be made up, which is marked."""
    asked = {"start": "2025-06-01T11:00Z", "end": "2025-06-01T14:00Z", "market": "futures", "resample": "1h"}
    with pytest.raises(IncompleteWindow, match=r"12:00Z, 2025-06-01T13:00Z\) has 55 of 60") as refused:
        client.read(BTC, **asked)
    assert "fill forward" in (refused.value.hint or "")
    with pytest.raises(
        IncompleteWindow
    ) as filled:  # nothing before the interval's first bar, which the halt's end is
        client.read(
            BTC,
            **(asked | {"start": "2025-06-01T12:00Z", "end": "2025-06-01T12:15Z", "resample": "15m"}),
            fill="forward",
        )
    assert "fill forward" not in (filled.value.hint or "")
    assert client.read(BTC, **asked, incomplete="drop").height == 2
    assert client.read(BTC, **asked, incomplete="keep")["bars"].to_list() == [60, 55, 60]
    made_up = client.read(BTC, **asked, fill="forward")
    assert made_up["bars"].to_list() == [60, 60, 60]
    assert made_up["synthetic"].to_list() == [False, True, False]


def test_gaps_are_filled_only_when_asked(client, truth):
    """The five minutes of the halt carry the last close before it, flat, without volume, and marked; all else is as stored."""
    asked = {"start": "2025-06-01T11:00Z", "end": "2025-06-01T13:00Z", "market": "futures", "label": "start"}
    plain, whole = client.read(BTC, **asked), client.read(BTC, **asked, fill="forward")
    made_up = whole.filter("synthetic")
    assert [at.timestamp() * 1000 for at in made_up["interval_start"]] == list(HALT.minutes)
    before = plain.filter(pl.col("interval_start") < from_ms(HALT.start_ms))["close"][-1]
    assert made_up["close"].unique().to_list() == made_up["high"].unique().to_list() == [before]
    assert made_up["volume"].sum() == 0
    assert whole.filter(~pl.col("synthetic")).drop("synthetic").equals(plain)


def test_pandas_keeps_the_time_zone(client):
    """`.to_pandas()` gives tz-aware UTC timestamps and the same values."""
    read = client.read(BTC, "2025-06-01", "2025-06-02", market="futures")
    frame = read.to_pandas()
    assert str(frame["interval_end"].dt.tz) == "UTC"
    assert frame["interval_end"].iloc[0] == read["interval_end"][0]
    assert frame["close"].to_list() == read["close"].to_list()


def test_whole_days_can_be_skipped(client):
    """What is there of a longer interval is read when that is asked for, and not otherwise."""
    longer = {"start": "2025-05-30", "end": "2025-06-05", "market": "futures"}
    with pytest.raises(DayMissing, match="2 futures days, 2025-06-01 to 2025-06-02"):
        client.read(BTC, **longer)
    assert client.read(BTC, **longer, on_missing="skip").equals(client.read(BTC, **BOTH_DAYS))


def test_a_lazy_query_gives_the_same_bars(client):
    """A scan, filtered and cut to some columns by its user, is what read gives, and reads no file before it is collected."""
    lazy = client.scan([BTC, ETH], **BOTH_DAYS, columns=["close", "volume"])
    assert isinstance(lazy, pl.LazyFrame)
    read = client.read([BTC, ETH], **BOTH_DAYS, columns=["close", "volume"])
    assert lazy.collect().sort("symbol", "interval_end").equals(read)
    found = lazy.filter((pl.col("symbol") == ETH) & (pl.col("close") > 100)).select("interval_end", "close").collect()
    assert found.equals(
        read.filter((pl.col("symbol") == ETH) & (pl.col("close") > 100)).select("interval_end", "close")
    )


def test_a_lazy_query_reads_only_what_it_needs(client):
    """The filter on the symbol and the choice of columns are handed down to the files, as the plan of the query shows."""
    lazy = client.scan(None, **BOTH_DAYS, columns=["close"]).filter(pl.col("symbol") == ETH)
    plan = lazy.explain()
    scan = plan[plan.index("SCAN") :]
    assert "SELECTION:" in scan
    assert "PROJECT 3/14 COLUMNS" in scan
    with pytest.raises(UsageError, match="source"):
        client.scan(BTC, **BOTH_DAYS, columns=["source"])


def test_the_newest_bars_are_found(streamed, database):
    """Each symbol's newest bar comes once, however far apart they are; a symbol without bars is not made up."""
    later = bars([ETH], start="2025-06-01T05:00Z", minutes=3)
    database.record(later, channel=Channel.WEBSOCKET, run_id="b")
    newest = streamed.last("futures", columns=["timestamp", "close", "source"])
    assert newest["symbol"].to_list() == [BTC, ETH]
    assert newest["timestamp"].to_list() == [START_MS + 59 * MINUTE_MS, START_MS + 302 * MINUTE_MS]
    assert newest["interval_end"][1] == datetime(2025, 6, 1, 5, 3, tzinfo=UTC)
    assert newest["source"].unique().to_list() == ["streamed"]
    assert streamed.last("futures", BTC).height == 1
    with pytest.raises(NoBars, match="SOL"):
        streamed.last("futures", SOL)
    with pytest.raises(NoBars, match="spot"):
        streamed.last("spot")


def test_the_lakes_newest_bars_are_found(client):
    """Without a database the last stored day tells."""
    newest = client.last("futures", source="daily", columns=["close"])
    assert newest["symbol"].to_list() == [BTC, ETH]
    assert newest["interval_end"].unique().to_list() == [datetime(2025, 6, 3, tzinfo=UTC)]


def test_the_newer_store_tells_the_newest_bar(streamed, client, database):
    """Stitched: the store that is ahead answers for each symbol and is named; of equal bars the lake's; the lake alone will do."""
    database.record(bars([ETH], start="2025-06-03T05:00Z", minutes=3), channel=Channel.WEBSOCKET, run_id="b")
    newest = streamed.last("futures", source="stitched", columns=["interval_end", "source"])
    assert newest.rows() == [
        (datetime(2025, 6, 3, tzinfo=UTC), BTC, "daily"),
        (datetime(2025, 6, 3, 5, 3, tzinfo=UTC), ETH, "streamed"),
    ]
    assert client.last("futures", source="stitched", columns=["source"])["source"].to_list() == ["daily", "daily"]


def test_without_a_database_nothing_is_started_to_look(client, place):
    """Streamed bars, newest bars and changes of a database that is not there are one clear error, and no server is made."""
    for ask in (
        lambda: client.read(BTC, **BOTH_DAYS, source="streamed"),
        lambda: client.last("futures"),
        lambda: client.changes("futures", "2025-06-01", "2025-06-02", since="2025-06-01", source="streamed"),
    ):
        with pytest.raises(NoBars, match="no database"):
            ask()
    assert not (place.home / "postgres").exists()


@pytest.mark.parametrize("sources", [(), ("dayly",), ("stitched",)])
def test_a_store_that_is_none_is_no_empty_store(client, sources):
    """A mistyped store is an error, and never a store in which everything is missing; so is a database that is not there."""
    with pytest.raises(UsageError, match="sources"):
        client.coverage("futures", "2025-06-01", "2025-06-02", BTC, sources=sources)
    with pytest.raises(NoBars, match="no database"):
        client.missing_ranges("futures", "2025-06-01", "2025-06-02", BTC, source="streamed")


def test_when_a_bar_became_known_can_be_read_as_of_a_moment(client):
    """The time of knowledge is a column like the others, with a moment of knowledge too."""
    read = client.read(BTC, **BOTH_DAYS, as_of="2035-01-01", columns=["knowledge_timestamp"])
    assert read.equals(client.read(BTC, **BOTH_DAYS, columns=["knowledge_timestamp"]))


def test_days_that_were_not_known_yet_can_be_skipped(client):
    """With on_missing="skip" a day that the lake did not know at that moment is left out as one that it does not have."""
    with pytest.raises(NoBars, match="no daily bar"):
        client.read(BTC, **BOTH_DAYS, as_of="2020-01-01", on_missing="skip")
    with pytest.raises(UsageError, match="on_unverified"):
        client.read(BTC, **BOTH_DAYS, on_unverified="bogus")


def test_the_days_of_the_lake_are_listed(client):
    """The client says which days can be read."""
    assert client.days("futures") == [date(2025, 6, 1), date(2025, 6, 2)]
    assert client.days("spot") == []


def test_coverage_counts_what_each_store_has(streamed):
    """By symbol and day: what was expected, what the lake has, what the database has, and what neither has."""
    told = streamed.coverage("futures", "2025-06-01", "2025-06-03")
    counts = told.select("symbol", "day", "expected", "daily", "streamed", "missing").rows()
    first, second = date(2025, 6, 1), date(2025, 6, 2)
    assert counts == [
        (BTC, first, 1440, 1435, 60, 5),
        (BTC, second, 1440, 1440, 0, 0),
        (ETH, first, 1440, 1435, 60, 5),
        (ETH, second, 1440, 1440, 0, 0),
        (SOL, first, 1440, 0, 0, 1440),
        (SOL, second, 1440, 0, 0, 1440),
    ]
    assert told["confirmed"].is_null().all()


def test_coverage_of_the_lake_alone(client):
    """Without a database its column is null, and nothing is started to fill it."""
    told = client.coverage("futures", "2025-06-01", "2025-06-02", BTC)
    assert told.select("daily", "streamed", "missing").rows() == [(1435, None, 5)]


def test_a_minute_that_is_not_over_is_not_expected(client):
    """Of today the minutes so far are expected, of tomorrow none; a day that is over is expected whole, however long ago."""
    before = utc_now()
    today = before.date()
    start, end = (today - timedelta(days=1)).isoformat(), (today + timedelta(days=3)).isoformat()
    told = client.coverage("futures", start, end, BTC)
    ranges = client.missing_ranges("futures", start, end, BTC)
    after = utc_now()
    assert told["day"][0] == today - timedelta(days=1)
    assert told["expected"][0] == 1440
    first_ms = to_ms(before) - DAY_MS - to_ms(before) % DAY_MS
    least, most = ((to_ms(moment) - first_ms) // MINUTE_MS for moment in (before, after))
    assert least <= told["expected"].sum() <= most
    assert told["missing"].to_list() == told["expected"].to_list()
    assert least <= ranges["minutes"].sum() <= most
    assert client.coverage("futures", f"{today + timedelta(days=2)}", end, BTC).is_empty()


def test_a_database_can_be_left_alone(with_database, streamed):
    """A client of the lake alone asks no database, also where there is one."""
    with OhlcvClient(with_database, lake_only=True) as alone:
        told = alone.coverage("futures", "2025-06-01", "2025-06-02", BTC)
    assert told.select("daily", "streamed", "missing").rows() == [(1435, None, 5)]


def test_missing_minutes_are_told_as_ranges(client, streamed):
    """What a store lacks is listed by symbol, in as few ranges as there are."""
    lake = client.missing_ranges("futures", "2025-06-01", "2025-06-03", [BTC, ETH])
    halt = (from_ms(HALT.start_ms), from_ms(HALT.end_ms), 5)
    assert lake.select("symbol", "start", "end", "minutes").rows() == [(BTC, *halt), (ETH, *halt)]
    database = streamed.missing_ranges("futures", "2025-06-01", "2025-06-01T02:00Z", BTC, source="streamed")
    assert database["minutes"].to_list() == [60]
    both = streamed.missing_ranges("futures", "2025-06-01", "2025-06-01T02:00Z", BTC, source="both")
    assert both.is_empty()


def test_what_was_not_listed_is_not_expected(place, tmp_path):
    """A symbol that was listed at noon is expected from then on, in coverage, in ranges and in the list of symbols."""
    noon = START_MS + DAY_MS // 2
    universe = Universe.of(
        "v1.0",
        {Market.FUTURES: [BTC, ETH]},
        listings={Symbol(ETH): ListingTimes("ETHUSDT", (Span(noon, None, "told"),))},
    )
    release_universe(universe, tmp_path)
    listed = OhlcvClient(place.model_copy(update={"universes": tmp_path, "lake": str(tmp_path / "empty")}))
    told = listed.coverage("futures", "2025-05-31", "2025-06-02")
    assert told.select("symbol", "day", "expected").rows() == [
        (BTC, date(2025, 5, 31), 1440),
        (BTC, date(2025, 6, 1), 1440),
        (ETH, date(2025, 6, 1), 720),
    ]
    missing = listed.missing_ranges("futures", "2025-05-31", "2025-06-02", ETH)
    assert missing.select("start", "minutes").rows() == [(from_ms(noon), 720)]
    assert listed.symbols("futures", "2025-06-01") == [BTC]
    assert listed.symbols("futures", "2025-06-02") == [BTC, ETH]
