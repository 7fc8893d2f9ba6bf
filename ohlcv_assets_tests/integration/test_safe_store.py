"""The store that a stream never waits for: through stops, kills and freezes of a real PostgreSQL server."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import aiohttp
import polars as pl
import pytest

from ohlcv_assets.bars import Channel
from ohlcv_assets.capture import stream_into_database
from ohlcv_assets.errors import DatabaseUnavailable, Refused
from ohlcv_assets.exchange.binance import open_exchange
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage import safe_store
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.local_postgres import LocalPostgres
from ohlcv_assets.storage.safe_store import SafeStore
from ohlcv_assets.storage.spool import Origin, Spool
from ohlcv_assets_tests.integration.test_stream import NOON, bars_in, minutes_around_now
from ohlcv_assets_tests.unit.test_spool import NOON_MS, batch

MIB = 2**20


class Switch:
    """A database that can be away, slow, or against it; what it takes it remembers in order."""

    def __init__(self) -> None:
        self.away = self.refusing = False
        self.took: list[tuple[int, str, str]] = []

    def record(self, bars: pl.DataFrame, *, channel: Channel, run_id: str, patience_s: float) -> None:
        """Take the bars, or not."""
        if self.away:
            raise DatabaseUnavailable("away")
        if self.refusing:
            raise Refused("no rights")
        self.took += [((ms - NOON_MS) // 60_000, str(channel), run_id) for ms in sorted(set(bars["timestamp"]))]


async def test_bars_go_straight_in_while_the_database_is_there(tmp_path):
    """Nothing is written to disk as long as nothing is wrong."""
    database, spool = Switch(), Spool(tmp_path / "s", limit_bytes=MIB)
    async with SafeStore(database, spool, run_id="r") as store:
        assert [await store.take(batch(minute), Channel.WEBSOCKET) for minute in range(3)] == [safe_store.Kept()] * 3
    assert [minute for minute, *_ in database.took] == [0, 1, 2]
    assert spool.waiting() == []


async def test_bars_wait_in_order_and_go_in_when_it_is_back(tmp_path):
    """What is taken during an outage goes in afterwards, in order, and later bars never overtake earlier ones."""
    database, spool = Switch(), Spool(tmp_path / "s", limit_bytes=MIB)
    async with SafeStore(database, spool, run_id="r") as store:
        database.away = True
        kept = [await store.take(batch(minute), Channel.WEBSOCKET) for minute in range(3)]
        assert [each.stored.done() for each in kept] == [False] * 3
        database.away = False
        kept.append(await store.take(batch(3), Channel.REST))
        assert await store.emptied(10)
        assert all(each.stored is None or each.stored.done() for each in kept)
        await store.take(batch(4), Channel.WEBSOCKET)
    assert [minute for minute, *_ in database.took] == [0, 1, 2, 3, 4]
    assert spool.waiting() == []


async def test_what_a_dead_run_left_goes_in_first_and_under_its_name(tmp_path):
    """The next run of the market takes in the dead run's bars before its own, as the dead run's."""
    database, spool = Switch(), Spool(tmp_path / "s", limit_bytes=MIB)
    spool.append(batch(0), Origin(Channel.WEBSOCKET, "dead"))
    async with SafeStore(database, spool, run_id="next") as store:
        await store.take(batch(1), Channel.WEBSOCKET)
        assert await store.emptied(10)
    assert database.took == [(0, "websocket", "dead"), (1, "websocket", "next")]


async def test_two_runs_share_a_spool(tmp_path):
    """Two runs that overlap through an outage lose nothing and record nothing twice, whoever takes it in."""
    database = Switch()
    database.away = True
    spools = [Spool(tmp_path / "s", limit_bytes=MIB) for _ in range(2)]
    async with (
        SafeStore(database, spools[0], run_id="0") as one,
        SafeStore(database, spools[1], run_id="1") as other,
    ):
        kept = [await store.take(batch(minute), Channel.REST) for minute in range(6) for store in (one, other)]
        database.away = False
        assert await one.emptied(10)
        assert await other.emptied(10)
        assert all(each.stored.done() for each in kept)
    assert sorted(database.took) == sorted((minute, "rest", run) for minute in range(6) for run in "01")


async def test_a_full_spool_refuses_and_says_so(tmp_path):
    """What has no room is given back, and there is room again after the outage."""
    database, spool = Switch(), Spool(tmp_path / "s", limit_bytes=7_000)
    database.away = True
    async with SafeStore(database, spool, run_id="r") as store:
        kept = [await store.take(batch(minute), Channel.REST) for minute in range(6)]
        refused = [minute for minute, each in enumerate(kept) if each.refused is not None]
        assert refused
        assert refused[0] > 0
        assert refused == list(range(refused[0], 6))
        assert kept[-1].refused.equals(batch(5))
        database.away = False
        assert await store.emptied(10)
        await store.take(batch(9), Channel.REST)
    assert [minute for minute, *_ in database.took] == [*range(refused[0]), 9]


async def test_a_damaged_file_is_told_to_its_writer(tmp_path):
    """Bars whose file was damaged on disk count as lost, so that they are fetched again."""
    database, spool = Switch(), Spool(tmp_path / "s", limit_bytes=MIB)
    database.away = True
    async with SafeStore(database, spool, run_id="r") as store:
        kept = await store.take(batch(0), Channel.REST)
        spool.waiting()[0].path.write_bytes(b"no bars")
        database.away = False
        with pytest.raises(Exception, match="could not be recorded"):
            await asyncio.wait_for(kept.stored, 10)
    assert database.took == []


async def test_a_database_that_refuses_for_good_ends_the_capture(tmp_path):
    """Waiting would not help: the error is raised, and what waits stays on disk."""
    database, spool = Switch(), Spool(tmp_path / "s", limit_bytes=MIB)
    database.away = True

    async def capture() -> None:
        async with SafeStore(database, spool, run_id="r") as store:
            kept = await store.take(batch(0), Channel.REST)
            database.away, database.refusing = False, True
            with pytest.raises(Refused, match="no rights"):
                await store.emptied(10)
            assert kept.stored.cancelled()
            await store.take(batch(1), Channel.REST)

    with pytest.raises(Refused, match="no rights"):
        await capture()
    assert len(spool.waiting()) == 1


async def test_postgres_frozen_killed_and_stopped_in_mid_stream(replay_factory, open_folder: Path, monkeypatch):
    """The stream goes on through all of it: every bar in the end once, as the exchange has it, without a revision."""
    monkeypatch.setattr(safe_store, "_PATIENCE_S", 0.3)
    replay = replay_factory(symbols=4, speed=60.0, start=NOON)
    settings = Settings(home=open_folder, exchange_url=replay.url)
    local, told = LocalPostgres(open_folder), []
    local.up()

    async def break_things(clock) -> None:
        await clock.sleep(50)
        frozen = _server_processes(local.status().pid)
        _signal(frozen, signal.SIGSTOP)
        await clock.sleep(60)
        _signal(frozen, signal.SIGCONT)
        await clock.sleep(40)
        os.kill(local.status().pid, signal.SIGKILL)
        await clock.sleep(60)
        await asyncio.to_thread(local.down)
        await clock.sleep(130)
        await asyncio.to_thread(local.up)

    async with open_exchange(Market.FUTURES, settings) as exchange:
        with Database.open(settings) as database:
            interval = minutes_around_now(exchange, 3, 8)
            report, _ = await asyncio.gather(
                stream_into_database(
                    exchange, database, sorted(exchange.listing), interval,
                    delay_s=3.5, overlap_s=20, run_id="r", spool=Spool.of(settings, Market.FUTURES),
                    on_minute=told.append,
                ),
                break_things(exchange.clock),
            )  # fmt: skip
            stored = database.read(Market.FUTURES, interval)
            revisions = database.revisions(Market.FUTURES, interval)
    assert [minute for minute in told if minute.spooled and not minute.lacking]
    assert (report.bars_present, report.bars_spooled) == (44, 0)
    assert revisions.is_empty()
    assert bars_in(stored, interval).equals(bars_in(replay.truth(Market.FUTURES), interval))
    assert report.by_channel[Channel.WEBSOCKET] > 4 * 4
    assert Spool.of(settings, Market.FUTURES).waiting() == []


def _server_processes(postmaster: int) -> list[int]:
    """The server's process and its children."""
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text(encoding="ascii").split()
    return [postmaster, *map(int, children)]


