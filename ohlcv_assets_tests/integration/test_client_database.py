"""Promises of the client over the database: the same answer as from the lake, the past as it was known, and no right but to read."""

import io
import multiprocessing
import os
import pickle
from datetime import timedelta

import polars as pl
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import Channel
from ohlcv_assets.client.verified import RANGES
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import DayMissing, NoBars, Refused
from ohlcv_assets.instruments import Market, Symbol, Universe, load_universe, release_universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.absent_file import ABSENT_SCHEMA
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.storage.signature import Signature, ledger_key
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval
from ohlcv_assets_tests.builders import bars, corrupted
from ohlcv_assets_tests.integration.conftest import BTC, DAYS, ETH, START_MS, expected


def test_both_stores_give_the_same_answer(client, streamed):
    """The same bars, read from the lake and from the database, are equal frames."""
    asked = {"symbols": [BTC, ETH], "start": "2025-06-01T00:10Z", "end": "2025-06-01T00:50Z", "market": "futures"}
    daily, live = client.read(**asked), streamed.read(**asked, source="streamed")
    assert daily.height == 2 * 40
    assert daily.equals(live)
    assert daily.schema == live.schema


def test_the_past_is_read_as_it_was_known(streamed, database, truth):
    """A revision changes what is read from then on, and not what was known before; before the first bar: nothing."""
    asked = {
        "symbols": BTC,
        "start": "2025-06-01",
        "end": "2025-06-01T00:05Z",
        "market": "futures",
        "source": "streamed",
    }
    before = streamed.read(**asked)
    between = utc_now()
    first_five = expected(truth, [BTC], Interval(START_MS, START_MS + 5 * MINUTE_MS))
    higher = first_five["high"][2] + 0.01
    database.record(corrupted(first_five, 2, "high", higher), channel=Channel.REST, run_id="b", reason="repair")
    assert streamed.read(**asked)["high"][2] == higher
    assert streamed.read(**asked, as_of=between).equals(before)
    assert streamed.read(**asked, as_of=utc_now())["high"][2] == higher
    with pytest.raises(NoBars, match="known at"):
        streamed.read(**asked, as_of="2025-06-01T00:30Z")


def test_a_moment_of_knowledge_can_be_given_as_text(streamed, database, truth):
    """The knowledge_timestamp of a revision, to the microsecond, shows the revision; a microsecond earlier what was before it."""
    asked = {
        "symbols": BTC,
        "start": "2025-06-01",
        "end": "2025-06-01T00:01Z",
        "market": "futures",
        "source": "streamed",
    }
    first = expected(truth, [BTC], Interval(START_MS, START_MS + MINUTE_MS))
    for number in range(5):  # one in a thousand moments is a whole millisecond
        higher = first["high"][0] + 0.01 * (number + 1)
        database.record(corrupted(first, 0, "high", higher), channel=Channel.REST, run_id="b", reason="repair")
        known = streamed.read(**asked, columns=["high", "knowledge_timestamp"])
        moment = known["knowledge_timestamp"][0]
        assert streamed.read(**asked, as_of=moment.isoformat())["high"][0] == higher
        assert streamed.read(**asked, as_of=(moment - timedelta(microseconds=1)).isoformat())["high"][0] < higher


def test_nothing_streamed_is_one_clear_error(streamed):
    """An hour that was never streamed is an error that names the source, the symbol and the interval."""
    with pytest.raises(NoBars, match=r"no streamed bar of BTC/USDT:USDT in \[2025-06-01T06:00Z, 2025-06-01T07:00Z\)"):
        streamed.read(BTC, "2025-06-01T06:00Z", "2025-06-01T07:00Z", market="futures", source="streamed")


