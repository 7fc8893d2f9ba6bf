"""Questions of which the answer is about nothing: a market without symbols, a time before any listing, a day that is not there."""

import json
from datetime import date

import pytest

from ohlcv_assets.instruments import Market, Symbol, Universe, release_universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.platform.doctor import Health, _freshness
from ohlcv_assets.storage.lake import Signature
from ohlcv_assets.timestamps import parse_time
from ohlcv_assets_tests.fixtures.program import SPOT, Program
from ohlcv_assets_tests.fixtures.replay import replay_process

_STRETCH = ("--start_timestamp", "2025-06-01", "--end_timestamp", "2025-06-02")
_SPAN = ("--start", "2025-06-01", "--end", "2025-06-02")
_DAY = ("--day", "2025-06-01")


@pytest.fixture(scope="module")
def exchange():
    """Three symbols a market, listed since 2025-06-01; its clock is in the second day."""
    with replay_process(symbols=3, days=2, start="2025-06-02T06:00Z", speed=60) as handle:
        yield handle


@pytest.fixture
def asking(program: Program, exchange, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program over that exchange."""
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", exchange.url)
    return program


@pytest.mark.parametrize(
    "command",
    [
        ("download-bulk", "--contract_type", "futures", *_STRETCH, "--assert_on_missing_data"),
        ("download-bulk", "--contract_type", "futures", *_STRETCH, "--dry-run"),
        ("backfill-db", "--market", "futures", *_SPAN),
        ("coverage", "--market", "futures", *_SPAN),
        ("ledger", "--market", "futures", *_DAY),
        ("qa", "daily", "--market", "futures", *_DAY),
        ("read", "*", "--market", "futures", *_SPAN),
        ("verify", "--market", "futures", *_DAY),
        ("repair", "--market", "futures", *_DAY),
        ("stream", "--market", "futures", "--hours", "0.02"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_market_without_symbols_is_a_question_that_cannot_be_meant(
    asking: Program, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Of no symbol no bar is missing and every check is green: that is told, and is no success."""
    universe = Universe.of("v0.2", {Market.SPOT: list(SPOT)})
    release_universe(universe, asking.settings.universes)
    monkeypatch.setenv("OHLCV_UNIVERSE", "v0.2")
    ended = asking.run(*command)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: v0.2 has no futures symbols\n  try: ")


@pytest.mark.parametrize("start", ["2025-05-20", "0001-01-01"])
@pytest.mark.parametrize("to", ["parquet", "postgres"])
def test_before_any_listing_there_is_nothing_to_ask_for(
    asking: Program, database_url, monkeypatch: pytest.MonkeyPatch, start: str, to: str
) -> None:
    """Days before the first listing are no days without a gap: the error says when the first symbol came."""
    monkeypatch.setenv("OHLCV_DATABASE_URL", database_url)
    line = ("download-bulk", "--contract_type", "futures", "--data_format", to, "--assert_on_missing_data")
    ended = asking.run(*line, "--start_timestamp", start, "--end_timestamp", "2025-05-28")
    assert (ended.code, ended.out) == (2, "")
    assert "nothing was listed on futures" in ended.err
    assert "the first of these symbols came at 2025-06-01T00:00Z" in ended.err


def test_a_stretch_that_begins_before_the_first_listing_is_cut(asking: Program, exchange) -> None:
    """A start in the year 1 plans the one day that there is, and says what it leaves out; spot, of which nobody says, begins in 2017."""
    line = ("download-bulk", "--contract_type", "futures", "--start_timestamp", "0001-01-01")
    ended = asking.run(*line, "--end_timestamp", "2025-06-02", "--dry-run", "--json")
    plan = json.loads(ended.out)
    assert (plan["start"], plan["days"], plan["listed_from"]) == ("2025-06-01T00:00Z", 1, "2025-06-01T00:00Z")
    said = asking.run(*line, "--end_timestamp", "2025-06-02", "--assert_on_missing_data")
    assert said.code == 0
    assert said.out.startswith("nothing was listed before 2025-06-01T00:00Z")
    spot = ("download-bulk", "--contract_type", "spot", "--start_timestamp", "0001-01-01", "--dry-run", "--json")
    assert json.loads(asking.run(*spot, "--end_timestamp", "2017-08-19").out)["days"] == 2
    assert asking.run(*spot, "--end_timestamp", "2017-08-17").code == 2


def test_a_time_after_every_delisting_proves_nothing(asking: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """When none of the symbols was listed any more, no bar is expected: that is no proof that none is missing."""
    gone = Symbol("OLD/USDT:USDT")
    span = Span(parse_time("2025-05-01"), parse_time("2025-05-20"), "test")
    universe = Universe.of("v0.2", {Market.FUTURES: [gone]}, listings={gone: ListingTimes("OLDUSDT", (span,))})
    release_universe(universe, asking.settings.universes)
    ended = asking.run(
        "download-bulk", "--contract_type", "futures", *_STRETCH, "--universe", "v0.2", "--assert_on_missing_data"
    )
    assert ended.code == 1
    assert "no bar is expected: none of the symbols was listed then" in ended.out


def test_a_day_that_is_asked_for_and_is_not_there_was_not_verified(asking: Program) -> None:
    """One day of two is in the lake: with --day the other one is exit code 1; of the last days it may be missing."""
    assert asking.run("download-bulk", "--contract_type", "futures", *_STRETCH).code == 0
    assert asking.lake.days(Signature.daily(Market.FUTURES, asking.universe)) == [date(2025, 6, 1)]
    missing = asking.run("verify", "--market", "futures", "--day", "2025-05-31")
    assert missing.code == 1
    assert missing.out == "futures: nothing was compared; not in the lake: 2025-05-31\n"
    one_of_two = asking.run("verify", "--market", "futures", "--day", "2025-05-31", *_DAY)
    assert (one_of_two.code, "days compared: 1; not in the lake: 2025-05-31" in one_of_two.out) == (1, True)
    assert asking.run("verify", "--market", "futures", *_DAY).code == 0
    assert asking.run("verify", "--market", "futures", "--since", "2d").code == 0


def test_the_doctor_does_not_call_nothing_well() -> None:
    """Of a market without a symbol the newest bars are not all fresh: there are none to expect."""
    found = _freshness("last bars futures", {"BTC/USDT:USDT": 0}, (), 60_000)
    assert found.health is Health.WARN
    assert "no bar is expected" in found.sentence
