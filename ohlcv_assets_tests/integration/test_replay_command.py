"""The command `ohlcv replay`: what it prints, how it ends, and how it refuses what cannot be played."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from ohlcv_assets.cli import main
from ohlcv_assets.instruments import Market
from ohlcv_assets_tests.fixtures.replay import ReplayFactory


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs `ohlcv replay` with options that it refuses, in this process."""

    def run(*options: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["ohlcv", "replay", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "nothing says which bars to play"),
        (["--generate", "--data", "x.parquet"], "both --data and --generate"),
        (["--data", "absent.parquet"], "which market absent.parquet is of"),
        (["--data", "absent.parquet", "--market", "futures"], "there is no file absent.parquet"),
        (["--data", "absent.parquet", "--market", "options"], "'options' is no market"),
        (["--generate", "--symbols", "0"], "cannot generate 0 symbols"),
        (["--generate", "--first-day", "someday"], "'someday' is not a time"),
        (["--generate", "--start", "2025-06-01T00:00"], "has no time zone"),
        (["--generate", "--start", "2026-01-01"], "the data end at 2025-06-03T00:00Z"),
        (["--generate", "--speed", "0"], "a speed of 0 cannot be played"),
    ],
)
def test_what_cannot_be_played_is_one_error(run: Callable[..., Ended], options: list[str], told: str) -> None:
    """A wrong option ends with exit code 2 and one message that says what to do, without a traceback."""
    result = run(*options)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert told in result.stderr
    assert "try: " in result.stderr


def test_a_port_in_use_is_one_error(run: Callable[..., Ended]) -> None:
    """A port that another program has is an error that names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("--generate", "--symbols", "1", "--days", "1", "--port", str(port))
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr


def test_a_file_of_something_else_is_one_error(run: Callable[..., Ended], tmp_path: Path) -> None:
    """A file that is no Parquet file is named, with what is wanted."""
    file = tmp_path / "bars.csv"
    file.write_text("symbol,open_time\n")
    result = run("--data", str(file), "--market", "spot")
    assert result.returncode == 2
    assert "is no Parquet file" in result.stderr


def test_the_program_itself_tells_an_error_so() -> None:
    """`python -m ohlcv_assets.cli` ends with the error's exit code and its message, without a traceback."""
    command = [sys.executable, "-m", "ohlcv_assets.cli", "replay"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: nothing says which bars to play\n  try: ")


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_it_stops_when_told_though_sockets_are_open(replay_factory: ReplayFactory, signal_number: int) -> None:
    """SIGTERM and Ctrl-C end the process cleanly, while clients are connected and subscribed."""
    replay = replay_factory(symbols=2, speed=60)
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{replay.url}/ws/btcusdt@kline_1m") as client:
        await client.receive_str(timeout=20)
        replay.process.send_signal(signal_number)
        assert replay.process.wait(timeout=10) == 0


def test_the_same_options_play_the_same_market(replay_factory: ReplayFactory) -> None:
    """What the process plays is what `generate_truth` says, for both markets."""
    replay = replay_factory(symbols=3, days=2, seed=11)
    data = replay.stats()["data"]
    for market in Market:
        truth = replay.truth(market)
        assert data[market]["symbols"] == 3
        assert data[market]["start_ms"] == truth["timestamp"].min()
        assert data[market]["end_ms"] == truth["timestamp"].max() + 60_000
