"""Repairs over a replay exchange, PostgreSQL and a lake: what was wrong is right, what it was is readable, the rest is untouched."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import psycopg
import pytest

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, VALUES, Channel
from ohlcv_assets.capture import download_day
from ohlcv_assets.clock import utc_now
from ohlcv_assets.exchange.binance import Exchange, open_exchange
from ohlcv_assets.exchange.fetch import fetch_bars
from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.quality.recent import WINDOW_MS, RecentBars
from ohlcv_assets.quality.repair import EVERY_SYMBOL, Limits, RepairReport, newest, repair
from ohlcv_assets.quality.sides import DaySide, FetchedSide, HourSide
from ohlcv_assets.quality.verdict import Verdict
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import ABSENT_SCHEMA, Lake, Signature
from ohlcv_assets.storage.quality_store import QualityStore
from ohlcv_assets.timestamps import MINUTE_MS, Interval
from ohlcv_assets_tests.fixtures.deployment import DAY
from ohlcv_assets_tests.fixtures.replay import ReplayHandle

_HOUR = Interval.parse(f"{DAY}T05:00Z", f"{DAY}T06:00Z")
_MINUTE = _HOUR.start_ms + 7 * MINUTE_MS
_UNATTENDED = Limits(bars=500)


@dataclass
class Stores:
    """An hour or day that both sides hold alike, before a test breaks it."""

    exchange: Exchange
    handle: ReplayHandle
    database: Database
    url: str
    lake: Lake
    universe: Universe
    market: Market
    side: FetchedSide

    @property
    def symbol(self) -> str:
        """The one symbol whose bar the tests break."""
        return self.universe.symbols[self.market][0]

    def verdict(self) -> Verdict:
        """What the comparison says now."""
        return newest(self.database, self.side, self.universe, self.market)

    async def repair(self, limits: Limits = _UNATTENDED, run_id: str = "run-1") -> RepairReport:
        """Compare and repair."""
        return await repair(self.exchange, self.database, self.side, self.verdict(), limits=limits, run_id=run_id)

    def trail(self) -> pl.DataFrame:
        """The audit trail of the day."""
        return QualityStore(self.database).repairs(self.market, Interval.of_day(date.fromisoformat(DAY)))

    def execute(self, statement: str, symbol: str | None = None) -> None:
        """What another program might do to PostgreSQL, past every rule of ours."""
        with psycopg.connect(self.url) as connection:
            connection.execute("set session_replication_role = replica")
            changed = connection.execute(
                f"{statement} where market = %s and symbol = %s and timestamp = %s",
                (self.market.value, symbol or self.symbol, _MINUTE),
            ).rowcount
        assert changed == 1

    def rewrite_lake(self, changed: pl.DataFrame) -> None:
        """Give the lake's side other bars, as a wrong capture would have."""
        self.side.rewrite(changed.select(list(CAPTURED_SCHEMA)))

    def fetched_bar(self) -> pl.DataFrame:
        """The bar as the lake's side has it."""
        return self.side.read()[0].filter(pl.col("symbol") == self.symbol, pl.col("timestamp") == _MINUTE)


@asynccontextmanager
async def _stores(
    handle: ReplayHandle, url: str, folder: Path, market: Market, *, hourly: bool
) -> AsyncIterator[Stores]:
    universe = Universe.of("v0.1", {each: handle.truth(each)["symbol"].unique().to_list() for each in Market})
    lake, day = Lake(str(folder / "lake")), date.fromisoformat(DAY)
    side = HourSide(lake, market, universe, _HOUR) if hourly else DaySide(lake, market, universe, day)
    async with open_exchange(market, Settings(exchange_url=handle.url)) as exchange:
        with Database(url, patience_s=10.0) as database:
            symbols = universe.symbols[market]
            streamed = await fetch_bars(exchange, symbols, _HOUR if hourly else Interval.of_day(day))
            database.record(streamed.bars, channel=Channel.WEBSOCKET, run_id="stream")
            if hourly:
                for window in _HOUR.split(WINDOW_MS):
                    fetched = await fetch_bars(exchange, symbols, window)
                    RecentBars(lake, market, universe).write(window, fetched.bars)
            else:
                await download_day(exchange, lake, Signature.daily(market, universe), symbols, day)
            yield Stores(exchange, handle, database, url, lake, universe, market, side)


@pytest.fixture(params=[Market.SPOT, Market.FUTURES], ids=str)
def market(request: pytest.FixtureRequest) -> Market:
    return request.param


@pytest.fixture(params=[True, False], ids=["hour", "day"])
async def stores(
    request: pytest.FixtureRequest,
    finished_exchange: ReplayHandle,
    database_url: str,
    tmp_path: Path,
    market: Market,
) -> AsyncIterator[Stores]:
    """An hour with its windows, and a day with its file; each side by a capture of its own."""
    async with _stores(finished_exchange, database_url, tmp_path, market, hourly=request.param) as opened:
        yield opened


