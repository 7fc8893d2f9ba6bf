"""Verifying old days against a real exchange process that changes its history, with a real lake and PostgreSQL."""

import json
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from ohlcv_assets.bars import KEY, VALUES
from ohlcv_assets.capture import download_day
from ohlcv_assets.errors import DatabaseUnavailable, UsageError
from ohlcv_assets.exchange.binance import open_exchange
from ohlcv_assets.exchange.fetch import fetch_bars
from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.quality.history import last_days, verify
from ohlcv_assets.quality.history_report import DayVerified, Outcome, Verification, day_ranges
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import ABSENT_SCHEMA, Lake, Signature
from ohlcv_assets.storage.quality_store import QualityStore
from ohlcv_assets.timestamps import MINUTE_MS, Interval, parse_time
from ohlcv_assets_tests import builders

FIRST, SECOND = date(2025, 6, 1), date(2025, 6, 2)
BOTH = (FIRST, SECOND)


class World:
    """An exchange on whose clock two days are over, and a lake that holds both as they were first downloaded."""

    def __init__(self, handle, lake, market=Market.FUTURES, *, unlisted=()):
        self.handle, self.lake, self.market = handle, lake, market
        names = [*handle.truth(market)["symbol"].unique(), *unlisted]
        self.universe = Universe.of("v0.1", {market: sorted(names)})
        self.signature = Signature.daily(market, self.universe)
        self.listed = sorted(set(names) - set(unlisted))

    def open(self):
        """The market."""
        return open_exchange(self.market, Settings(exchange_url=self.handle.url))

    async def download(self, *days):
        """Put days into the lake, as daily_bars does."""
        async with self.open() as exchange:
            for day in days:
                await download_day(exchange, self.lake, self.signature, self.listed, day)

    async def verify(self, *days, **options) -> Verification:
        """Verify days, both without a name."""
        async with self.open() as exchange:
            return await verify(exchange, self.lake, self.universe, days or BOTH, run_id="r1", **options)

    def correct(self, start, until, *, symbol=None, fault="correct"):
        """Let the exchange say something else of the minutes from `start` until `until`."""
        rule = {"fault": fault, "market": self.market.value, "from": start, "until": until}
        self.handle.inject([{**rule, "symbols": [symbol]} if symbol else rule])

    def findings_kept(self):
        """The findings that are in the lake."""
        return list(Path(self.lake.location("qa")).rglob("finding.json"))

    def rot(self, day):
        """Let one byte of a day's file be another."""
        file = Path(self.lake.location(self.signature.key(day)))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))

    def held(self, day):
        """Keys and values that the lake holds of a day."""
        return self.lake.read_day(self.signature, day).select(*KEY, *VALUES)

    def settled(self, day):
        """Keys and values that the exchange has now of a day."""
        interval = Interval.of_day(day)
        inside = pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left")
        return self.handle.settled(self.market).filter(inside).select(*KEY, *VALUES).sort("symbol", "timestamp")


@pytest.fixture
def folder_lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def handle(replay_factory):
    """Three days, of which two are over; sixty exchange seconds in one of ours."""
    return replay_factory(symbols=3, days=3, start="2025-06-03T00:30Z", speed=60)


@pytest.fixture
def world(handle, folder_lake) -> World:
    return World(handle, folder_lake)


def _outcomes(found: Verification) -> list[Outcome]:
    return [day.outcome for day in found.days]


async def test_days_that_are_as_they_were_change_nothing(world):
    """Two days that the exchange tells as before: nothing found, nothing written."""
    await world.download(*BOTH)
    found = await world.verify()
    assert _outcomes(found) == [Outcome.UNCHANGED] * 2
    assert found.is_unchanged
    assert found.summary()["bars_verified"] == 2 * 3 * 1440
    assert found.sentence() == "nothing changed; days compared: 2"
    assert found.digest() == ""
    assert not world.findings_kept()


@pytest.mark.parametrize("market", list(Market), ids=str)
async def test_a_changed_day_becomes_a_new_version_with_every_difference_named(
    handle, folder_lake, database: Database, market
):
    """Bars restated on one of two days: exactly these are listed, before and after, and the old file stays readable."""
    world = World(handle, folder_lake, market)
    await world.download(*BOTH)
    before = world.held(FIRST)
    world.correct("2025-06-01T10:00Z", "2025-06-01T10:05Z", symbol="BTCUSDT")
    store = QualityStore(database)
    found = await world.verify(findings=store)
    changed, unchanged = found.days
    assert _outcomes(found) == [Outcome.REPLACED, Outcome.UNCHANGED]
    after = world.settled(FIRST)
    assert world.held(FIRST).equals(after)
    assert changed.changed == before.join(after, on=[*KEY, *VALUES], how="anti").height == 5
    assert (changed.appeared, changed.vanished, unchanged.changed) == (0, 0, 0)
    kept = pl.read_parquet(changed.differences)
    assert kept.equals(changed.changes)
    for row in kept.iter_rows(named=True):
        key = (pl.col("symbol") == row["symbol"]) & (pl.col("timestamp") == row["timestamp"])
        assert row["before"] == before.filter(key)[row["column"]].item()
        assert row["after"] == after.filter(key)[row["column"]].item()
    assert set(kept["column"]) >= {"high", "volume", "trade_count"}
    former = pl.read_parquet(world.lake.location(changed.replaced_key)).select(*KEY, *VALUES)
    assert former.equals(before)
    told = store.findings().row(0, named=True)
    assert told["kind"] == "history_replaced"
    assert told["sentence"] == "the exchange changed history on 2025-06-01: 5 bars changed"
    assert json.loads(told["detail"])["hash_after"] == changed.hash_after
    assert (await world.verify(findings=store)).is_unchanged
    assert store.findings().height == 1


