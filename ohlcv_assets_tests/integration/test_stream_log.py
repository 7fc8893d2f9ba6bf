"""The connection log of a stream: what it says is true, through outages of the exchange and of PostgreSQL, and it hurts nobody."""

import asyncio
import json
import threading
import time

import polars as pl
import pytest

from ohlcv_assets.capture import stream_into_database
from ohlcv_assets.errors import DatabaseUnavailable, Refused
from ohlcv_assets.exchange.binance import open_exchange
from ohlcv_assets.exchange.stream_report import MINUTES_SCHEMA
from ohlcv_assets.instruments import Market
from ohlcv_assets.quality.causes import Evidence
from ohlcv_assets.quality.ledger import State, ledger
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage import stream_log
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.local_postgres import LocalPostgres
from ohlcv_assets.storage.quality_store import STREAM_MINUTES_SCHEMA, QualityStore
from ohlcv_assets.storage.spool import Spool
from ohlcv_assets.storage.stream_log import StreamLog
from ohlcv_assets.timestamps import MINUTE_MS, Interval, parse_time
from ohlcv_assets_tests.integration.test_stream import NOON, bars_in, minutes_around_now

_NOON_MS = parse_time(NOON)


async def _streamed(replay, market, database, before, after, **options):
    """Stream so many minutes before now and from now on; the interval and the log."""
    async with open_exchange(market, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, before, after)
        await stream_into_database(
            exchange, database, sorted(exchange.listing), interval, delay_s=3.5, overlap_s=5, run_id="r", **options
        )
    return interval, QualityStore(database).stream_minutes(market, interval)


async def test_every_minute_of_a_run_is_logged_with_its_seconds(replay_factory, database):
    """Minutes before the run have no connection, those it was there for a whole one; every bar is counted."""
    replay = replay_factory(symbols=3, speed=30.0, start=NOON)
    interval, log = await _streamed(replay, Market.FUTURES, database, 2, 4, part="1/1")
    assert dict(log.schema) == STREAM_MINUTES_SCHEMA
    assert log["minute_ms"].to_list() == list(interval.minutes)
    assert log.select("market", "run_id", "shard").unique().rows() == [("futures", "r", "1/1")]
    assert log["connected_s"][:2].to_list() == [0.0, 0.0]
    assert 0.0 < log["connected_s"][2] <= 60.0
    assert log["connected_s"][3:].to_list() == [60.0] * 3
    assert set(log["bars_expected"]) == {3}
    assert log["bars_present"][:2].to_list() == [3, 3]


async def test_an_interval_that_is_over_is_logged_as_asked_for_and_not_connected(replay_exchange, database):
    """A backfill is a witness that somebody asked, and none that somebody watched."""
    interval = Interval(parse_time("2025-06-01T08:00Z"), parse_time("2025-06-01T09:00Z"))
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay_exchange.url)) as exchange:
        await stream_into_database(
            exchange, database, sorted(exchange.listing), interval, delay_s=3.5, overlap_s=0, run_id="r", part="1/1"
        )
    log = QualityStore(database).stream_minutes(Market.SPOT, interval)
    assert log.height == 60
    assert set(log["connected_s"]) == {0.0}
    assert log["bars_present"].equals(log["bars_expected"].alias("bars_present"))


async def test_without_a_part_of_a_universe_no_log_is_kept(replay_factory, database):
    """Symbols that somebody picked by hand prove nothing about the universe."""
    replay = replay_factory(symbols=2, speed=60.0, start=NOON)
    _, log = await _streamed(replay, Market.SPOT, database, 1, 2)
    assert log.is_empty()


async def test_an_outage_is_in_the_log_and_the_ledger_says_that_it_was_ours(replay_factory, database):
    """The WebSocket is refused for three minutes: bars lost then are our outage, bars lost at other times are lost."""
    replay = replay_factory(symbols=3, speed=30.0, start=NOON)
    replay.inject([{"fault": "ws_refuse", "from": "2025-06-01T12:02:10Z", "until": "2025-06-01T12:05:10Z"}])
    # Between two attempts to connect pass ten seconds at most: five minutes there.
    interval, log = await _streamed(replay, Market.FUTURES, database, 0, 12, part="1/1")
    seconds = dict(log.select("minute_ms", "connected_s").iter_rows())
    first = _NOON_MS + 3 * MINUTE_MS
    assert (seconds[first], seconds[first + MINUTE_MS]) == (0.0, 0.0)
    assert 0.0 < seconds[first - MINUTE_MS] < 60.0
    truth = replay.truth(Market.FUTURES)
    fetched = truth.filter(pl.col("timestamp").is_in(list(interval.minutes)))
    late = pl.col("timestamp").is_in([first, first + 8 * MINUTE_MS])
    made = ledger(fetched.filter(~late), fetched, fetched["symbol"].unique(), Market.FUTURES, interval, Evidence(stream_minutes=log))  # fmt: skip
    assert made.counts()[State.FETCHED_ONLY] == 6
    causes = dict(made.gaps().select("start", "cause").unique().iter_rows())
    assert causes == {first: "our_outage", first + 8 * MINUTE_MS: "lost"}
    assert all(json.loads(proof)["connected_s"] == 0.0 for proof in made.gaps().filter(pl.col("start") == first)["proof"])  # fmt: skip


