"""Commands whose output nobody reads, as behind `| head -1` or `| true`: they do their work, and their exit code says the outcome."""

import errno
import fcntl
import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from ohlcv_assets.cli import app, main
from ohlcv_assets.cli.output import told_output
from ohlcv_assets.errors import Refused
from ohlcv_assets.instruments import Market, Universe, release_universe
from ohlcv_assets.settings import settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import Interval
from ohlcv_assets_tests.builders import bars, without
from ohlcv_assets_tests.fixtures.program import FUTURES, SPOT, Program

_DAY = date(2025, 6, 1)
_SYMBOLS = 3
_HOUR = ("--start", "2025-06-01T05:00Z", "--end", "2025-06-01T06:00Z")


def unread(*arguments: str, opened: Callable[[], tuple[int, int]] = os.pipe) -> int:
    """The exit code of the command with both its streams in a pipe, or a terminal, that nobody reads."""
    reading, writing = opened()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "ohlcv_assets.cli", *arguments]
        return subprocess.run(command, stdout=writing, stderr=writing, check=False, timeout=120).returncode
    finally:
        os.close(writing)


@pytest.fixture
def home(replay_factory, tmp_path, monkeypatch):
    """A fresh home whose exchange has a day that is over, with a halt of three minutes on spot; the universe is all that it has."""
    halt = {"fault": "halt", "market": "spot", "from": "2025-06-01T06:00Z", "until": "2025-06-01T06:03Z"}
    exchange = replay_factory(symbols=_SYMBOLS, days=2, start="2025-06-02T06:00Z", speed=60, faults=[halt])
    universe = Universe.of("v0.1", {m: exchange.truth(m)["symbol"].unique().to_list() for m in Market})
    release_universe(universe, tmp_path / "universes")
    values = {"HOME": tmp_path, "UNIVERSES": tmp_path / "universes", "UNIVERSE": "v0.1", "EXCHANGE_URL": exchange.url}
    for name, value in values.items():
        monkeypatch.setenv(f"OHLCV_{name}", str(value))
    return universe


def test_a_download_that_nobody_watches_stores_its_days(home, tmp_path) -> None:
    """With a line of the plan and one for each question (-v) to lose, the day is stored; what is missing is exit code 1 still."""
    line = ("-v", "download-bulk", "--start_timestamp", "2025-06-01", "--end_timestamp", "2025-06-02")
    assert unread(*line, "--contract_type", "futures") == 0
    lake = Lake(str(tmp_path / "lake" / "stockholm"))
    assert lake.read_day(Signature.daily(Market.FUTURES, home), _DAY).height == _SYMBOLS * 1440
    assert unread(*line, "--contract_type", "spot", "--assert_on_missing_data") == 1
    assert lake.read_day(Signature.daily(Market.SPOT, home), _DAY).height == _SYMBOLS * 1437