async def test_a_wrong_value_in_postgresql_becomes_a_revision(stores: Stores) -> None:
    """The streamed bar has the exchange's value again, the wrong one is what was known before, and the trail says why."""
    right = stores.database.read(stores.market, _HOUR).select(*KEY, *VALUES)
    stores.execute("update bars set close = close + 0.5, high = high + 0.5")
    wrong = stores.database.read(stores.market, _HOUR).select(*KEY, *VALUES)
    before = utc_now()
    report = await stores.repair()
    assert (report.concerned, report.repaired, report.undecided, report.is_settled) == (1, 1, 0, True)
    assert stores.database.read(stores.market, _HOUR).select(*KEY, *VALUES).equals(right)
    assert stores.database.read(stores.market, _HOUR, as_of=before).select(*KEY, *VALUES).equals(wrong)
    (revision,) = stores.database.revisions(stores.market, _HOUR).iter_rows(named=True)
    assert (revision["run_id"], revision["channel"]) == ("run-1", "rest")
    assert revision["reason"].startswith("repair: ")
    (row,) = stores.trail().iter_rows(named=True)
    assert (row["symbol"], row["timestamp"], row["side"], row["decision"], row["run_id"]) == (
        stores.symbol,
        _MINUTE,
        "streamed",
        "streamed_was_wrong",
        "run-1",
    )
    assert json.loads(row["before"])["close"] == json.loads(row["after"])["close"] + 0.5
    assert [source["capture"] for source in json.loads(row["sources"])] == ["streamed", "fetched", "third"]
    assert stores.verdict().match.is_match
    assert report.left_digest == stores.verdict().summary()["differences_digest"] == ""


async def test_a_lost_bar_of_postgresql_is_inserted_by_rest(stores: Stores) -> None:
    """A bar that the streamed side lacks comes from the third capture, which the lake's bar confirms."""
    stores.execute("delete from bars")
    report = await stores.repair()
    assert report.decisions["decision"].to_list() == ["streamed_was_missing"]
    held = stores.database.read(stores.market, _HOUR).filter(pl.col("timestamp") == _MINUTE)
    assert held.filter(pl.col("symbol") == stores.symbol)["channel"].to_list() == ["rest"]
    assert stores.verdict().match.is_match
    assert stores.verdict().streamed_coverage.is_complete


async def test_a_wrong_bar_of_the_lake_becomes_a_new_version_of_its_file(stores: Stores) -> None:
    """The file has the exchange's value again, the former file is kept with the wrong one, and PostgreSQL is untouched."""
    right = stores.fetched_bar()
    stores.rewrite_lake(right.with_columns(pl.col("volume") + 1, pl.col("quote_volume") + 1))
    report = await stores.repair()
    assert report.decisions["decision"].to_list() == ["fetched_was_wrong"]
    assert stores.fetched_bar().select(VALUES).equals(right.select(VALUES))
    (kept,) = report.kept
    former = pl.read_parquet(stores.lake.location(kept))
    wrong = former.filter(pl.col("symbol") == stores.symbol, pl.col("timestamp") == _MINUTE)
    assert wrong["volume"].to_list() == [right["volume"][0] + 1]
    assert stores.database.revisions(stores.market, _HOUR).is_empty()
    assert stores.verdict().match.is_match


async def test_a_bar_that_both_lack_gets_a_capture_of_its_own_on_each_side(stores: Stores) -> None:
    """Both sides have the exchange's bar, each from another answer, at least a second of the exchange apart."""
    _forget(stores, stores.symbol)
    report = await stores.repair()
    assert report.decisions["decision"].to_list() == ["fetched_was_missing", "streamed_was_missing"]
    assert (report.concerned, report.repaired) == (1, 1)
    streamed = stores.database.read(stores.market, _HOUR, symbols=[stores.symbol]).filter(
        pl.col("timestamp") == _MINUTE
    )
    apart = streamed["end_download_timestamp"][0] - stores.fetched_bar()["end_download_timestamp"][0]
    assert apart.total_seconds() >= 1
    assert stores.verdict().match.is_match
    assert stores.verdict().fetched_coverage.is_complete


async def test_what_the_third_capture_cannot_decide_stays_and_is_listed(stores: Stores) -> None:
    """Three different values: neither side is touched, and the trail has all three."""
    stores.execute("update bars set close = close + 0.5, high = high + 0.5")
    right = stores.fetched_bar()
    stores.rewrite_lake(right.with_columns(pl.col("volume") + 1, pl.col("quote_volume") + 1))
    before = stores.verdict()
    report = await stores.repair()
    assert (report.repaired, report.undecided, report.is_settled) == (0, 1, False)
    after = stores.verdict()
    assert after.match.differences.equals(before.match.differences)
    assert report.left_digest == after.summary()["differences_digest"] == before.summary()["differences_digest"]
    (row,) = stores.trail().iter_rows(named=True)
    closes = {source["capture"]: source["values"]["close"] for source in json.loads(row["sources"])}
    assert closes == {
        "streamed": right["close"][0] + 0.5,
        "fetched": right["close"][0],
        "third": right["close"][0],
    }
    assert row["decision"] == "undecided"


