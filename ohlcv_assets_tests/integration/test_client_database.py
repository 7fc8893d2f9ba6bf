"""Promises of the client over the database: the same answer as from the lake, the past as it was known, and no right but to read."""

import os

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import Channel
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import (
    NoBars,
    Refused,
)
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import MINUTE_MS, Interval
from ohlcv_assets_tests.builders import corrupted
from ohlcv_assets_tests.integration.conftest import BTC, ETH, START_MS, expected


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


def test_nothing_streamed_is_one_clear_error(streamed):
    """An hour that was never streamed is an error that names the source, the symbol and the interval."""
    with pytest.raises(NoBars, match=r"no streamed bar of BTC/USDT:USDT in \[2025-06-01T06:00Z, 2025-06-01T07:00Z\)"):
        streamed.read(BTC, "2025-06-01T06:00Z", "2025-06-01T07:00Z", market="futures", source="streamed")


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