@pytest.mark.parametrize(("start", "end"), [("2025-05-31", "2025-06-01T00:30Z"), ("2025-06-01", "2025-06-03")])
def test_a_whole_day_that_was_not_streamed_is_named(streamed, start, end):
    """A day that is over and of which the database has no bar is an error, before its first bar too; or is left out when asked."""
    asked = {"symbols": BTC, "start": start, "end": end, "market": "futures", "source": "streamed"}
    day = "2025-05-31" if start < "2025-06-01" else "2025-06-02"
    with pytest.raises(DayMissing, match=f"the database has no bar of BTC/USDT:USDT of {day}") as refused:
        streamed.read(**asked)
    assert 'on_missing="skip"' in (refused.value.hint or "")
    assert set(streamed.read(**asked, on_missing="skip", columns=["timestamp"])["timestamp"]) <= {
        START_MS + minute * MINUTE_MS for minute in range(60)
    }


def test_a_day_that_is_not_over_or_in_part_there_is_not_missing(streamed, database):
    """What is to come is no hole, nor is the rest of a day of which the database has something."""
    asked = {
        "symbols": BTC,
        "end": f"{utc_now().date() + timedelta(days=2)}",
        "market": "futures",
        "source": "streamed",
    }
    today = f"{utc_now().date()}"
    database.record(bars([BTC], start=today, minutes=3), channel=Channel.WEBSOCKET, run_id="b")
    assert streamed.read(start=today, **asked).height == 3
    database.record(bars([BTC], start="2025-06-02", minutes=3), channel=Channel.WEBSOCKET, run_id="b")
    late = streamed.read(**(asked | {"start": "2025-06-01T12:00Z", "end": "2025-06-03"}))
    assert late.height == 3


@pytest.mark.parametrize("said_by", ["absent", "ledger"])
def test_a_day_on_which_there_was_nothing_to_have_is_not_missing(with_database, database, tmp_path, said_by):
    """A symbol that the exchange halted all day is in neither store: no download can help. Half a day of it is a hole, as ever."""
    own = with_database.model_copy(update={"lake": str(tmp_path)})
    lake, universe = Lake(own.lake_url), load_universe("v1.0", own.universes)
    signature, halted_ms = Signature.daily(Market.FUTURES, universe), START_MS + DAY_MS
    for day in ("2025-06-01", "2025-06-03"):
        database.record(bars([BTC], start=day, minutes=60), channel=Channel.WEBSOCKET, run_id="a")
    lake.write_day(signature, DAYS[1], bars([ETH], start="2025-06-02", minutes=1440))

    def halt(minutes):
        if said_by == "absent":
            rows = [(BTC, halted_ms + minute * MINUTE_MS, "exchange_halt", None) for minute in range(minutes)]
            lake.write_absent(signature, DAYS[1], pl.DataFrame(rows, schema=ABSENT_SCHEMA, orient="row"))
            return
        content = io.BytesIO()
        row = (BTC, halted_ms, halted_ms + minutes * MINUTE_MS, "halted", "exchange_halt", "{}")
        pl.DataFrame([row], schema=RANGES, orient="row").write_parquet(content)
        lake.put(ledger_key(Market.FUTURES, universe, DAYS[1]), content.getvalue())

    asked = {"start": "2025-06-01", "end": "2025-06-04", "market": "futures", "source": "streamed"}
    with OhlcvClient(own) as opened:
        halt(1439)
        with pytest.raises(DayMissing, match="of 2025-06-02"):
            opened.read(BTC, **asked)
        halt(1440)
        assert opened.read(BTC, **asked).height == 120
        lake.write_day(signature, DAYS[1], bars([BTC, ETH], start="2025-06-02", minutes=1440), replace=True)
        with pytest.raises(DayMissing, match="of 2025-06-02"):
            opened.read(BTC, **asked)


def test_two_centuries_can_be_asked_for(streamed):
    """What is there of two centuries is found among them, and what is not is counted."""
    asked = {"symbols": BTC, "start": "1900-01-01", "end": "2100-01-01", "market": "futures"}
    for source, count in (("streamed", 60), ("stitched", 1435 + 1440)):
        assert streamed.read(**asked, source=source, on_missing="skip").height == count
        with pytest.raises(DayMissing, match=r"of 1900-01-01 and 4[0-9]{4} more days"):
            streamed.read(**asked, source=source)