def _signal(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


async def test_prometheus_reads_how_the_stream_stands(replay_factory, database, tmp_path, unused_tcp_port):
    """While a stream runs its numbers are at /metrics, and a port that is taken does not end it."""
    replay = replay_factory(symbols=3, speed=120.0, start=NOON)
    settings = Settings(home=tmp_path, exchange_url=replay.url)
    texts: list[str] = []

    async def scrape(told: asyncio.Event) -> None:
        await told.wait()
        url = f"http://127.0.0.1:{unused_tcp_port}/metrics"
        # Either of the two streams may have the port: its first minute may be told a little later.
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            while not texts or 'ohlcv_bars_present{market="spot"} 0' in texts[0]:
                async with session.get(url) as answer:
                    texts[:] = [await answer.text()]
                await asyncio.sleep(0.05)

    async def stream(exchange, told: asyncio.Event | None = None):
        return await stream_into_database(
            exchange, database, sorted(exchange.listing), minutes_around_now(exchange, 0, 3),
            delay_s=20, overlap_s=0, run_id="r", spool=Spool.of(settings, Market.SPOT), metrics_port=unused_tcp_port,
            on_minute=lambda _: told.set() if told else None,
        )  # fmt: skip

    told = asyncio.Event()
    async with open_exchange(Market.SPOT, settings) as exchange:
        one, other, _ = await asyncio.gather(stream(exchange, told), stream(exchange), scrape(told))
    assert one.missing.is_empty()
    assert other.missing.is_empty()
    values = dict(line.rsplit(" ", 1) for line in texts[0].splitlines() if not line.startswith("#"))
    assert float(values['ohlcv_bars_present{market="spot"}']) >= 3
    assert float(values['ohlcv_bars_missing{market="spot"}']) == 0
    assert 'ohlcv_bars_captured_total{market="spot",channel="websocket"}' in values
    named = [line.split()[2] for line in texts[0].splitlines() if line.startswith("# TYPE")]
    assert len(named) == len(set(named))
