"""What the system before this one got wrong, bug by bug: each is a promise here, with its number in that list.

Lives here: short tests of public functions, and small stories in the simulation's virtual time where a bug needs one (a
disconnect, an outage). Does not: the proofs at length, which are in the tests of each part.
"""

import math
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import polars as pl
import pytest

import ohlcv_assets
from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import Channel, validate
from ohlcv_assets.clock import ExchangeClock
from ohlcv_assets.errors import IncompletePage, InvalidBars, UniverseChanged, UnknownUniverse, UsageError
from ohlcv_assets.exchange.binance import Exchange
from ohlcv_assets.exchange.klines import row_of_event
from ohlcv_assets.exchange.tally import Tally
from ohlcv_assets.instruments import Market, Symbol, Universe, load_universe, release_universe, shard
from ohlcv_assets.quality.match import match
from ohlcv_assets.quality.soundness import soundness
from ohlcv_assets.quality.verdict import compare
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, floor_to, iso, parse_time
from ohlcv_assets_tests.builders import SYMBOLS, bars, corrupted
from ohlcv_assets_tests.faults.simulation.faults import BEFORE_S, BarFate, Clock, Plan, Window, calm
from ohlcv_assets_tests.faults.simulation.run import simulate
from ohlcv_assets_tests.faults.simulation.store import MemoryDatabase
from ohlcv_assets_tests.faults.simulation.verdict import Verdict

MARKET, START_MS = Market.FUTURES, parse_time("2025-06-01")
TEN_MINUTES = Interval(START_MS, START_MS + 10 * MINUTE_MS)
UNIVERSE = Universe.of("v1.0", {Market.SPOT: ["BTC/USDT"], Market.FUTURES: list(SYMBOLS)})


class Witnessed(MemoryDatabase):
    """A database that remembers every bar that it was ever given: (symbol, timestamp), channel."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[tuple[str, int], Channel]] = []

    def record(self, bars, *, channel, run_id, reason="capture"):
        """As before, and remember."""
        self.given += [(key, channel) for key in bars.select("symbol", "timestamp").iter_rows()]
        return super().record(bars, channel=channel, run_id=run_id, reason=reason)


def story(**changes: object) -> tuple[Verdict, Witnessed, list[str]]:
    """Five minutes of two futures in which only this goes wrong: the verdict, what was stored, and the history."""
    database, history = Witnessed(), []
    plan: Plan = replace(calm(7), **changes)  # type: ignore[arg-type]
    verdict = simulate(7, plan=plan, database=database, show=history.append)
    assert verdict.violations == ()
    assert (verdict.lost, verdict.duplicated, verdict.wrong, verdict.false_alarms) == (0, 0, 0, 0)
    return verdict, database, history


def end_of(minute: int) -> float:
    """When a minute of a story ends, in seconds of its world."""
    return BEFORE_S + 60.0 * (minute + 1)


def channels_by_minute(database: Witnessed) -> dict[int, set[str]]:
    """How the stored bars of each minute came, counted from the first."""
    first = min(key[2] for key in database.bars)
    found: dict[int, set[str]] = {}
    for key, stored in database.bars.items():
        found.setdefault((key[2] - first) // MINUTE_MS, set()).add(stored.channel)
    return found


# 1: closed by the wall clock ----------------------------------------------------------------------------------------


def test_1_a_partial_bar_is_never_taken_as_final():
    """A bar that is not closed is no bar, and one that is nowhere to be had 3.5 s after its end is waited for."""
    with pytest.raises(IncompletePage):
        row_of_event({"i": "1m", "x": False, "t": START_MS})
    verdict, database, _ = story(bars={(0, 1): BarFate((), rest_lag_s=30.0)})
    assert verdict.faults["rest_late_bar"] > 1
    assert verdict.revisions == 0
    assert max(Counter(key for key, _ in database.given).values()) == 1


def test_1_a_bar_that_came_too_early_is_corrected_when_the_final_one_comes():
    """A value before the last trade is stored first, and the final one is not "already seen": it becomes the latest."""
    verdict, database, _ = story(bars={(0, 1): BarFate((0.2, 8.0), settles_s=4.0)})
    assert verdict.revisions == len(database.revised) == 1
    early, final = database.bars[database.revised[0].row[:3]], database.revised[0]
    assert early.values != final.values


# 2: a late backfill emits again ---------------------------------------------------------------------------------------


def test_2_a_late_backfill_emits_nothing_again():
    """A bar that is fetched after later ones have come is the only one that is written then."""
    late = {(0, 1): BarFate(())}
    verdict, database, _ = story(bars=late, windows=(Window("rest_5xx", end_of(1), end_of(3)),))
    assert verdict.faults["rest_5xx"] > 1
    order = [key for key, _ in database.given]
    assert len(order) == len(set(order))
    assert [channel for _, channel in database.given].count(Channel.REST) == 1
    fetched = next(key for key, channel in database.given if channel is Channel.REST)
    assert any(key[1] > fetched[1] for key in order[: order.index(fetched)])


# 3, 10: duplicates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_3_of_two_captures_the_first_stays_and_the_other_is_a_revision(database, factor):
    """Neither the larger nor the smaller volume wins: the first capture stays, a differing second one is kept beside it."""
    first = bars(SYMBOLS[:1], minutes=1)
    second = first.with_columns(pl.col("^.*volume$") * factor)
    database.record(first, channel=Channel.WEBSOCKET, run_id="first")
    assert database.record(second, channel=Channel.REST, run_id="second") == (0, 0, 1)
    known = database.revisions(MARKET, TEN_MINUTES)["knowledge_timestamp"][0]
    then = database.read(MARKET, TEN_MINUTES, as_of=known - timedelta(microseconds=1))
    assert then["volume"].to_list() == first["volume"].to_list()
    assert database.revisions(MARKET, TEN_MINUTES)["volume"].to_list() == second["volume"].to_list()
    assert database.keys(MARKET, TEN_MINUTES).height == 1


def test_10_a_bar_is_one_row_whatever_its_values_and_no_conflict_is_hidden(database):
    """The key is the bar's identity: the same bar twice is nothing, another value for it is a revision that says so."""
    first = bars(SYMBOLS[:1], minutes=1)
    other = corrupted(first, 0, "trade_count", first["trade_count"][0] + 1)
    outcomes = [
        tuple(database.record(each, channel=Channel.REST, run_id="a")) for each in (first, first, other, first)
    ]
    assert outcomes == [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1)]
    assert database.read(MARKET, TEN_MINUTES).height == 1
    assert database.revisions(MARKET, TEN_MINUTES).height == 2
    with pytest.raises(InvalidBars):
        database.record(pl.concat([first, other]), channel=Channel.REST, run_id="a")