def test_a_day_before_the_listing_is_not_missing(streamed, with_database, tmp_path):
    """A symbol that was listed on the second of three days has all of its days, with a universe that knows when."""
    listed = {Symbol(BTC): ListingTimes("BTCUSDT", (Span(START_MS, START_MS + DAY_MS, "told"),))}
    # The lake has a day after its listing, too: what is stored is never left out.
    release_universe(Universe.of("v1.0", {Market.FUTURES: [BTC, ETH]}, listings=listed), tmp_path)
    with OhlcvClient(with_database.model_copy(update={"universes": tmp_path})) as opened:
        asked = {"symbols": BTC, "start": "2025-05-30", "end": "2025-06-05", "market": "futures"}
        assert opened.read(**asked, source="streamed").height == 60
        assert opened.read(**asked, source="stitched").height == 1435 + 1440


def test_a_closed_client_can_be_used_again(streamed):
    """Closing ends the connection, and the next read opens another."""
    asked = {
        "symbols": BTC,
        "start": "2025-06-01",
        "end": "2025-06-01T00:05Z",
        "market": "futures",
        "source": "streamed",
    }
    before = streamed.read(**asked)
    streamed.close()
    streamed.close()
    assert streamed.read(**asked).equals(before)


def test_a_used_client_can_be_pickled(streamed):
    """Another process gets a client of the same stores, which it opens itself: whatever the first one has open stays there."""
    asked = {"symbols": BTC, "start": "2025-06-01", "end": "2025-06-01T00:05Z", "market": "futures"}
    before = [streamed.read(**asked, source=source) for source in ("streamed", "daily")]
    with pickle.loads(pickle.dumps(streamed)) as copy:  # noqa: S301  our own
        assert all(
            copy.read(**asked, source=source).equals(bars)
            for source, bars in zip(("streamed", "daily"), before, strict=True)
        )


def _ends_with(client, code):
    """Ends the forked process with a code when reading is refused there."""
    try:
        client.read(BTC, "2025-06-01", "2025-06-01T00:05Z", market="futures")
    except Refused as error:
        os._exit(code if "spawn" in str(error) else 1)


@pytest.mark.filterwarnings("ignore")  # of polars and Python: that this is not to be done
def test_a_process_forked_from_one_that_has_read_says_so(client):
    """Polars would wait for ever there: reading is refused with what to do, also by a client that was made in it."""
    client.read(BTC, "2025-06-01", "2025-06-01T00:05Z", market="futures")
    for used in (client, OhlcvClient(client._settings)):
        process = multiprocessing.get_context("fork").Process(target=_ends_with, args=(used, 7))
        process.start()
        process.join(30)
        code = process.exitcode
        process.kill()
        assert code == 7


def test_a_reader_needs_no_right_to_write(place, streamed, database_url):
    """A user who may only read gets the bars: the client changes nothing in a database that somebody else runs."""
    name = f"only_reads_{os.getpid()}"
    url = make_conninfo(database_url, user=name, password="only-here")  # noqa: S106
    address = conninfo_to_dict(url)
    reader_url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**address)
    create = sql.SQL("create role {} login password 'only-here' in role ohlcv_reader").format(sql.Identifier(name))
    asked = {
        "symbols": BTC,
        "start": "2025-06-01",
        "end": "2025-06-01T00:05Z",
        "market": "futures",
        "source": "streamed",
    }
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(create)
        try:
            reader = place.model_copy(update={"database_url": Settings(database_url=reader_url).database_url})
            with OhlcvClient(reader) as opened:
                assert opened.read(**asked).equals(streamed.read(**asked))
        finally:
            connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_a_reader_makes_no_tables(place, database_url):
    """In a database of somebody else's that has no bars yet the client says so, and leaves it as it is."""
    name = f"empty_{os.getpid()}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            url = database_url.rsplit("/", 1)[0] + f"/{name}"
            empty = place.model_copy(update={"database_url": Settings(database_url=url).database_url})
            with OhlcvClient(empty) as opened, pytest.raises(Refused):
                opened.read(BTC, "2025-06-01", "2025-06-02", market="futures", source="streamed")
            with psycopg.connect(url) as inside:
                assert inside.execute("select count(*) from pg_tables where schemaname = 'public'").fetchone() == (0,)
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
