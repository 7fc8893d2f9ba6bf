"""`ohlcv qa` and `ohlcv ledger` as a person or a machine runs them: what they find, what they print, their exit codes."""

import json
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import Channel
from ohlcv_assets.instruments import Market
from ohlcv_assets.quality.causes import Evidence
from ohlcv_assets.quality.ledger import State, ledger
from ohlcv_assets.quality.recent import WINDOW_MS, RecentBars
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Signature
from ohlcv_assets.storage.quality_store import QualityStore
from ohlcv_assets.timestamps import MINUTE_MS, Interval
from ohlcv_assets_tests.builders import bars, corrupted, without
from ohlcv_assets_tests.fixtures.program import FUTURES, Program

DAY = date(2025, 6, 1)
HOUR = Interval.parse("2025-06-01T05:00Z", "2025-06-01T06:00Z")
DAILY = ("qa", "daily", "--market", "futures", "--day", "2025-06-01")
RECENT = ("qa", "recent", "--market", "futures", "--hour", "2025-06-01T05")
LEDGER = ("ledger", "--market", "futures", "--day", "2025-06-01")
EXPECTED = 3 * 1_440


@pytest.fixture
def whole() -> pl.DataFrame:
    """A day of three symbols."""
    return bars(FUTURES, minutes=1_440)


@pytest.fixture
def stores(program: Program, database_url: str, monkeypatch: pytest.MonkeyPatch):
    """Fills both sides with what a test gives: streamed into PostgreSQL, fetched into the lake."""
    monkeypatch.setenv("OHLCV_DATABASE_URL", database_url)

    def fill(streamed: pl.DataFrame, fetched: pl.DataFrame) -> Program:
        with Database(database_url) as database:
            database.record(streamed, channel=Channel.WEBSOCKET, run_id="test")
        program.lake.write_day(Signature.daily(Market.FUTURES, program.universe), DAY, fetched)
        return program

    return fill


def test_a_day_that_matches_is_green(stores, whole) -> None:
    """Both sides the same: exit code 0, the word green, and a report that is there and is the client's newest result."""
    program = stores(whole, whole)
    ended = program.run(*DAILY)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("green  futures [2025-06-01T00:00Z, 2025-06-02T00:00Z), 3 symbols")
    assert f"all {EXPECTED:,} bars are equal (100.0000 %)" in ended.out
    result = OhlcvClient(program.settings).qa_result("futures", DAY)
    assert result.is_match
    assert f"report: {result.report}" in ended.out.splitlines()
    assert Path(result.report).is_file()


def test_a_day_that_differs_is_red_and_says_where(stores, whole) -> None:
    """One value that differs and three minutes that were not streamed: counted, diagnosed, named; exit code 1."""
    streamed = whole.filter(~pl.int_range(pl.len()).is_between(100, 102))
    ended = stores(corrupted(streamed, 7, "volume", whole["volume"][7] * 2), whole).run(*DAILY, "--json")
    told = json.loads(ended.out)
    assert (ended.code, told["verdict"]) == (1, "red")
    assert (told["bars_expected"], told["bars_differing"], told["bars_only_fetched"]) == (EXPECTED, 1, 3)
    assert told["diagnosis"] == {"missing": 3, "value": 1}
    differing = next(row for row in told["first_differences"] if row["column"] == "volume")
    assert differing["symbol"] == FUTURES[0]
    assert differing["timestamp"] == "2025-06-01T00:07Z"
    assert differing["streamed"] == 2 * differing["fetched"]
    assert told["missing_ranges"] == [
        {"side": "streamed", "start": "2025-06-01T01:40Z", "end": "2025-06-01T01:43Z", "symbols": 1,
         "example": FUTURES[0], "bars": 3}
    ]  # fmt: skip


def test_a_person_is_told_the_same_and_what_to_do(stores, whole) -> None:
    """The plain form has the kinds with their meaning, the ranges, the places, and the command that repairs."""
    ended = stores(without(whole, 100), whole).run(*DAILY)
    assert ended.code == 1
    assert ended.out.startswith("red  futures")
    for words in ("a side lacks the bar", "2025-06-01T01:40Z", "only fetched", "differences.parquet"):
        assert words in ended.out
    assert ended.out.splitlines()[-1] == "try: ohlcv repair --market futures --day 2025-06-01"


def test_report_prints_the_path_alone(stores, whole) -> None:
    """With --report standard output is one path, for another program to open, whatever the verdict."""
    ended = stores(without(whole, 3), whole).run(*DAILY, "--report")
    (line,) = ended.out.splitlines()
    assert ended.code == 1
    assert "<html" in Path(line).read_text("utf-8")


