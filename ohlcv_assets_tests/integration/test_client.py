"""Promises of the client: exactly the stored bars of [start, end), labelled as asked, from either store."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pandas
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import VALUES
from ohlcv_assets.client import READABLE, daily
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import (
    CorruptFile,
    DayMissing,
    NaiveTime,
    NoBars,
    ReversedInterval,
    UnknownMarket,
    UnknownSymbol,
    UsageError,
)
from ohlcv_assets.instruments import Market, load_universe
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, from_ms, iso
from ohlcv_assets_tests.builders import bars
from ohlcv_assets_tests.integration.conftest import BTC, DAYS, ETH, HALT, START_MS, expected


@given(
    st.sampled_from([[BTC], [ETH], [ETH, BTC], [BTC, ETH, BTC]]),
    st.integers(0, 2 * DAY_MS - 1),
    st.integers(1, 2 * DAY_MS),
)
@example([ETH, BTC], 0, 2 * DAY_MS)
@example([BTC], DAY_MS - MINUTE_MS, 2 * MINUTE_MS)
@hypothesis_settings(max_examples=40)
def test_exactly_the_bars_of_the_interval_are_read(client, truth, symbols, offset_ms, length_ms):
    """A stored bar is in the answer if and only if its start lies in [start, end), bit for bit, sorted, once."""
    interval = Interval(START_MS + offset_ms, min(START_MS + offset_ms + length_ms, START_MS + 2 * DAY_MS))
    stored = expected(truth, symbols, interval)
    if stored.is_empty():
        with pytest.raises(NoBars):
            client.read(symbols, iso(interval.start_ms), iso(interval.end_ms), market="futures")
        return
    read = client.read(symbols, from_ms(interval.start_ms), from_ms(interval.end_ms), market="futures")
    assert read.columns == ["interval_end", "symbol", *VALUES]
    assert read.select("symbol", *VALUES).equals(stored.select("symbol", *VALUES))
    assert (read["interval_end"].cast(pl.Int64) - MINUTE_MS).equals(stored["timestamp"].alias("interval_end"))


def test_a_bar_is_labelled_by_its_end(client):
    """The first bar of a day ends at one minute past midnight, and that is its label unless another is asked for."""
    read = client.read(BTC, "2025-06-01", "2025-06-02", market="futures")
    assert read.schema["interval_end"] == pl.Datetime("ms", "UTC")
    assert read["interval_end"][0] == datetime(2025, 6, 1, 0, 1, tzinfo=UTC)
    assert read["interval_end"][-1] == datetime(2025, 6, 2, tzinfo=UTC)


def test_a_bar_is_labelled_by_its_start_where_asked(client):
    """With label="start" the same bars carry their start, and nothing else about the answer changes."""
    by_end = client.read(BTC, "2025-06-01", "2025-06-02", market="futures")
    by_start = client.read(BTC, "2025-06-01", "2025-06-02", market="futures", label="start")
    assert by_start.columns[0] == "interval_start"
    assert by_start["interval_start"][0] == datetime(2025, 6, 1, tzinfo=UTC)
    assert by_start.drop("interval_start").equals(by_end.drop("interval_end"))


def test_both_ends_and_any_column_can_be_read(client, truth):
    """Every readable column can be asked for, in the caller's order, and both ends are a minute apart."""
    asked = ["close", "interval_start", "interval_end", "timestamp", "close", "knowledge_timestamp"]
    read = client.read([BTC], "2025-06-01", "2025-06-02", market="futures", columns=asked)
    assert read.columns == ["interval_end", "symbol", "close", "interval_start", "timestamp", "knowledge_timestamp"]
    assert set(read["interval_end"] - read["interval_start"]) == {timedelta(minutes=1)}
    everything = client.read([BTC], "2025-06-01", "2025-06-02", market="futures", columns=READABLE)
    assert set(everything.columns) == set(READABLE)


def test_a_bar_that_is_not_stored_is_never_made_up(client):
    """The minutes of a halt are absent from the answer: no row, no null, nothing carried forward."""
    read = client.read([BTC, ETH], "2025-06-01T11:55Z", "2025-06-01T12:10Z", market="futures", label="start")
    assert read.height == 2 * (15 - 5)
    assert not set(read["interval_start"].cast(pl.Int64)) & set(HALT.minutes)
    assert read.null_count().sum_horizontal().item() == 0
    with pytest.raises(NoBars, match=r"2025-06-01T12:00Z, 2025-06-01T12:05Z"):
        client.read(BTC, from_ms(HALT.start_ms), from_ms(HALT.end_ms), market="futures")