async def test_what_happened_while_postgresql_was_away_is_logged_later(replay_factory, open_folder):
    """The server is down for two minutes of the run: not one minute is missing from the log, nor is a bar."""
    replay = replay_factory(symbols=2, speed=60.0, start=NOON)
    settings = Settings(home=open_folder, exchange_url=replay.url)
    local = LocalPostgres(open_folder)
    local.up()

    async def down_and_up(clock) -> None:
        await clock.sleep(70)
        await asyncio.to_thread(local.down)
        await clock.sleep(130)
        await asyncio.to_thread(local.up)

    async with open_exchange(Market.SPOT, settings) as exchange:
        with Database.open(settings) as database:
            interval = minutes_around_now(exchange, 0, 9)
            streaming = stream_into_database(
                exchange, database, sorted(exchange.listing), interval,
                delay_s=3.5, overlap_s=20, run_id="r", spool=Spool.of(settings, Market.SPOT), part="1/1",
            )  # fmt: skip
            await asyncio.gather(streaming, down_and_up(exchange.clock))
            log = QualityStore(database).stream_minutes(Market.SPOT, interval)
            assert bars_in(database.read(Market.SPOT, interval), interval).height == 18
    assert log["minute_ms"].to_list() == list(interval.minutes)


class _Store:
    """Takes rows, or not: raises each of these first, and may be held."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.took, self.gate = list(errors), [], threading.Event()
        self.gate.set()

    def record_stream_minutes(self, rows: pl.DataFrame) -> int:
        """Take the rows, once the gate is open."""
        self.gate.wait(10)
        if self.errors:
            raise self.errors.pop(0)
        self.took += rows["minute_ms"].to_list()
        return rows.height


def _minute(number: int) -> pl.DataFrame:
    return pl.DataFrame([(number * MINUTE_MS, 60.0, 2, 2)], schema=MINUTES_SCHEMA, orient="row")


def _comes_true(condition) -> bool:
    """Whether it does within ten seconds."""
    for _ in range(1_000):
        if condition():
            return True
        time.sleep(0.01)
    return False


def _log_over(store: _Store, monkeypatch: pytest.MonkeyPatch) -> StreamLog:
    monkeypatch.setattr(stream_log, "QualityStore", lambda _: store)
    return StreamLog(None, Market.SPOT, "r", "1/1")


def test_rows_wait_while_the_database_is_away_and_keep_their_order(monkeypatch):
    """Told while it is away, stored when it is back, each once."""
    store = _Store(DatabaseUnavailable("away"), DatabaseUnavailable("away"))
    monkeypatch.setattr(stream_log, "_PAUSE_S", 0.01)
    log = _log_over(store, monkeypatch)
    for number in range(5):
        log.tell(_minute(number))
    log.close()
    assert store.took == [number * MINUTE_MS for number in range(5)]


def test_a_refusal_or_any_other_error_costs_its_rows_and_nothing_else(monkeypatch):
    """The log goes on after rows that the database does not take."""
    store = _Store(Refused("no rights"), ZeroDivisionError())
    log = _log_over(store, monkeypatch)
    for number, left in ((0, 1), (1, 0)):
        log.tell(_minute(number))
        assert _comes_true(lambda left=left: len(store.errors) == left)
    log.tell(_minute(2))
    log.close()
    assert store.took == [2 * MINUTE_MS]


def test_a_database_that_hangs_neither_stops_the_telling_nor_the_end(monkeypatch):
    """Telling returns at once, and the end waits for a moment only."""
    monkeypatch.setattr(stream_log, "_PATIENCE_S", 0.05)
    store = _Store()
    store.gate.clear()
    log = _log_over(store, monkeypatch)
    for number in range(3):
        log.tell(_minute(number))
    log.close()
    assert store.took == []
    store.gate.set()


def test_a_log_that_was_told_nothing_ends_at_once(monkeypatch):
    """No thread is started for nothing."""
    _log_over(_Store(), monkeypatch).close()
    assert not [thread for thread in threading.enumerate() if thread.name == "connection log" and not thread.daemon]