async def test_too_many_bars_are_one_finding_and_nothing_is_touched(stores: Stores) -> None:
    """Beyond the limit nothing is fetched or changed, one row and one finding say so; with a confirmation all is repaired."""
    with psycopg.connect(stores.url) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "update bars set high = high + 1 where timestamp between %s and %s and market = %s",
            (_HOUR.start_ms, _HOUR.end_ms - 1, stores.market.value),
        )
    tight = Limits(bars=179)
    reports = [await stores.repair(tight, run_id) for run_id in ("run-1", "run-2")]
    assert [(r.needs_confirmation, r.concerned, r.repaired, r.requests) for r in reports] == [(True, 180, 0, 0)] * 2
    assert stores.database.revisions(stores.market, _HOUR).is_empty()
    (row,) = stores.trail().iter_rows(named=True)
    assert (row["symbol"], row["decision"], row["run_id"]) == (EVERY_SYMBOL, "needs_confirmation", "run-1")
    assert "ohlcv repair --confirm" in row["reason"]
    assert QualityStore(stores.database).findings()["kind"].to_list() == ["needs_confirmation"]
    confirmed = await stores.repair(Limits(bars=179, confirm=True))
    assert confirmed.repaired == 180
    assert stores.verdict().match.is_match


async def test_what_the_exchange_never_had_is_not_asked_for(stores: Stores) -> None:
    """A minute that no symbol has on either side, and that is known to be a halt or looks like one, is no bar to repair."""
    for symbol in stores.universe.symbols[stores.market]:
        _forget(stores, symbol)
    if isinstance(stores.side, DaySide):
        signature, day = Signature.daily(stores.market, stores.universe), date.fromisoformat(DAY)
        rows = [
            {"symbol": name, "timestamp": _MINUTE, "cause": "exchange_halt", "proof": "{}"}
            for name in stores.verdict().symbols
        ]
        stores.lake.write_absent(signature, day, pl.DataFrame(rows, schema=ABSENT_SCHEMA))
    report = await stores.repair()
    assert (report.concerned, report.requests, report.decisions.height) == (0, 0, 0)
    assert report.left_digest == stores.verdict().summary()["differences_digest"] != ""


async def test_a_minute_that_the_download_missed_is_absent_no_more(stores: Stores) -> None:
    """What the exchange has after all, as one side and the third capture say, is in the lake, and no longer called absent."""
    _forget_in_lake(stores, stores.symbol)
    signature, day = Signature.daily(stores.market, stores.universe), date.fromisoformat(DAY)
    row = {"symbol": stores.symbol, "timestamp": _MINUTE, "cause": "exchange_halt", "proof": "{}"}
    stores.lake.write_absent(signature, day, pl.DataFrame([row], schema=ABSENT_SCHEMA))
    report = await stores.repair()
    assert report.decisions["decision"].to_list() == ["fetched_was_missing"]
    assert stores.verdict().match.is_match
    assert stores.lake.read_absent(signature, day).is_empty() == isinstance(stores.side, DaySide)


async def test_a_dry_run_decides_and_changes_nothing(stores: Stores) -> None:
    """The decisions are there, the stores and the audit trail are as they were."""
    stores.execute("update bars set close = close + 0.5, high = high + 0.5")
    before = stores.verdict()
    report = await stores.repair(Limits(bars=500, dry_run=True))
    assert report.decisions["decision"].to_list() == ["streamed_was_wrong"]
    assert stores.verdict().match.differences.equals(before.match.differences)
    assert stores.trail().is_empty()


async def test_only_the_bars_in_doubt_are_asked_for(stores: Stores) -> None:
    """One bar costs one question, not a day's; where nothing differs, none is asked."""
    stores.execute("update bars set close = close + 0.5, high = high + 0.5")
    assert (await stores.repair()).requests == 1
    assert (await stores.repair()).requests == 0


def _forget(stores: Stores, symbol: str) -> None:
    """Neither side has the bar of this symbol any more."""
    _forget_in_lake(stores, symbol)
    stores.execute("delete from bars", symbol=symbol)


def _forget_in_lake(stores: Stores, symbol: str) -> None:
    """Write the lake's side again, less the bar, as if it had never been there."""
    others = stores.side.read()[0].filter((pl.col("symbol") != symbol) | (pl.col("timestamp") != _MINUTE))
    if isinstance(stores.side, DaySide):
        signature = Signature.daily(stores.market, stores.universe)
        stores.lake.write_day(signature, date.fromisoformat(DAY), others.select(list(CAPTURED_SCHEMA)), replace=True)
        return
    window = Interval(_HOUR.start_ms, _HOUR.start_ms + WINDOW_MS)
    inside = others.filter(pl.col("timestamp") < window.end_ms)
    RecentBars(stores.lake, stores.market, stores.universe).write(window, inside.select(list(CAPTURED_SCHEMA)))