def test_a_minute_that_neither_side_has_is_red(stores, whole) -> None:
    """Both sides agree and both lack a minute that nothing explains: that is no green."""
    ended = stores(without(whole, 9), without(whole, 9)).run(*DAILY, "--json")
    told = json.loads(ended.out)
    assert (ended.code, told["match_pct"], told["diagnosis"]) == (1, 100.0, {"missing": 1})
    assert {row["side"] for row in told["missing_ranges"]} == {"streamed", "fetched"}


def test_the_hour_so_far_is_compared_as_far_as_it_was_fetched(stores, whole) -> None:
    """Two windows of an hour: twenty minutes are expected of each symbol, and a lost one turns it red."""
    program = stores(whole, whole)
    windows = RecentBars(program.lake, Market.FUTURES, program.universe)
    for window in list(HOUR.split(WINDOW_MS))[:2]:
        windows.write(
            window, whole.filter(pl.col("timestamp").is_between(window.start_ms, window.end_ms, closed="left"))
        )
    green = program.run(*RECENT, "--json")
    assert (green.code, json.loads(green.out)["bars_expected"]) == (0, 3 * 20)
    lost = whole.filter(pl.col("timestamp") == HOUR.start_ms + 3 * MINUTE_MS).head(1)
    windows.replace(next(iter(HOUR.split(WINDOW_MS))), corrupted(lost, 0, "close", lost["open"][0]))
    red = program.run(*RECENT)
    assert red.code == 1
    assert red.out.splitlines()[-1] == "try: ohlcv repair --market futures --day 2025-06-01 --hour 5"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--market", "margin", "--day", "2025-06-01"), "'margin' is no market\n  try: use spot or futures"),
        (("--market", "spot", "--day", "June"), "'June' is no day\n  try: write it as 2025-06-01"),
        (("--market", "spot", "--day", "2025-06-01", "--universe", "v9.9"), "no released universe 'v9.9'"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_told_before_anything_is_opened(program: Program, arguments, words) -> None:
    """A wrong market, day or universe: exit code 2, one message with a hint, and no database is waited for."""
    for command in (("qa", "daily"), ("ledger",)):
        ended = program.run(*command, *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert words in ended.err


@pytest.mark.parametrize("day", ["20250601", "2025-W23-1", "2025-6-1"])
@pytest.mark.parametrize(
    "command",
    [
        ("ledger", "--market", "spot", "--day"),
        ("repair", "--market", "spot", "--day"),
        ("verify", "--market", "spot", "--since"),
        ("verify", "--market", "spot", "--day"),
        ("demo", "--data", "no-file", "--day"),
    ],
    ids=" ".join,
)
def test_a_day_is_written_in_one_form(program: Program, command: tuple[str, ...], day: str) -> None:
    """Other forms of ISO 8601 are refused by every command, with the form that is meant."""
    ended = program.run(*command, day)
    assert (ended.code, ended.out) == (2, "")
    assert "no day" in ended.err
    assert ended.err.splitlines()[-1].endswith("2025-06-01")


@pytest.mark.parametrize("hour", ["2025-06-01", "2025-06-01T05:30Z", "2025-06-01T05:00+00:30", "five"])
def test_only_an_hour_is_an_hour(program: Program, hour: str) -> None:
    """What is no whole UTC hour is refused."""
    ended = program.run("qa", "recent", "--market", "spot", "--hour", hour)
    assert ended.code == 2
    assert "try: write" in ended.err


def test_what_was_never_fetched_is_a_finding(program: Program) -> None:
    """No file of the day, no window of the hour: exit code 1 and what to do, without a database."""
    for command in (DAILY, RECENT):
        ended = program.run(*command)
        assert (ended.code, ended.out) == (1, "")
        assert "try: " in ended.err


def test_a_database_that_does_not_answer_is_exit_code_3(program: Program, whole, monkeypatch) -> None:
    """The lake has the day, and PostgreSQL is away: unavailable, and not red."""
    monkeypatch.setenv("OHLCV_COMMAND_PATIENCE_S", "0")
    program.lake.write_day(Signature.daily(Market.FUTURES, program.universe), DAY, whole)
    for command in (DAILY, (*LEDGER, "--now")):
        assert program.run(*command).code == 3


def test_the_ledger_is_worked_out_where_none_is_recorded(stores, whole) -> None:
    """Of a day without a recorded ledger it is worked out: the states sum to the grid, and the lost minute is named."""
    ended = stores(without(whole, 9), whole).run(*LEDGER, "--json")
    told = json.loads(ended.out)
    assert ended.code == 1
    assert told["is_recorded"] is False
    assert sum(told["counts"].values()) == told["bars_expected"] == EXPECTED
    assert (told["counts"]["confirmed"], told["counts"]["fetched_only"]) == (EXPECTED - 1, 1)
    (gap,) = told["ranges"]
    assert (gap["symbol"], gap["start"], gap["minutes"]) == (FUTURES[0], "2025-06-01T00:09Z", 1)
    assert gap["cause"]
    assert isinstance(gap["proof"], dict)


def test_a_recorded_ledger_is_shown_as_it_was_recorded(stores, database_url: str, whole) -> None:
    """What Dagster recorded is shown, also when the stores say otherwise by now; --now works it out anew."""
    program, interval = stores(whole, whole), Interval.of_day(DAY)
    before = ledger(without(whole, 0), whole, FUTURES, Market.FUTURES, interval, Evidence())
    with Database(database_url) as database:
        QualityStore(database).record_ledger(
            Market.FUTURES, interval, before.ranges, universe="v0.1", bars_expected=EXPECTED, run_id="test"
        )
    recorded, anew = program.run(*LEDGER), program.run(*LEDGER, "--now")
    assert (recorded.code, anew.code) == (1, 0)
    assert "as recorded last" in recorded.out
    assert State.FETCHED_ONLY.value in recorded.out
    assert State.FETCHED_ONLY.value not in anew.out


def test_a_recorded_ledger_says_what_changed_since(stores, database_url: str, whole) -> None:
    """Bars that were revised after the ledger are told, with what to do, and are exit code 1; the ledger made anew says the rest."""
    program = stores(whole, whole)
    assert program.run(*LEDGER, "--record").code == 0
    with Database(database_url) as database:
        database.record(
            whole.head(2).with_columns(pl.col("high") + 1), channel=Channel.REST, run_id="b", reason="repair"
        )
    ended = program.run(*LEDGER)
    assert ended.code == 1
    assert "2 streamed bars changed since" in ended.out
    assert "try: ohlcv ledger --market futures --day 2025-06-01 --record" in ended.out
    assert json.loads(program.run(*LEDGER, "--json").out)["bars_changed_since"] == 2
    assert "changed since" not in program.run(*LEDGER, "--record").out


def test_a_recorded_ledger_is_shown_while_the_database_is_away(stores, whole, monkeypatch) -> None:
    """The lake has it: it is shown with its own exit code, and that nobody could look for changes is said, as null to machines."""
    program = stores(whole, whole)
    assert program.run(*LEDGER, "--record").code == 0
    monkeypatch.setenv("OHLCV_COMMAND_PATIENCE_S", "0")
    monkeypatch.setenv("OHLCV_DATABASE_URL", "postgresql://nobody:nothing@127.0.0.1:9/nothing")
    ended = program.run(*LEDGER)
    assert (ended.code, "as recorded last" in ended.out) == (0, True)
    (line,) = ended.err.splitlines()
    assert line.startswith("whether streamed bars changed since is not known: PostgreSQL is not available")
    told = json.loads(program.run(*LEDGER, "--json").out)
    assert (told["bars_expected"], told["bars_changed_since"]) == (EXPECTED, None)
    monkeypatch.delenv("OHLCV_DATABASE_URL")
    assert "not known: there is no database" in program.run(*LEDGER).err


def test_a_ledger_can_be_recorded_by_hand(stores, whole) -> None:
    """--record keeps it in both stores: from then on it is shown, and verified bars are read; --now beside it is refused."""
    program = stores(whole, whole)
    read = ("read", FUTURES[0], "--market", "futures", "--start", "2025-06-01", "--end", "2025-06-02", "--verified")
    assert program.run(*read).code == 1
    recorded = program.run(*LEDGER, "--record")
    assert (recorded.code, "recorded now as version 1" in recorded.out) == (0, True)
    assert "as recorded last" in program.run(*LEDGER).out
    assert program.run(*read).code == 0
    assert json.loads(program.run(*LEDGER, "--record", "--json").out)["is_recorded"] is True
    assert program.run(*LEDGER, "--record", "--now").code == 2


def test_a_day_in_which_all_is_confirmed_is_exit_code_0(stores, whole) -> None:
    """Nothing to look at: one state, the whole grid, no ranges."""
    ended = stores(whole, whole).run(*LEDGER)
    assert ended.code == 0
    assert f"{EXPECTED:,}" in ended.out
    assert "try:" not in ended.out