async def test_a_day_that_is_wholly_restated_is_one_finding(world, database: Database):
    """Thousands of changed bars on one day are one row, one sentence and one file."""
    await world.download(FIRST)
    world.correct("2025-06-01", "2025-06-02")
    found = await world.verify(FIRST, findings=(store := QualityStore(database)))
    assert found.summary()["bars_changed"] > 4000
    assert store.findings().height == 1
    assert world.held(FIRST).equals(world.settled(FIRST))


async def test_bars_that_vanished_are_left_to_a_person(handle, folder_lake, database: Database):
    """Where the exchange lacks what the lake holds, nothing is replaced, week after week, until somebody accepts it."""
    world = World(handle, folder_lake, Market.SPOT)
    await world.download(FIRST)
    before = world.held(FIRST)
    world.correct("2025-06-01T10:00Z", "2025-06-01T10:04Z", symbol="ETHUSDT", fault="halt")
    store = QualityStore(database)
    for _ in range(2):
        found = await world.verify(FIRST, findings=store)
        (day,) = found.days
        assert (day.outcome, day.vanished, day.changed, day.replaced_key) == (Outcome.VANISHED, 4, 0, None)
        assert world.held(FIRST).equals(before)
    assert store.findings()["kind"].to_list() == ["history_vanished"]
    accepted = await world.verify(FIRST, findings=store, accept=True)
    assert _outcomes(accepted) == [Outcome.REPLACED]
    assert world.held(FIRST).height == before.height - 4
    absent = folder_lake.read_absent(world.signature, FIRST)
    assert absent["timestamp"].to_list() == [parse_time("2025-06-01T10:00Z") + n * MINUTE_MS for n in range(4)]
    assert set(absent["symbol"]) == {"ETH/USDT"}
    assert store.findings()["kind"].to_list() == ["history_vanished", "history_replaced"]


async def test_a_bar_that_the_exchange_has_now_is_taken_over(world):
    """A minute that was lacking when the day was downloaded, and is there now, is in the new version, and absent no more."""
    async with world.open() as exchange:
        fetched = await fetch_bars(exchange, world.listed, Interval.of_day(FIRST))
    world.lake.write_day(world.signature, FIRST, builders.without(fetched.bars, 700))
    symbol, timestamp = fetched.bars.row(700, named=True)["symbol"], fetched.bars["timestamp"][700]
    rows = [(symbol, timestamp, "unknown", None), (symbol, timestamp + MINUTE_MS, "unknown", None)]
    world.lake.write_absent(world.signature, FIRST, pl.DataFrame(rows, schema=ABSENT_SCHEMA, orient="row"))
    (day,) = (await world.verify(FIRST)).days
    assert (day.outcome, day.appeared, day.changed) == (Outcome.REPLACED, 1, 0)
    assert world.held(FIRST).equals(world.settled(FIRST))
    assert world.lake.read_absent(world.signature, FIRST)["timestamp"].to_list() == [timestamp + MINUTE_MS]


async def test_an_exchange_that_says_two_things_is_not_believed(world):
    """When the second fetch says something else than the first, the lake keeps what it holds, and says so."""
    await world.download(FIRST)
    before = world.held(FIRST)
    world.correct("2025-06-01T10:00Z", "2025-06-01T10:01Z", symbol="BTCUSDT")
    again = iter(range(11, 24))

    def between(day: date, settled: int, asked: int) -> None:
        if settled == asked:
            hour = next(again)
            world.correct(f"2025-06-01T{hour}:00Z", f"2025-06-01T{hour}:01Z", symbol="BTCUSDT")

    found = await world.verify(FIRST, on_progress=between)
    assert _outcomes(found) == [Outcome.UNSETTLED]
    assert not found.is_unchanged
    assert world.held(FIRST).equals(before)
    settled = await world.verify(FIRST)
    assert _outcomes(settled) == [Outcome.REPLACED]


async def test_short_pages_are_no_history(world):
    """Answers that lack bars, as a busy exchange gives them, are asked again and change nothing."""
    await world.download(FIRST)
    world.handle.inject(
        [
            {"fault": "rest_short_page", "market": "futures", "where": "middle", "drop": 3, "count": 2},
            {"fault": "rest_empty_list", "market": "futures", "count": 1},
        ]
    )
    assert _outcomes(await world.verify(FIRST)) == [Outcome.UNCHANGED]
    assert len(world.handle.ledger("rest_short_page", "rest_empty_list")) == 3


