"""Refusals that name the true reason: what is wrong with what was typed, by the clock and the order that count."""

import sys
from datetime import date

import pytest

from ohlcv_assets.instruments import Market, Universe, release_universe
from ohlcv_assets.storage.lake import Signature
from ohlcv_assets_tests.builders import bars
from ohlcv_assets_tests.fixtures.program import FUTURES, Program
from ohlcv_assets_tests.fixtures.replay import replay_process

_SPAN = ("--start", "2025-06-01", "--end", "2025-06-02")
_STRETCH = ("--start_timestamp", "2025-06-01", "--end_timestamp", "2025-06-02")


@pytest.fixture(scope="module")
def exchange():
    """Three symbols a market; its clock stands in the morning of 2025-06-02."""
    with replay_process(symbols=3, days=2, start="2025-06-02T06:00Z", speed=1) as handle:
        yield handle


@pytest.fixture
def asking(program: Program, exchange, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program over that exchange, with an empty database."""
    monkeypatch.setenv("OHLCV_DATABASE_URL", database_url)
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", exchange.url)
    return program


@pytest.mark.parametrize(
    ("command", "error", "hint"),
    [
        (("universe", "snapshot", "--top", "0"), "--top 0 takes no symbol", "a number above zero"),
        (("universe", "snapshot", "--top", "-1"), "--top -1 takes no symbol", "a number above zero"),
        (("universe", "snapshot", "--top", "5", "--quote", "any"), "the volume of one quote asset", "with one --quote"),
        (("verify", "--since", "2025-06-09"), "2025-06-09 is not over: the exchange's clock says 2025-06-02T06:", "choose 2025-06-01"),
        (("ledger", "--market", "spot", "--day", "2025-06-02"), "2025-06-02 is not over: the exchange's clock says 2025-06-02T06:", "earlier day"),
        (("coverage", "--market", "spot", "--start", "2025-06-03"), "the exchange's clock says 2025-06-02T06:", "give --end"),
        (("read", "BTC/USDT", "--market", "spot", *_SPAN, "--json", "--format", "csv"), "--json is --format jsonl, and not csv", "one of them"),
        (("download-bulk", *_STRETCH, "--data_format", "postgres", "--s3_path", "s3://bucket/x"), "stores nothing in a lake", "leave one of them away"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_for_what_is_wrong_with_it(
    asking: Program, command: tuple[str, ...], error: str, hint: str
) -> None:
    """Exit code 2, nothing on standard output, the reason, and a way on that fits it."""
    ended = asking.run(*command)
    assert (ended.code, ended.out) == (2, "")
    said, _, tried = ended.err.partition("\n  try: ")
    assert error in said
    assert hint in tried


def test_a_past_day_that_is_not_there_is_to_be_downloaded(asking: Program) -> None:
    """A day that is over is a finding, with the way to get it."""
    ended = asking.run("ledger", "--market", "spot", "--day", "2025-06-01")
    assert ended.code == 1
    assert "ohlcv download-bulk" in ended.err


def test_the_last_days_are_those_of_the_exchange(asking: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a replayed past `coverage` without an end looks at the days before its midnight; without an exchange, at ours."""
    day = bars(FUTURES, minutes=1440)
    asking.lake.write_day(Signature.daily(Market.FUTURES, asking.universe), date(2025, 6, 1), day)
    line = ("coverage", "--market", "futures", "--source", "daily", "--start", "2025-06-01")
    ended = asking.run(*line)
    assert (ended.code, ended.out.splitlines()[0]) == (
        0, "futures [2025-06-01T00:00Z, 2025-06-02T00:00Z), 3 symbols of v0.1"
    )  # fmt: skip
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", "http://127.0.0.1:9")
    assert asking.run(*line).code == 1


def test_a_version_comes_after_the_newest_by_its_numbers(asking: Program) -> None:
    """After v7.31 neither v7.4 nor v7.31's twin v7.031 is a next version; v7.100 and v8.0 are."""
    release_universe(Universe.of("v7.31", {Market.SPOT: ["BTC/USDT"]}), asking.settings.universes)
    for version in ("v7.4", "v7.031", "v6.99"):
        ended = asking.run("universe", "snapshot", "--market", "spot", "--version", version, "--dry-run")
        assert ended.code == 2
        assert f"{version} does not come after v7.31" in ended.err
    for version in ("v7.100", "v8.0"):
        assert asking.run("universe", "snapshot", "--market", "spot", "--version", version, "--dry-run").code == 0


@pytest.mark.parametrize("command", [("download-bulk", *_STRETCH), ("backfill-db", "--market", "spot", *_SPAN)])
def test_ctrl_c_in_the_first_moment_says_that_it_can_go_on(
    program: Program, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Before anything is opened, too, it is exit code 130 and a word on how to go on."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    for name in ("download_bulk", "backfill_db"):
        monkeypatch.setattr(sys.modules[f"ohlcv_assets.cli.{name}"], "settings", interrupted)
    ended = program.run(*command)
    assert (ended.code, ended.err) == (130, "stopped: the same command goes on where this one ended\n")