# 4, 12: reading -------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path):
    """Settings of a lake with two days of two futures and one spot symbol."""
    settings = Settings(
        home=tmp_path, lake=str(tmp_path / "lake"), universe="v1.0", universes=tmp_path / "universes", region="tokyo"
    )
    release_universe(UNIVERSE, settings.universes)
    lake = Lake(settings.lake_url)
    for day in (date(2025, 6, 1), date(2025, 6, 2)):
        for market in Market:
            frame = bars(UNIVERSE.symbols[market], start=day.isoformat(), minutes=20)
            lake.write_day(Signature.daily(market, UNIVERSE), day, frame)
    return settings


def test_4_the_label_does_not_depend_on_what_else_is_read(place):
    """A symbol read alone, with another, or after the other market has the same bars of [a, b) with the same labels."""
    start, end = iso(START_MS + 5 * MINUTE_MS), iso(START_MS + 8 * MINUTE_MS)
    with OhlcvClient(place) as client:
        alone = client.read(SYMBOLS[1], start, end, market="futures")
        client.read("BTC/USDT", start, end, market="spot")
        together = client.read(SYMBOLS, start, end, market="futures").filter(pl.col("symbol") == SYMBOLS[1])
    assert alone.equals(together)
    assert alone["interval_end"].to_list() == [datetime(2025, 6, 1, 0, minute, tzinfo=UTC) for minute in (6, 7, 8)]


def test_12_one_day_is_read_from_that_days_object_alone(place):
    """A day can be read whatever has become of the next one: nothing else is opened."""
    lake, signature = Lake(place.lake_url), Signature.daily(MARKET, UNIVERSE)
    Path(place.lake_url, signature.key(date(2025, 6, 2))).write_bytes(b"no Parquet at all")
    assert lake.read_day(signature, date(2025, 6, 1)).height == 40