def test_times_mean_the_same_in_every_zone_and_form(client):
    """A text, a datetime in UTC and one in another zone that name the same moments give the same bars."""
    tokyo = timezone(timedelta(hours=9))
    answers = [
        client.read(BTC, start, end, market=Market.FUTURES)
        for start, end in [
            ("2025-06-01", "2025-06-01T01:00Z"),
            ("2025-06-01T09:00+09:00", "2025-06-01T10:00+09:00"),
            (datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 6, 1, 1, tzinfo=UTC)),
            (datetime(2025, 6, 1, 9, tzinfo=tokyo), datetime(2025, 6, 1, 10, tzinfo=tokyo)),
        ]
    ]
    assert all(answer.equals(answers[0]) for answer in answers)
    assert answers[0].height == 60


@pytest.mark.parametrize("naive", ["2025-06-01T06:00", datetime(2025, 6, 1, 6)])  # noqa: DTZ001
def test_a_naive_time_is_refused(client, naive):
    """A time without a zone is refused wherever it stands."""
    asked = [(naive, "2025-06-02", None), ("2025-06-01", naive, None), ("2025-06-01", "2025-06-02", naive)]
    for start, end, as_of in asked:
        with pytest.raises(NaiveTime):
            client.read(BTC, start, end, market="futures", as_of=as_of)


@pytest.mark.parametrize("wrong", [1_748_736_000_000, pandas.NaT, None, "2025-W22-7"])
def test_what_is_no_time_is_refused(client, wrong):
    """A number, a missing time and an odd form are no moment, and the error shows one."""
    with pytest.raises(UsageError, match="no") as refused:
        client.read(BTC, wrong, "2025-06-02", market="futures")
    assert "2025-06-01T00:00Z" in (refused.value.hint or "")


def test_a_date_is_its_midnight_wherever_it_stands(client):
    """A date object means what the same text means: in read as in versions."""
    day = {"start": DAYS[0], "end": DAYS[1], "market": "futures"}
    assert client.read(BTC, **day).equals(client.read(BTC, "2025-06-01", "2025-06-02", market="futures"))
    assert client.versions("futures", DAYS[0]).equals(client.versions("futures", "2025-06-01"))


def test_an_interval_is_exact_below_a_millisecond(client):
    """A bar that starts a microsecond before the start is not read, and one that starts a microsecond before the end is."""
    asked = {"start": "2025-06-01T00:00:00.000001Z", "end": "2025-06-01T00:02:00.000001Z", "market": "futures"}
    read = client.read(BTC, **asked, label="start")
    assert read["interval_start"].to_list() == [datetime(2025, 6, 1, 0, minute, tzinfo=UTC) for minute in (1, 2)]


@pytest.mark.parametrize("end", ["2025-06-01", "2025-05-31T23:59Z"])
def test_a_reversed_or_empty_interval_is_refused(client, end):
    """An end that is not after the start is a mistake, and never an empty answer."""
    with pytest.raises(ReversedInterval):
        client.read(BTC, "2025-06-01", end, market="futures")


@pytest.mark.parametrize(
    ("market", "name", "nearest"),
    [
        ("futures", "BTC/USDT", BTC),
        ("futures", "BTCUSDT", BTC),
        ("futures", "eth/usdt:usdt", ETH),
        ("futures", "ETC/USDT:USDT", ETH),
        ("spot", BTC, "BTC/USDT"),
        ("spot", "XBT/USDT", "BTC/USDT"),
        ("spot", "../../etc/passwd", "ohlcv universe show"),
        ("futures", "BTC", BTC),
        ("futures", "btcusdt", BTC),
        ("futures", "binance::ETH_USDT", ETH),
        ("futures", "SOL-USDT-SWAP", "SOL/USDT:USDT"),
        ("spot", "btc", "BTC/USDT"),
    ],
)
def test_an_unknown_symbol_is_told_its_nearest_names(client, market, name, nearest):
    """A symbol that the universe lacks is named, and the hint holds the one that was probably meant."""
    with pytest.raises(UnknownSymbol) as refused:
        client.read([name], "2025-06-01", "2025-06-02", market=market)
    assert repr(name) in refused.value.message
    assert nearest in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"symbols": []}, UsageError),
        ({"market": "margin"}, UnknownMarket),
        ({"source": "weekly"}, UsageError),
        ({"label": "middle"}, UsageError),
        ({"columns": ["price"]}, UsageError),
        ({"columns": ["clos"]}, UsageError),
        ({"columns": [1]}, UsageError),
        ({"columns": 1}, UsageError),
        ({"columns": "clos"}, UsageError),
        ({"symbols": 1}, UsageError),
        ({"symbols": [1]}, UsageError),
    ],
)
def test_what_cannot_be_meant_is_one_clear_error(client, asked, error):
    """Nothing is read when a part of the question makes no sense, and the error says what would."""
    question = {"symbols": [BTC], "start": "2025-06-01", "end": "2025-06-02", "market": "futures", **asked}
    with pytest.raises(error) as refused:
        client.read(**question)
    assert refused.value.hint is not None