async def test_days_that_the_lake_lacks_are_named_and_skipped(world):
    """Only what was downloaded can be verified; the rest is said, as ranges."""
    await world.download(SECOND)
    found = await world.verify(date(2025, 5, 30), date(2025, 5, 31), FIRST, SECOND)
    assert _outcomes(found) == [Outcome.ABSENT] * 3 + [Outcome.UNCHANGED]
    assert found.is_unchanged
    assert found.sentence().endswith("not in the lake: 2025-05-30 to 2025-06-01")


async def test_an_outage_ends_it_and_keeps_what_was_found(world):
    """The first day's finding is told although the second cannot be fetched; nothing is called verified that was not."""
    await world.download(*BOTH)
    world.correct("2025-06-01T10:00Z", "2025-06-01T10:01Z", symbol="BTCUSDT")

    def outage(day: DayVerified) -> None:
        world.handle.inject([{"fault": "rest_5xx", "endpoints": ["klines"]}])

    found = await world.verify(on_day=outage)
    assert _outcomes(found) == [Outcome.REPLACED, Outcome.UNAVAILABLE]
    assert found.summary()["days_verified"] == 1
    assert "stopped at 2025-06-02" in found.sentence()


async def test_a_finding_is_kept_before_the_file_is_replaced(world, monkeypatch):
    """A process that dies at the replacement has told what it found, and the next verification finds it again."""
    await world.download(FIRST)
    world.correct("2025-06-01T10:00Z", "2025-06-01T10:01Z", symbol="BTCUSDT")

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Lake, "write_day", die)
        with pytest.raises(KeyboardInterrupt):
            await world.verify(FIRST)
    folder = f"qa/history/futures/{world.universe.path_form}/date={FIRST}/run=r1"
    assert json.loads(world.lake.get(f"{folder}/finding.json"))["bars_changed"] == 1
    assert _outcomes(await world.verify(FIRST)) == [Outcome.REPLACED]


async def test_while_postgresql_is_away_the_lake_keeps_the_finding(world):
    """No table is a condition of noticing."""

    class Away:
        def record_finding(self, *_: object, **__: object) -> bool:
            raise DatabaseUnavailable("PostgreSQL is away")

    await world.download(FIRST)
    world.correct("2025-06-01T10:00Z", "2025-06-01T10:01Z", symbol="BTCUSDT")
    found = await world.verify(FIRST, findings=Away())
    assert _outcomes(found) == [Outcome.REPLACED]
    assert Path(found.days[0].differences).with_name("finding.json").is_file()


async def test_bars_of_a_symbol_that_is_listed_no_more_stay(handle, folder_lake):
    """What cannot be asked for is not compared, is named, and survives the new version of the others."""
    gone = "GONE/USDT:USDT"
    world = World(handle, folder_lake, unlisted=[gone])
    async with world.open() as exchange:
        fetched = await fetch_bars(exchange, world.listed, Interval.of_day(FIRST))
    alone = builders.bars([gone], start="2025-06-01T03:00Z", minutes=5)
    folder_lake.write_day(world.signature, FIRST, pl.concat([fetched.bars, alone]))
    assert _outcomes(await world.verify(FIRST)) == [Outcome.UNCHANGED]
    world.correct("2025-06-01T10:00Z", "2025-06-01T10:01Z", symbol="BTCUSDT")
    (day,) = (await world.verify(FIRST)).days
    assert (day.outcome, day.changed, day.unlisted) == (Outcome.REPLACED, 1, (gone,))
    kept = world.held(FIRST).filter(pl.col("symbol") == gone)
    assert kept.equals(alone.select(*KEY, *VALUES))


async def test_a_damaged_file_is_found_and_mended_when_accepted(world):
    """A byte that rotted on disk is a finding; accepted, the day is fetched anew and the damaged file kept."""
    await world.download(FIRST)
    before = world.held(FIRST)
    world.rot(FIRST)
    assert _outcomes(await world.verify(FIRST)) == [Outcome.DAMAGED]
    (day,) = (await world.verify(FIRST, accept=True)).days
    assert day.replaced_key is not None
    assert world.held(FIRST).equals(before)
    assert (await world.verify(FIRST)).is_unchanged


async def test_a_day_that_is_not_over_is_refused(world):
    """Nothing is asked of a day whose bars are still being made; the last days are those that are over."""
    async with world.open() as exchange:
        assert last_days(exchange.clock, 2) == list(BOTH)
        with pytest.raises(UsageError, match="no days"):
            last_days(exchange.clock, 0)
    with pytest.raises(UsageError, match="2025-06-03 is not over"):
        await world.verify(FIRST, date(2025, 6, 3))


def test_days_are_named_as_ranges():
    """Neighbours are one range, a day alone is itself."""
    days = [date(2025, 5, 30), date(2025, 5, 31), date(2025, 6, 1), date(2025, 6, 5)]
    assert day_ranges(days) == "2025-05-30 to 2025-06-01, 2025-06-05"
    assert day_ranges([]) == ""
