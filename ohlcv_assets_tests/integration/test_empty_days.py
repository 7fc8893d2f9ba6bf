"""Days of which the exchange has no bar: asked for once where that is proved, again where it is not, and never a flood of warnings."""

import json
import subprocess
import sys
from datetime import date

import pytest

from ohlcv_assets.instruments import Market, Universe, load_universe
from ohlcv_assets.settings import Settings, settings
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets_tests.fixtures.program import deployed
from ohlcv_assets_tests.fixtures.replay import replay_process

SYMBOLS = 3
BEFORE = (date(2025, 5, 30), date(2025, 5, 31))


@pytest.fixture(scope="module")
def exchange():
    """Three days of three symbols; of spot nobody says since when they are listed, and its second day is one halt."""
    halt = {"fault": "halt", "market": "spot", "from": "2025-06-02T00:00Z", "until": "2025-06-03T00:00Z"}
    with replay_process(symbols=SYMBOLS, days=4, start="2025-06-04T06:00Z", speed=60, faults=[halt]) as handle:
        yield handle


@pytest.fixture
def home(exchange, tmp_path, monkeypatch):
    """A fresh home; the environment names it."""
    configured = deployed(exchange, tmp_path, monkeypatch)
    settings.cache_clear()
    yield configured
    settings.cache_clear()


def download(*more: str, start: str = "2025-05-30", end: str = "2025-06-01", first: tuple[str, ...] = ()):
    line = ["download-bulk", "--contract_type", "spot", "--start_timestamp", start, "--end_timestamp", end]
    command = [sys.executable, "-m", "ohlcv_assets.cli", *first, *line, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def told(ended: subprocess.CompletedProcess[str], line: int = -1) -> dict[str, object]:
    return json.loads(ended.stdout.splitlines()[line])


def test_days_before_the_first_bar_are_asked_for_once(exchange, home) -> None:
    """The dry run names what proving an absence takes at most; afterwards nothing is left to fetch, and nothing is asked."""
    plan = told(download("--dry-run", "--json"))
    assert (plan["days"], plan["requests"]) == (2, SYMBOLS * 3)
    report = told(download("--json"))
    assert (report["stored"], report["days_empty"], report["absent"]) == (0, 2, 2 * SYMBOLS * 1440)
    assert plan["requests"] < report["requests"] <= plan["requests_at_most"]
    assert plan["weight"] < report["weight"] <= plan["weight_at_most"]
    asked = len(exchange.pages())
    again = download("--json")
    assert (told(again, 0)["days"], told(again, 0)["days_empty"], told(again)["requests"]) == (0, 2, 0)
    assert len(exchange.pages()) == asked
    assert "0 days to fetch, 2 without any bar" in download("--dry-run").stdout


def test_a_day_that_is_known_to_be_empty_is_none_to_any_reader(home, database_url, monkeypatch) -> None:
    """It has no file of bars; in its place stands of each symbol and minute that it was not listed yet, and by which first bar."""
    monkeypatch.setenv("OHLCV_DATABASE_URL", database_url)
    assert download().returncode == 0
    ledger = [sys.executable, "-m", "ohlcv_assets.cli", "ledger", "--market", "spot", "--day", "2025-05-30"]
    ended = subprocess.run(ledger, capture_output=True, text=True, check=False)
    assert (ended.returncode, "no spot symbol of v0.1 was listed on 2025-05-30" in ended.stderr) == (1, True)
    lake, signature = Lake(home.lake_url), Signature.daily(Market.SPOT, _universe(home))
    assert lake.days(signature) == []
    assert lake.days_without_bars(signature) == list(BEFORE)
    absent = lake.read_absent(signature, BEFORE[0])
    assert absent.height == SYMBOLS * 1440
    assert absent["cause"].unique().to_list() == ["not_listed_yet"]
    assert all(json.loads(proof)["first_bar"] == "2025-06-01T00:00Z" for proof in absent["proof"].unique())


def test_an_empty_day_that_nothing_proves_is_asked_for_again(home) -> None:
    """Two answers without a bar of symbols that were listed may be a fault of the exchange: the day stays one to fetch."""
    stretch = {"start": "2025-06-01", "end": "2025-06-04"}
    assert download(**stretch).returncode == 0
    assert Lake(home.lake_url).days(Signature.daily(Market.SPOT, _universe(home))) == [
        date(2025, 6, 1),
        date(2025, 6, 3),
    ]
    plan = told(download("--dry-run", "--json", **stretch))
    assert (plan["days"], plan["days_there"], plan["days_empty"]) == (1, 2, 0)


def test_a_day_whose_bars_were_removed_is_fetched(home) -> None:
    """What stands beside the bars of a day does not make it one without bars: who removes a damaged file gets a new one."""
    stretch = {"start": "2025-06-01", "end": "2025-06-02"}
    assert download(**stretch).returncode == 0
    (file,) = home.home.glob("lake/**/bars.parquet")
    file.unlink()
    assert told(download("--dry-run", "--json", **stretch))["days"] == 1
    assert download(**stretch).returncode == 0
    assert file.is_file()


@pytest.mark.parametrize("more", [(), ("--json",), ("--assert_on_missing_data",)], ids=["lines", "json", "named"])
def test_absent_minutes_are_one_number_and_no_flood(home, more: tuple[str, ...]) -> None:
    """Standard error is empty, however many pages lack minutes; with -v each of them is a line of the log."""
    ended = download(*more)
    assert ended.stderr == ""
    if not more:
        assert f"the exchange does not have {2 * SYMBOLS * 1440:,} minutes (two answers agree)" in ended.stdout


def test_each_page_that_lacks_minutes_is_told_with_verbose(home) -> None:
    """-v names each page and its minutes."""
    ended = download(first=("-v",))
    assert ended.stderr.count("minutes are missing on the exchange") == SYMBOLS * 3


def _universe(home: Settings) -> Universe:
    return load_universe("v0.1", home.universes)