def test_one_column_can_be_named_as_a_text(client):
    """A text is one column, as a text is one symbol."""
    day = {"start": "2025-06-01", "end": "2025-06-02", "market": "futures"}
    assert client.read(BTC, **day, columns="close").equals(client.read(BTC, **day, columns=["close"]))


def test_a_mistyped_column_is_told_its_nearest_name(client):
    """The hint for a column that is not there is the column that was meant."""
    with pytest.raises(UsageError) as refused:
        client.read(BTC, "2025-06-01", "2025-06-02", market="futures", columns=["quote_volum"])
    assert refused.value.hint == "use quote_volume"


def test_the_days_that_are_not_there_are_named(client):
    """An interval that reaches beyond the stored days is refused, whatever part of it is stored."""
    with pytest.raises(DayMissing, match="date=2025-06-03"):
        client.read(BTC, "2025-06-02", "2025-06-03T00:01Z", market="futures")
    with pytest.raises(DayMissing, match=r"date=2025-05-30.* and 1 more"):
        client.read(BTC, "2025-05-30", "2025-06-02", market="futures")


def test_centuries_are_not_looked_for_file_by_file(client, monkeypatch):
    """Of an interval of all years the lake's list says what is not there, before any file is opened."""
    monkeypatch.setattr(daily, "read_days", None)
    for ask in (client.read, client.scan):
        with pytest.raises(DayMissing, match=r"date=0001-01-01.* and 3652055 more .*2 futures days, 2025-06-01"):
            ask(BTC, "0001-01-01", "9999-12-31", market="futures")


def test_a_symbol_without_bars_is_nothing_there(client):
    """A known symbol of which the stored day has no bar is an error that names it."""
    with pytest.raises(NoBars, match="SOL/USDT:USDT"):
        client.read("SOL/USDT:USDT", "2025-06-01", "2025-06-02", market="futures")


def test_regions_do_not_see_each_other(place):
    """What one region stored, another does not read."""
    elsewhere = OhlcvClient(place.model_copy(update={"region": "stockholm"}))
    with pytest.raises(DayMissing):
        elsewhere.read(BTC, "2025-06-01", "2025-06-02", market="futures")


def test_the_universe_can_be_listed(client):
    """The symbols that can be asked for are those of the universe."""
    assert client.symbols("futures") == [BTC, ETH, "SOL/USDT:USDT"]
    assert client.symbols(Market.SPOT) == ["BTC/USDT"]


def test_no_damaged_value_is_ever_read(place, tmp_path):
    """Wherever a day's file is damaged, the answer has the true values, or the file is named as damaged."""
    universe = load_universe("v1.0", place.universes)
    damaged = place.model_copy(update={"lake": str(tmp_path)})
    whole = bars((BTC, ETH, "SOL/USDT:USDT"))
    written = Lake(damaged.lake_url).write_day(Signature.daily(Market.FUTURES, universe), DAYS[0], whole)
    path, named = Path(written.location), 0
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place_of_damage in range(4, footer, footer // 50):
        flipped = bytearray(content)
        flipped[place_of_damage] ^= 1
        path.write_bytes(flipped)
        try:
            read = OhlcvClient(damaged).read(None, "2025-06-01", "2025-06-02", market="futures")
        except CorruptFile as error:
            named += path.name in str(error)
        else:
            assert read.select("symbol", *VALUES).equals(whole.select("symbol", *VALUES))
    assert named > 10


def test_a_day_is_known_from_when_it_was_written(client):
    """Before the lake had the day nothing was known of it; from then on everything."""
    asked = {"symbols": BTC, "start": "2025-06-01", "end": "2025-06-02", "market": "futures"}
    read = client.read(**asked, as_of=utc_now())
    assert read.equals(client.read(**asked))
    with pytest.raises(NoBars, match="known"):
        client.read(**asked, as_of="2025-06-02")