def test_12_no_deployment_is_written_into_the_code():
    """No account, profile, subnet, address or chat stands in the package: settings say them."""
    # A profile's name: the option --aws_profile lets a person say one.
    forbidden = re.compile(
        r"aws_profile *= *[\"']|subnet-|chat_id|AKIA[0-9A-Z]{12}|\b(?!127\.0\.0\.1)\d{1,3}(\.\d{1,3}){3}\b"
    )
    for source in Path(ohlcv_assets.__file__).parent.rglob("*.py"):
        found = [hit[0] for hit in forbidden.finditer(source.read_text(encoding="utf-8")) if hit[0] != "0.0.0.0"]  # noqa: S104
        assert found == [], source


# 5: checks that pass or fail for the wrong reason -----------------------------------------------------------------------


def test_5_identical_frames_match_also_where_they_hold_nan():
    """NaN on both sides is the same, and NaN on one side is a difference."""
    clean = bars(minutes=2)
    holed = corrupted(clean, 1, "volume", math.nan)
    assert match(holed, holed).match_pct == 100.0
    assert match(holed, clean).differing == 1


@pytest.mark.parametrize("column", ["open", "low", "close", "volume", "quote_volume", "trade_count"])
def test_5_a_negative_price_or_volume_is_unsound(column):
    """A bar with a negative number is found by the check and refused by the gate of every store."""
    frame = corrupted(bars(minutes=2), 1, column, -1)
    assert not soundness(frame).is_sound
    with pytest.raises(InvalidBars):
        validate(frame)


def test_5_a_part_of_the_universe_that_is_not_there_is_an_error(tmp_path):
    """The parts hold every symbol once; a part beyond the last, and a universe that nobody released, raise."""
    symbols = [Symbol(f"A{number}/USDT") for number in range(50)]
    parts = [shard(symbols, index, 4) for index in range(4)]
    assert sorted(symbol for part in parts for symbol in part) == sorted(symbols)
    for index, count in ((4, 4), (-1, 4), (0, 0)):
        with pytest.raises(UsageError):
            shard(symbols, index, count)
    with pytest.raises(UnknownUniverse):
        load_universe("v9", tmp_path)


# 6, 11: what a stream survives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["ws_reset", "ws_close", "ws_half_open", "ws_server_shutdown"])
def test_6_one_disconnect_does_not_silence_the_stream(fault):
    """After a lost connection the bars of the following minutes come by WebSocket as before."""
    verdict, database, _ = story(windows=(Window(fault, end_of(0) + 20, end_of(0) + 20),))
    assert verdict.faults[fault] == 1
    channels = channels_by_minute(database)
    assert all(channels[minute] == {Channel.WEBSOCKET} for minute in (2, 3, 4))


def test_11_what_a_lost_connection_missed_is_fetched():
    """An outage of 75 s over the end of a minute costs no bar: REST brings what closed meanwhile."""
    verdict, database, _ = story(windows=(Window("ws_refuse", end_of(1) - 10, end_of(1) + 65),))
    assert verdict.faults["ws_refuse"] > 1
    assert Channel.REST in set().union(*channels_by_minute(database).values())


@pytest.mark.parametrize("fault", ["rest_429", "rest_418"])
def test_11_a_stop_that_the_exchange_orders_is_obeyed(fault):
    """After 429 or 418 nobody asks before Retry-After is over (the world watches every request), and then all comes."""
    closed_by_nobody = {(place, minute): BarFate(()) for place in range(2) for minute in range(5)}
    verdict, database, _ = story(bars=closed_by_nobody, windows=(Window(fault, end_of(0), end_of(0) + 5),))
    assert verdict.faults[fault] >= 1
    assert Channel.REST in set().union(*channels_by_minute(database).values())


@pytest.mark.parametrize("error_s", [-1.0, 1.0])
def test_11_a_clock_that_is_wrong_by_as_much_as_is_known_harms_nothing(error_s):
    """With the exchange's clock known to a second, and the machine's own five years off, no bar comes too early or never."""
    story(clock=Clock(error_s, 1.0, 2e-4), bars={(0, 1): BarFate(()), (1, 2): BarFate((12.0,))})


