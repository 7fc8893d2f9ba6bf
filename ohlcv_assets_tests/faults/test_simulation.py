"""The deterministic simulation, held to its own promises: many seeds, one history a seed, and bugs that it must find."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from unittest.mock import patch

import polars as pl
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.bars import Channel
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import InvalidBars
from ohlcv_assets.exchange import binance, connection, stragglers
from ohlcv_assets.exchange.tally import Tally
from ohlcv_assets.instruments import Market
from ohlcv_assets.storage.database import Database
from ohlcv_assets.timestamps import MINUTE_MS, Interval, parse_time
from ohlcv_assets_tests.builders import bars, corrupted
from ohlcv_assets_tests.faults.simulation import verdict
from ohlcv_assets_tests.faults.simulation.loop import Process, Stuck, VirtualLoop, virtual_time
from ohlcv_assets_tests.faults.simulation.run import simulate
from ohlcv_assets_tests.faults.simulation.store import MemoryDatabase

SEEDS = range(30)
MINUTES = 8


@pytest.mark.parametrize("first", SEEDS[::10])
def test_nothing_is_lost_doubled_or_wrong_under_random_faults(first):
    """Ten seeds of faults: every bar stored once and right, every corruption found, no false alarm."""
    verdicts = [simulate(seed, minutes=MINUTES) for seed in range(first, first + 10)]
    assert [(each.seed, each.violations) for each in verdicts if each.violations] == []
    assert sum(each.lost + each.duplicated + each.wrong + each.false_alarms for each in verdicts) == 0
    assert all(each.found == each.planted > 0 for each in verdicts)


def test_a_seed_is_one_history():
    """The same seed gives the same history to the last event, in this process and in one that hashes otherwise."""
    here = [simulate(seed, minutes=MINUTES).trace for seed in (2, 2, 5)]
    code = (
        "from ohlcv_assets_tests.faults.simulation.run import simulate;"
        f"print(*(simulate(seed, minutes={MINUTES}).trace for seed in (2, 5)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert here[0] == here[1]
    assert there.stdout.split() == [here[0], here[2]]
    assert here[0] != here[2]


def test_the_real_database_gives_the_same_verdict(database):
    """With PostgreSQL in the place of the store in memory, a run has the same history and the same verdict."""
    for seed in (2, 8):
        in_memory, in_postgres = simulate(seed, minutes=MINUTES), simulate(seed, minutes=MINUTES, database=database)
        assert in_postgres.violations == ()
        assert (in_postgres.trace, in_postgres.revisions) == (in_memory.trace, in_memory.revisions)


# The bugs that it must find ---------------------------------------------------------------------------------------


def _open_bars_are_final() -> AbstractContextManager[object]:
    def handle_ohlcv(self, _client, message):
        kline = message["k"] | {"x": True}
        self.on_closed(connection.ClosedKline(kline["s"], kline, utc_now(), time.monotonic()))

    return patch.object(connection.closed_klines_class(), "handle_ohlcv", handle_ohlcv)


def _one_answer_is_enough() -> AbstractContextManager[object]:
    asked_in_vain = Tally.asked_in_vain

    def twice(self, keys, now_ms, *, answered):
        keys = list(keys)
        asked_in_vain(self, keys, now_ms - 60_000, answered=answered)
        asked_in_vain(self, keys, now_ms, answered=answered)

    return patch.object(Tally, "asked_in_vain", twice)


def _an_error_is_absence() -> AbstractContextManager[object]:
    return patch.object(stragglers.Stragglers, "_failed", lambda self, wanted, _error: self._not_found(wanted))


def _young_bars_are_given_up() -> AbstractContextManager[object]:
    return patch.object(stragglers, "SETTLED_AFTER_S", 0.0)


def _no_backfill() -> AbstractContextManager[object]:
    return patch.object(Tally, "due", lambda _self, _now_ms, _delay_s: [])


def _a_restart_believes_that_all_is_there() -> AbstractContextManager[object]:
    def keys(self, _market, interval):
        everything = [(symbol, minute) for symbol in {key[1] for key in self.bars} for minute in interval.minutes]
        return pl.DataFrame(everything, schema={"symbol": pl.String, "timestamp": pl.Int64}, orient="row")

    return patch.object(MemoryDatabase, "keys", keys)


def _the_unfinished_bar_is_fetched() -> AbstractContextManager[object]:
    return patch.object(binance.Exchange, "finished_until_ms", lambda self: self.clock.now_ms() + MINUTE_MS)


def _a_stop_is_not_obeyed() -> AbstractContextManager[object]:
    return patch.object(binance.WeightBudget, "block", lambda _self, _retry_after_s: None)


def _match_has_a_tolerance() -> AbstractContextManager[object]:
    exact = verdict.match
    return patch.object(verdict, "match", lambda left, right: exact(_rounded(left), _rounded(right)))


def _rounded(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(pl.Float64).round(6))


@pytest.mark.parametrize(
    ("bug", "finds"),
    [
        (_open_bars_are_final, "before its minute was over"),
        (_one_answer_is_enough, "the exchange has it"),
        (_an_error_is_absence, "the exchange has it"),
        (_young_bars_are_given_up, "the exchange has it"),
        (_no_backfill, "lost"),
        (_a_restart_believes_that_all_is_there, "lost"),
        (_the_unfinished_bar_is_fetched, "before its minute was over"),
        (_a_stop_is_not_obeyed, "with a stop"),
        (_match_has_a_tolerance, "match did not name"),
    ],
)
def test_a_bug_is_found(bug, finds):
    """The simulation is no rubber stamp: with this bug in the product some seed fails, and says why."""
    for seed in range(2, 26):
        with bug():
            violations = simulate(seed, minutes=MINUTES).violations
        if any(finds in violation for violation in violations):
            return
    pytest.fail("no seed found it")


# Its parts --------------------------------------------------------------------------------------------------------

_numbers = itertools.count()


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=4),
            st.sampled_from(Channel),
            st.sampled_from(["first", "second"]),
        ),
        max_size=6,
    )
)
def test_the_store_in_memory_keeps_the_databases_contract(shared_database, batches):
    """Whatever is recorded, in memory and in PostgreSQL the same is inserted, revised, refused and read."""
    start_ms = parse_time("2025-06-01") + 4 * MINUTE_MS * next(_numbers)
    interval = Interval(start_ms, start_ms + 4 * MINUTE_MS)
    memory, market = MemoryDatabase(), Market.FUTURES
    for rows, channel, run_id in batches:
        batch = _batch(rows, interval.start_ms)
        outcomes = [_outcome(store, batch, channel, run_id) for store in (memory, shared_database)]
        assert outcomes[0] == outcomes[1]
    assert memory.keys(market, interval).equals(shared_database.keys(market, interval))
    for name in ("read", "revisions"):
        ours, theirs = (getattr(store, name)(market, interval) for store in (memory, shared_database))
        unlike = [column for column in ("knowledge_timestamp", "revision") if column in ours.columns]
        assert ours.columns == theirs.columns
        assert ours.drop(unlike).rows() == theirs.drop(unlike).rows()


def _batch(rows: list[tuple[int, int]], start_ms: int) -> pl.DataFrame:
    """Bars of the minutes and with the trade counts that `rows` say; a count of 0 makes an unsound bar."""
    frame = bars(("BTC/USDT:USDT",), minutes=4)
    frame = frame.with_columns(timestamp=start_ms + pl.int_range(4) * MINUTE_MS)
    picked = [corrupted(frame, minute, "trade_count", count)[minute] for minute, count in rows]
    return pl.concat([frame.clear(), *picked])


def _outcome(store, batch, channel, run_id):
    try:
        return tuple(store.record(batch, channel=channel, run_id=run_id))
    except InvalidBars:
        return "refused"


@pytest.fixture(scope="module")
def shared_database(local_postgres):
    """One migrated database for all examples: each has minutes of its own."""
    name = f"simulation_{os.getpid()}"
    with psycopg.connect(local_postgres.url("postgres"), autocommit=True) as server:
        server.execute(f"create database {name}")
        with Database(local_postgres.url(name)) as opened:
            opened.migrate()
            yield opened
        server.execute(f"drop database {name} with (force)")


def test_virtual_hours_pass_at_once_and_in_order():
    """Sleepers wake in the order of their time, every clock says what the loop says, and nobody really sleeps."""
    loop, woken = VirtualLoop(), []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append((seconds, round(time.monotonic() - begun_s), round(time.time() - 500.0 - begun_s)))

    async def everybody() -> None:
        await asyncio.gather(*(sleeper(seconds) for seconds in (7200, 1, 3600)))

    with virtual_time(loop, 500.0, seed=1):
        begun_s = time.monotonic()
        loop.run_until_complete(everybody())
    loop.close()
    assert woken == [(1, 1, 1), (3600, 3600, 3600), (7200, 7200, 7200)]


def test_a_killed_process_does_nothing_more():
    """After a kill no line of the process runs, not even its clean-up, until it is buried."""
    loop, lines = VirtualLoop(), []
    process = Process("victim")

    async def victim() -> None:
        try:
            while True:
                await asyncio.sleep(1.0)
                lines.append("works")
        finally:
            lines.append("cleans up")

    async def story() -> None:
        task = loop.start(process, victim())
        await asyncio.sleep(2.5)
        loop.kill(process)
        await asyncio.sleep(100.0)
        assert lines == ["works", "works"]
        loop.bury(process)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    loop.run_until_complete(story())
    loop.close()
    assert lines[-1] == "cleans up"


def test_who_waits_for_nobody_is_named():
    """A run in which nothing can ever happen again ends with an error and not with a hang."""
    loop = VirtualLoop()
    with pytest.raises(Stuck):
        loop.run_until_complete(asyncio.Event().wait())
    loop.close()