@pytest.mark.parametrize(
    ("command", "bars_of_a_symbol"),
    [(("backfill-db", *_HOUR), 60), (("stream", "--hours", "0.034"), 2)],
    ids=["backfill-db", "stream"],
)
def test_bars_are_stored_in_postgresql_though_nobody_watches(
    home, database_url, monkeypatch, command, bars_of_a_symbol
) -> None:
    """An hour by REST, and two minutes as they happen: all of them are there, and the exit code is 0."""
    monkeypatch.setenv("OHLCV_DATABASE_URL", database_url)
    assert unread(*command, "--market", "futures") == 0
    with Database(database_url) as database:
        stored = database.read(Market.FUTURES, Interval.parse("2025-06-01", "2025-06-03"))
    assert stored.height == _SYMBOLS * bars_of_a_symbol


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("qa", "daily", "--market", "futures", "--day", "2025-06-01"), 1),
        (("qa", "daily", "--market", "futures", "--day", "2025-06-01", "--json"), 1),
        (("coverage", "--market", "futures", "--start", "2025-06-01", "--end", "2025-06-02"), 1),
        (("ledger", "--market", "futures", "--day", "2025-06-01"), 1),
        (("ledger", "--market", "options", "--day", "2025-06-01"), 2),
        (("read", "BTC/USDT:USDT", "--market", "futures", "--start", "2025-06-01", "--end", "2025-06-02", "-f", "csv"), 0),
    ],
    ids=lambda value: value if isinstance(value, int) else " ".join(value),
)  # fmt: skip
def test_a_verdict_is_the_exit_code_whoever_reads(
    program: Program, database_url, monkeypatch, command: tuple[str, ...], code: int
) -> None:
    """Of a day that lacks a minute in one store and three in both: red is 1, a mistyped market is 2, and what is only read is 0."""
    monkeypatch.setenv("OHLCV_DATABASE_URL", database_url)
    day = without(bars(FUTURES, minutes=1440), 100)
    program.lake.write_day(Signature.daily(Market.FUTURES, program.universe), _DAY, day)
    assert unread(*command) == code


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("coverage", "--market", "futures", "--start", "2025-06-01", "--end", "2025-06-02", "--source", "daily"), 1),
        (("read", "BTC/USDT:USDT", "--market", "futures", "--start", "2025-06-01", "--end", "2025-06-02", "-f", "csv"), 0),
    ],
    ids=["coverage", "read"],
)  # fmt: skip
def test_a_terminal_that_is_gone_is_one_that_nobody_reads(
    program: Program, command: tuple[str, ...], code: int
) -> None:
    """A window that was closed hides no verdict."""
    day = without(bars(FUTURES, minutes=1440), 100)
    program.lake.write_day(Signature.daily(Market.FUTURES, program.universe), _DAY, day)
    assert unread(*command, opened=pty.openpty) == code


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "command",
    [
        ("read", "BTC/USDT", "--market", "spot", "--start", "2025-06-01", "--end", "2025-06-02", "-f", "csv"),
        (
            "coverage",
            "--market",
            "spot",
            "--start",
            "2025-05-01",
            "--end",
            "2025-07-01",
            "--source",
            "daily",
            "--json",
        ),
    ],
    ids=["bytes", "text"],
)
def test_a_slow_reader_of_a_pipe_that_does_not_wait_gets_every_byte(
    program: Program, monkeypatch, command: tuple[str, ...], unbuffered: str
) -> None:
    """A pipe of one page with O_NONBLOCK, as another program leaves it: the same bytes as in a file, and no error."""
    program.lake.write_day(Signature.daily(Market.SPOT, program.universe), _DAY, bars(SPOT, minutes=1440))
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    line = [sys.executable, "-m", "ohlcv_assets.cli", *command]
    waited = subprocess.run(line, capture_output=True, check=False)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with subprocess.Popen(line, stdout=writing, stderr=subprocess.PIPE) as process, os.fdopen(reading, "rb") as pipe:
        os.close(writing)
        got = pipe.read()
        told = process.communicate()[1]
    assert len(waited.stdout) > 4096
    assert (process.returncode, told, got) == (waited.returncode, waited.stderr, waited.stdout)


def test_only_a_full_disk_is_told_to_make_room(program: Program, tmp_path: Path) -> None:
    """A standard output that is open for reading alone is no question of room."""
    (tmp_path / "file").touch()
    with (tmp_path / "file").open("rb") as unwritable:
        command = [sys.executable, "-m", "ohlcv_assets.cli", "universe", "list"]
        ended = subprocess.run(command, stdout=unwritable, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 3
    assert ended.stderr.splitlines() == [
        "error: standard output cannot be written: Bad file descriptor", "  try: send it to another place"
    ]  # fmt: skip


def test_a_file_on_a_broken_disk_is_no_terminal_that_is_gone(monkeypatch, tmp_path: Path) -> None:
    """Its EIO is told: what is lost of a file, somebody would have read."""

    class Broken(io.TextIOWrapper):
        def flush(self) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(sys, "stdout", Broken((tmp_path / "file").open("wb")))
    with pytest.raises(Refused, match="Input/output error"), told_output():
        sys.stdout.flush()


def test_a_stream_that_the_shell_has_closed_is_one_that_nobody_reads(program: Program) -> None:
    """`>&-` and `2>&-`: a day is read into a file as ever."""
    program.lake.write_day(Signature.daily(Market.SPOT, program.universe), _DAY, bars(SPOT, minutes=1440))
    place = program.settings.home / "bars.csv"
    place.parent.mkdir(parents=True, exist_ok=True)
    read = f"read BTC/USDT --market spot --start 2025-06-01 --end 2025-06-02 -o {place}"
    run = subprocess.run(["sh", "-c", f"'{sys.executable}' -m ohlcv_assets.cli {read} >&- 2>&-"], check=False)
    assert run.returncode == 0
    assert len(place.read_text().splitlines()) == 1441


def test_a_broken_pipe_of_a_socket_is_no_success(monkeypatch, capsys) -> None:
    """An error that leaks out of a connection is told, with the exit code of what is unavailable."""

    def broken() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    app.command("broken")(broken)
    monkeypatch.setattr(sys, "argv", ["ohlcv", "broken"])
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        app.registered_commands.pop()
        settings.cache_clear()
    assert ended.value.code == 3
    assert "a connection was lost" in capsys.readouterr().err