def test_11_bars_wait_while_the_database_is_away():
    """75 s without a database: the stream goes on in the same process, and what it captured meanwhile is not fetched again."""
    verdict, database, history = story(windows=(Window("db_outage", end_of(1) - 1, end_of(2) + 14),))
    assert verdict.faults["db_outage"] > 1
    assert not any("streamer-2" in line for line in history)
    assert {channel for _, channel in database.given} == {Channel.WEBSOCKET}


# 7, 8, 9, 13: the verdict, and what it is about ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["streamed", "fetched"])
def test_7_both_sides_are_validated(side):
    """An unsound bar is found on whichever side it is, and only there."""
    broken = corrupted(bars(), 3, "low", -1.0)
    sides = {"streamed": bars(), "fetched": bars()} | {side: broken}
    database = SimpleNamespace(read=lambda *_, **__: sides["streamed"])
    verdict = compare(database, sides["fetched"], SYMBOLS, MARKET, TEN_MINUTES)
    sound = {"streamed": verdict.streamed_soundness.is_sound, "fetched": verdict.fetched_soundness.is_sound}
    assert sound == {"streamed": side != "streamed", "fetched": side != "fetched"}
    assert not verdict.match.is_match


def test_7_the_verdict_is_a_check_that_stops_what_follows():
    """The comparison is a blocking check with its own evaluation, made from the frames themselves."""
    from ohlcv_assets.orchestration.checks import CHECKS, STREAMED_EQUALS_FETCHED, Evidence

    check = next(check for check in CHECKS if check.name == STREAMED_EQUALS_FETCHED)
    assert check.blocking
    for fetched, passed in ((bars(), True), (corrupted(bars(), 3, "close", bars()["open"][3]), False)):
        database = SimpleNamespace(read=lambda *_, **__: bars())
        evidence = Evidence(compare(database, fetched, SYMBOLS, MARKET, TEN_MINUTES))
        assert check.evaluate(evidence).passed is passed


def test_8_a_day_that_is_replaced_is_there_at_every_moment(tmp_path):
    """Whoever reads while a day is written anew finds it whole, the one or the other, and what was before is kept."""
    lake, signature, day = Lake(str(tmp_path)), Signature.daily(MARKET, UNIVERSE), date(2025, 6, 1)
    lake.write_day(signature, day, bars())
    done, found = Event(), []

    def read() -> None:
        while not (found and done.is_set()):
            found.append(lake.read_day(signature, day).height)

    reader = Thread(target=read)
    reader.start()
    written = [lake.write_day(signature, day, bars(seed=seed), replace=True) for seed in range(8, 20)]
    done.set()
    reader.join()
    assert set(found) == {bars().height}
    assert all(lake.get(each.replaced_key) for each in written)
    assert lake.days(signature) == [day]


@pytest.mark.parametrize("error_ms", [-900, 0, 900])
def test_9_no_bar_counts_as_finished_before_its_end(error_ms):
    """However wrong the exchange's clock is known to be, what is asked for is over: an error and no warning afterwards."""
    for true_ms in range(START_MS, START_MS + 2 * MINUTE_MS, 700):
        clock = ExchangeClock(true_ms + error_ms, 0.0, 1e-12, uncertainty_s=1.0)
        exchange = Exchange(MARKET, clock, SimpleNamespace(), SimpleNamespace(), None)
        assert exchange.finished_until_ms() <= floor_to(true_ms, MINUTE_MS)


def test_13_a_universe_does_not_drift(tmp_path):
    """A version means one set of symbols for ever; a changed file is an error, and other symbols are another version."""
    release_universe(UNIVERSE, tmp_path)
    path = tmp_path / "v1.0.json"
    path.write_text(path.read_text(encoding="utf-8").replace("ETH", "SOL"), encoding="utf-8")
    with pytest.raises(UniverseChanged):
        load_universe("v1.0", tmp_path)
    with pytest.raises(UniverseChanged):
        release_universe(Universe.of("v1.0", {Market.SPOT: ["SOL/USDT"]}), tmp_path)


def test_13_minutes_before_a_listing_are_not_missing():
    """A symbol that is listed in the middle of a day is expected from its first minute on."""
    listed = Tally(TEN_MINUTES, {Symbol(SYMBOLS[0]): 0, Symbol(SYMBOLS[1]): START_MS + 6 * MINUTE_MS})
    assert listed.expected == 14
    assert listed.next_due_ms(START_MS + DAY_MS, 3.5) is not None
    assert (SYMBOLS[1], START_MS) not in listed.open_keys()
