"""`ohlcv read` as a person or a program uses it: formats, files that are whole or not there, pipes, and wrong questions."""

import importlib
import io
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from ohlcv_assets.bars import VALUES, Channel
from ohlcv_assets.instruments import Market
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Signature
from ohlcv_assets_tests.builders import bars
from ohlcv_assets_tests.fixtures.program import SPOT, Program

_DAY = ("--market", "spot", "--start", "2025-06-01", "--end", "2025-06-02")


@pytest.fixture
def stored(program: Program) -> pl.DataFrame:
    """A day of three symbols in the lake."""
    day = bars(SPOT, start="2025-06-01", minutes=1440)
    program.lake.write_day(Signature.daily(Market.SPOT, program.universe), date(2025, 6, 1), day)
    return day


def test_csv_and_json_lines_give_every_value_exactly(program: Program, stored: pl.DataFrame) -> None:
    """What another program parses are the stored doubles, bit for bit, labelled by the end of the minute."""
    csv = program.run("read", "BTC/USDT", *_DAY, "--format", "csv")
    told = pl.read_csv(io.StringIO(csv.out))
    kept = stored.filter(pl.col("symbol") == "BTC/USDT")
    assert (csv.code, told.height) == (0, 1440)
    assert told.select(VALUES).equals(kept.select(VALUES))
    assert told["interval_end"][0] == "2025-06-01T00:01:00Z"
    lines = [json.loads(line) for line in program.run("read", "BTC/USDT", *_DAY, "--json").out.splitlines()]
    assert [line["close"] for line in lines] == kept["close"].to_list()


def test_a_parquet_file_is_whole_or_not_there(program: Program, stored: pl.DataFrame, tmp_path: Path) -> None:
    """The end of the name says the format; a question that fails leaves what was there, and no draft."""
    file = tmp_path / "bars.parquet"
    assert program.run("read", "*/USDT", *_DAY, "-o", str(file)).code == 0
    before = file.read_bytes()
    assert pl.read_parquet(file).height == stored.height
    two_days = (*_DAY[:-1], "2025-06-03")
    assert program.run("read", "BTC/USDT", *two_days, "-o", str(file)).code == 1
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_a_table_shows_both_ends_of_a_long_answer(program: Program, stored: pl.DataFrame) -> None:
    """First and last rows, and how many there are."""
    ended = program.run("read", "BTC/USDT", *_DAY, "--columns", "close")
    assert ended.code == 0
    assert "2025-06-01T00:01:00Z" in ended.out
    assert "2025-06-02T00:00:00Z" in ended.out
    assert "1,440 rows" in ended.out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("BTC/USDX", *_DAY), "BTC/USDT"),
        (("BTC/USDT", "--market", "spot", "--start", "2025-06-01T00:00", "--end", "2025-06-02"), "try:"),
        (("BTC/USDT", "--market", "spot", "--start", "2025-06-02", "--end", "2025-06-01"), "try:"),
        (
            ("BTC/USDT", "--market", "spot", "--start", "0001-01-01T00:00+14:00", "--end", "2025-06-01"),
            "is not a time",
        ),
        (
            ("BTC/USDT", "--market", "spot", "--start", "2025-06-01", "--end", "9999-12-31T23:59-12:00"),
            "is not a time",
        ),
        (("BTC/USDT", *_DAY, "--as-of", "20250601T0000Z"), "is not a time"),
        (("BTC/USDT", "--market", "margin", "--start", "2025-06-01", "--end", "2025-06-02"), "spot or futures"),
        (("BTC/USDT", *_DAY, "--format", "xml"), "parquet"),
        (("BTC/USDT", *_DAY, "--format", "parquet"), "--output"),
    ],
)
def test_a_question_that_cannot_be_meant_is_one_error(
    program: Program, stored: pl.DataFrame, arguments: tuple[str, ...], hint: str
) -> None:
    """Exit code 2, what to write instead, and nothing on standard output."""
    ended = program.run("read", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert hint in ended.err


def test_a_day_that_is_not_there_is_a_finding(program: Program, stored: pl.DataFrame) -> None:
    """Exit code 1 and the day's name."""
    ended = program.run("read", "BTC/USDT", "--market", "spot", "--start", "2025-06-05", "--end", "2025-06-06")
    assert ended.code == 1
    assert "2025-06-05" in ended.err


def test_a_reader_that_leaves_early_is_no_error(program: Program, stored: pl.DataFrame) -> None:
    """A closed pipe, as `| head -1` leaves behind, ends the program without a word."""
    command = [sys.executable, "-m", "ohlcv_assets.cli", "read", "*/USDT", *_DAY, "--format", "csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"interval_end,symbol")
        process.stdout.close()
        told = process.stderr.read()
        assert (process.wait(), told) == (0, b"")


@pytest.mark.parametrize("bars_at_once", [5_000_000, 1])
@pytest.mark.parametrize("source", ["streamed", "stitched"])
def test_a_day_is_missing_or_not_however_the_answer_is_read(
    program: Program, database_url: str, monkeypatch: pytest.MonkeyPatch, bars_at_once: int, source: str
) -> None:
    """One symbol of several makes the day one that is there, also where each symbol is read apart; a day of none is named."""
    monkeypatch.setenv("OHLCV_DATABASE_URL", database_url)
    monkeypatch.setattr(importlib.import_module("ohlcv_assets.cli.read"), "_MOST_BARS", bars_at_once)
    with Database(database_url) as database:
        database.record(bars(SPOT, start="2025-06-01", minutes=10), channel=Channel.REST, run_id="a")
        database.record(bars(SPOT[:1], start="2025-06-02", minutes=10), channel=Channel.REST, run_id="a")
    asked = ("read", *SPOT, "--market", "spot", "--source", source, "--format", "csv", "--start", "2025-06-01")
    ended = program.run(*asked, "--end", "2025-06-03")
    assert (ended.code, len(ended.out.splitlines())) == (0, 1 + 10 * (len(SPOT) + 1))
    hole = program.run(*asked, "--end", "2025-06-04")
    assert (hole.code, hole.out) == (1, "")
    assert "2025-06-03" in hole.err
    assert program.run(*asked, "--end", "2025-06-04", "--on-missing", "skip").out == ended.out
