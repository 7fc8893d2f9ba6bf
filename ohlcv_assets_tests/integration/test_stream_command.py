"""The command `ohlcv stream` as a person or a machine runs it: a process, its output, its signals, its exit code."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import psycopg
import pytest
from typer.testing import CliRunner

from ohlcv_assets.bars import KEY, VALUES
from ohlcv_assets.cli import app
from ohlcv_assets.errors import UsageError
from ohlcv_assets.instruments import Market, Symbol, shard
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.local_postgres import LocalPostgres
from ohlcv_assets.storage.spool import Spool
from ohlcv_assets.timestamps import Interval, parse_time

NOON = "2025-06-01T12:00Z"
SPEED = 120.0

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `ohlcv stream` with arguments and settings; what still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, settings: Settings) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ohlcv_assets.cli", "stream", *arguments]
        environment = {**os.environ, **settings.environment()}
        running.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
            )
        )
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str], event: str) -> dict[str, object]:
    """The next JSON line of that event."""
    assert process.stdout is not None
    for line in process.stdout:
        found = json.loads(line)
        if found["event"] == event:
            return found
    raise AssertionError(f"no {event}: {process.stderr.read()}")


def stored(url: str, market: Market, interval: Interval) -> pl.DataFrame:
    with Database(url) as database:
        return database.read(market, interval).select(*KEY, *VALUES)


def truth_of(replay, market: Market, interval: Interval) -> pl.DataFrame:
    bars = replay.truth(market).filter(pl.col("timestamp").is_between(*interval_ends(interval), closed="left"))
    return bars.select(*KEY, *VALUES).sort("symbol", "timestamp")


def interval_ends(interval: Interval) -> tuple[int, int]:
    return interval.start_ms, interval.end_ms


def of_report(report: dict[str, object]) -> Interval:
    return Interval(parse_time(str(report["start"])), parse_time(str(report["end"])))


def test_a_machine_reads_every_minute_and_the_report(replay_factory, database_url, tmp_path, start):
    """With --json there is one object a minute and one at the end, and the database holds what they say."""
    replay = replay_factory(symbols=4, speed=SPEED, start=NOON)
    settings = Settings(home=tmp_path, database_url=database_url, exchange_url=replay.url)
    symbols = ",".join(sorted(replay.truth(Market.FUTURES)["symbol"].unique()))
    process = start("--market", "futures", "--hours", "0.05", "--symbols", symbols, "--json", settings=settings)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["event"] for line in lines] == ["begin", *["minute"] * (len(lines) - 2), "report"]
    # Minutes that were over before the stream began are not told one by one.
    assert 1 <= len(lines) - 2 <= 3
    assert all(line["bars_present"] + line["bars_lacking"] + line["bars_spooled"] == 4 for line in lines[1:-1])
    assert (lines[-1]["bars_present"], lines[-1]["bars_missing"]) == (12, 0)
    assert stored(database_url, Market.FUTURES, of_report(lines[-1])).equals(
        truth_of(replay, Market.FUTURES, of_report(lines[-1]))
    )


def test_a_part_of_the_symbols_is_streamed_alone(replay_factory, database_url, tmp_path, start):
    """With --shard only that part's bars are stored, and a person reads a line a minute."""
    replay = replay_factory(symbols=6, speed=SPEED, start=NOON)
    settings = Settings(home=tmp_path, database_url=database_url, exchange_url=replay.url)
    symbols = sorted(replay.truth(Market.SPOT)["symbol"].unique())
    process = start(
        "--market", "spot", "--hours", "0.05", "--symbols", ",".join(symbols), "--shard", "2/2", settings=settings
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "websocket" in out
    assert "are stored" in out
    bars = stored(database_url, Market.SPOT, Interval(parse_time(NOON), parse_time("2025-06-02")))
    assert set(bars["symbol"]) == set(shard([Symbol(symbol) for symbol in symbols], 1, 2))
    assert bars.height == 3 * bars["symbol"].n_unique()
    assert bars.join(replay.truth(Market.SPOT), on=[*KEY, *VALUES], how="semi").height == bars.height


def test_ctrl_c_stops_after_the_running_minute(replay_factory, database_url, tmp_path, start):
    """After the first Ctrl-C the command ends by itself, successfully, with every bar of every minute that it began."""
    replay = replay_factory(symbols=4, speed=SPEED, start=NOON)
    settings = Settings(home=tmp_path, database_url=database_url, exchange_url=replay.url)
    symbols = ",".join(sorted(replay.truth(Market.SPOT)["symbol"].unique()))
    process = start("--market", "spot", "--hours", "20", "--symbols", symbols, "--json", settings=settings)
    said(process, "minute")
    process.send_signal(signal.SIGINT)
    said(process, "stopping")
    report = said(process, "report")
    assert process.wait(timeout=30) == 0
    assert report["bars_present"] == report["bars_expected"] > 0
    interval = of_report(report)
    assert len(interval.minutes) < 60
    assert stored(database_url, Market.SPOT, interval).equals(truth_of(replay, Market.SPOT, interval))


def test_a_second_signal_ends_at_once(replay_factory, database_url, tmp_path, start):
    """Two signals end the command without waiting for the minute; what had come is stored."""
    replay = replay_factory(symbols=2, speed=20.0, start=NOON)
    settings = Settings(home=tmp_path, database_url=database_url, exchange_url=replay.url)
    process = start("--market", "spot", "--symbols", "BTC/USDT", "--json", settings=settings)
    minute = said(process, "minute")
    process.send_signal(signal.SIGTERM)
    said(process, "stopping")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 130
    at_ms = parse_time(str(minute["minute"]))
    assert stored(database_url, Market.SPOT, Interval(at_ms, at_ms + 60_000)).height == 1


def test_what_is_missing_is_named_and_is_exit_code_1(replay_factory, database_url, tmp_path, start):
    """Minutes that the exchange does not have are named by symbol and range."""
    halt = {
        "fault": "halt", "market": "spot", "symbols": ["ETHUSDT"],
        "from": "2025-06-01T12:00Z", "until": "2025-06-01T13:00Z",
    }  # fmt: skip
    replay = replay_factory(symbols=3, speed=SPEED, start=NOON, faults=[halt])
    settings = Settings(home=tmp_path, database_url=database_url, exchange_url=replay.url)
    process = start(
        "--market", "spot", "--hours", "0.04", "--symbols", "BTC/USDT,ETH/USDT", "--json", settings=settings
    )
    report = said(process, "report")
    assert process.wait(timeout=30) == 1
    interval = of_report(report)
    assert report["missing"] == {"ETH/USDT": [str(interval)]}
    assert report["bars_present"] == len(interval.minutes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--market", "options"], "'options' is no market"),
        (["--market", "spot", "--hours", "0"], "no time to stream"),
        (["--market", "spot", "--hours", "nan"], "no time to stream"),
        (["--market", "spot", "--shard", "5/4"], "no part 5 of 4"),
        (["--market", "spot", "--shard", "0/4"], "no part 0 of 4"),
        (["--market", "spot", "--shard", "1/0"], "no part 1 of 0"),
        (["--market", "spot", "--shard", "half"], "'half' is no part"),
        (["--market", "spot", "--symbols", "BTC/USDT:USDT"], "is no spot symbol"),
        (["--market", "spot", "--symbols", "btcusdt"], "is no symbol"),
        (["--market", "spot", "--symbols", ","], "no symbol is left"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_is_opened(arguments, words):
    """A wrong question is a usage error, in words, without exchange or database."""
    result = CliRunner().invoke(app, ["stream", *arguments])
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)
    assert result.exception.exit_code == 2


def test_a_symbol_that_is_not_listed_is_exit_code_2(replay_exchange, tmp_path, start):
    """What only the exchange can know is asked before the database is started, and told on standard error."""
    settings = Settings(home=tmp_path, exchange_url=replay_exchange.url)
    process = start("--market", "spot", "--symbols", "NOBODY/USDT", settings=settings)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "does not list on spot: NOBODY/USDT" in err
    assert "Traceback" not in err
    assert not (tmp_path / "postgres").exists()


def test_an_exchange_that_is_not_there_is_exit_code_3(tmp_path, start):
    """Nobody at that address: the message says so and what to do."""
    process = start("--market", "spot", settings=Settings(home=tmp_path, exchange_url="http://127.0.0.1:9"))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, "")
    assert "try:" in err


def test_bars_of_a_killed_run_reach_the_database(replay_factory, open_folder: Path, start):
    """PostgreSQL stops, the run goes on and is killed: the next run puts its bars in, unchanged, under its own name."""
    replay = replay_factory(symbols=3, speed=SPEED, start=NOON)
    settings = Settings(home=open_folder, exchange_url=replay.url)
    local, spool = LocalPostgres(open_folder), Spool.of(settings, Market.FUTURES)
    arguments = ("--market", "futures", "--symbols", "BTC/USDT:USDT,ETH/USDT:USDT", "--json")
    first = start(*arguments, settings=settings)
    said(first, "minute")
    assert local.down()
    minute: dict[str, object] = {"total_spooled": 0}
    while minute["total_spooled"] < 4:
        minute = said(first, "minute")
    first.kill()
    first.wait()
    waiting = sum(file.rows for file in spool.waiting())
    assert waiting >= 4
    local.up()
    second = start(*arguments, "--hours", "0.04", settings=settings)
    report = said(second, "report")
    assert second.wait(timeout=30) == 0
    assert spool.waiting() == []
    interval = Interval(parse_time(NOON), of_report(report).end_ms)
    with Database.open(settings) as database:
        bars = database.read(Market.FUTURES, interval)
        assert database.revisions(Market.FUTURES, interval).is_empty()
        with psycopg.connect(database._url) as connection:
            runs = connection.execute("select run_id, count(*) from bars group by 1").fetchall()
    assert bars.join(replay.truth(Market.FUTURES), on=[*KEY, *VALUES], how="semi").height == bars.height
    by_first = sum(count for run, count in runs if f"-{first.pid}-" in run)
    assert by_first >= waiting
