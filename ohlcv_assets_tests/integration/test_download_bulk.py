"""`ohlcv download-bulk` over a replay exchange: whole, resumable, honest about what it costs and what is missing."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import date, timedelta

import polars as pl
import psycopg
import pytest
from typer.testing import CliRunner

from ohlcv_assets.bars import KEY, VALUES
from ohlcv_assets.bulk import REQUESTS_AT_ONCE
from ohlcv_assets.bulk_plan import SPAN_DAYS
from ohlcv_assets.cli import app
from ohlcv_assets.instruments import Market, load_universe
from ohlcv_assets.settings import Settings, settings
from ohlcv_assets.storage.bars_file import content_hash
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import DAY_MS, Interval
from ohlcv_assets_tests.fixtures.program import deployed
from ohlcv_assets_tests.fixtures.replay import replay_process

FIRST = date(2025, 6, 1)
DAYS = 30
SYMBOLS = 3


@pytest.fixture(scope="module")
def month():
    """An exchange whose first thirty days are over."""
    with replay_process(symbols=SYMBOLS, days=DAYS + 1, start="2025-07-01T06:00Z", speed=2.0) as handle:
        yield handle


@pytest.fixture
def home(month, tmp_path, monkeypatch):
    """A fresh home whose universe is all that the exchange has; the environment names both."""
    configured = deployed(month, tmp_path, monkeypatch)
    settings.cache_clear()
    yield configured
    settings.cache_clear()


def arguments(*more: str, start: str = "2025-06-01", end: str = "2025-06-04", market: Market = Market.FUTURES):
    return [
        "download-bulk",
        "--start_timestamp",
        start,
        "--end_timestamp",
        end,
        "--contract_type",
        str(market),
        *more,
    ]


def command(*more: str, **options: object):
    return CliRunner().invoke(app, arguments(*more, **options))


def lake_of(configured: Settings, market: Market) -> tuple[Lake, Signature]:
    universe = load_universe("v0.1", configured.universes)
    return Lake(configured.lake_url), Signature.daily(market, universe)


def truth_of(month, market: Market, interval: Interval) -> pl.DataFrame:
    inside = pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left")
    return month.truth(market).filter(inside).select(*KEY, *VALUES).sort("symbol", "timestamp")


def files_of(configured: Settings) -> dict[date, str]:
    """The days that are in the lake, each with the hash of its file's bytes."""
    files = configured.home.glob("lake/**/date=*/bars.parquet")
    return {
        date.fromisoformat(file.parent.name.removeprefix("date=")): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


@pytest.mark.parametrize("market", list(Market), ids=str)
def test_the_days_are_the_exchanges_own_bit_for_bit(month, home, market):
    """Every day of the interval has its file, in the dataset that the client reads, with exactly the exchange's bars."""
    result = command("--assert_on_missing_data", market=market)
    assert result.exit_code == 0, result.output
    lake, signature = lake_of(home, market)
    assert lake.days(signature) == [FIRST + timedelta(days=n) for n in range(3)]
    for day in lake.days(signature):
        held = lake.read_day(signature, day).select(*KEY, *VALUES)
        assert held.equals(truth_of(month, market, Interval.of_day(day)))


@pytest.mark.parametrize("market", list(Market), ids=str)
def test_a_dry_run_says_what_it_takes_and_asks_for_no_bar(month, home, market):
    """Its requests and weight are those that the download then takes, by the exchange's own count."""
    before = len(month.pages())
    plan = json.loads(command("--dry-run", "--json", market=market).stdout)
    assert len(month.pages()) == before
    assert not files_of(home)
    assert (plan["days"], plan["bars"], plan["minutes"]) == (3, 3 * SYMBOLS * 1440, 1)
    report = json.loads(command("--json", market=market).stdout.splitlines()[-1])
    assert len(month.pages()) - before == plan["requests"] == report["requests"]
    assert report["weight"] == plan["weight"] == 2 * plan["requests"]
    # Pages are full to 96 %: three for two days of spot, three for a day of futures.
    assert plan["requests"] == SYMBOLS * (3 + 2 if market is Market.SPOT else 9)


_SEEDS = [(Market.FUTURES, 1), (Market.SPOT, 3)]
_MORE_SEEDS = [pytest.param(market, seed, marks=pytest.mark.slow) for market in Market for seed in (4, 5, 6)]


@pytest.mark.parametrize(("market", "seed"), [*_SEEDS, *_MORE_SEEDS], ids=str)
def test_killed_anywhere_and_begun_again_it_ends_the_same(month, home, market, seed):
    """Kill -9 at four seeded moments of thirty days: what was stored is neither touched nor asked for again.

    By the exchange's own list of questions a page is asked for twice only when its day was under way at a kill. The days
    that were stored keep their bytes; all days have the same content as those of an undisturbed download (their bytes differ in
    the times at which the bars came and were known, which are part of them).
    """
    chance = random.Random(seed)
    begun = len(month.pages())
    line = arguments(start="2025-06-01", end="2025-07-01", market=market)
    under_way: set[date] = set()
    pages_of_all = SYMBOLS * 3 * DAYS // SPAN_DAYS[market]
    for _ in range(4):
        asked, stored = len(month.pages()), files_of(home)
        _killed_after(month, line, asked + chance.randrange(1, pages_of_all // 4))
        now = files_of(home)
        assert {day: now[day] for day in stored} == stored
        days = {day for _, _, start_ms, end_ms in month.pages()[asked:] for day in _days(start_ms, end_ms)}
        assert not days & set(stored)
        unfinished = days - set(now)
        at_once = 1 + -(-REQUESTS_AT_ONCE // (3 * SYMBOLS))
        assert len(unfinished) <= at_once * SPAN_DAYS[market]
        under_way.update(unfinished)
    before_last = files_of(home)
    assert subprocess.run([sys.executable, "-m", "ohlcv_assets.cli", *line], check=False).returncode == 0
    times = Counter(month.pages()[begun:])
    assert {page for page, count in times.items() if count > 1} <= {
        page for page in times if set(_days(page[2], page[3])) & under_way
    }
    after = files_of(home)
    assert len(after) == DAYS
    assert {day: after[day] for day in before_last} == before_last
    assert 0 < len(before_last) < DAYS, "no kill hit the download"
    lake, signature = lake_of(home, market)
    for day in lake.days(signature):
        held = lake.read_day(signature, day)
        expected = truth_of(month, market, Interval.of_day(day))
        assert held.select(*KEY, *VALUES).equals(expected)
        assert content_hash(held) == content_hash(expected)
    assert month.stats()["refused"] == {"429": 0, "418": 0}


def _days(start_ms: int, end_ms: int) -> list[date]:
    """The UTC days that a page touches; its end is the last millisecond of it."""
    first, last = (Interval(ms, ms + 1) for ms in (start_ms, end_ms))
    return [
        date(1970, 1, 1) + timedelta(days=n) for n in range(first.start_ms // DAY_MS, last.start_ms // DAY_MS + 1)
    ]


def _killed_after(month, line: list[str], pages: int) -> None:
    """Start the command and kill it -9 when the exchange has been asked for so many pages, or let it end before."""
    process = subprocess.Popen([sys.executable, "-m", "ohlcv_assets.cli", *line], stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and len(month.pages()) < pages:
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_what_is_there_is_not_asked_for_again(month, home):
    """A second download of a longer interval fetches the new days alone."""
    assert command().exit_code == 0
    asked = len(month.pages())
    result = command("--json", end="2025-06-05")
    plan = json.loads(result.stdout.splitlines()[0])
    assert (plan["days"], plan["days_there"]) == (1, 3)
    assert {day for _, _, a, b in month.pages()[asked:] for day in _days(a, b)} == {date(2025, 6, 4)}


def test_parquet_covers_the_whole_days_touched_that_are_over(month, home):
    """A piece of a day is a day; the day that runs is left out, and that is said."""
    result = command(start="2025-06-29T13:00Z", end="2025-07-05")
    assert result.exit_code == 0
    assert sorted(files_of(home)) == [date(2025, 6, 29), date(2025, 6, 30)]
    assert "cut off at 2025-07-01T00:00Z" in result.stdout


def test_a_lake_elsewhere_is_written_by_s3_path(month, home, tmp_path):
    """--s3_path means what OHLCV_LAKE means: the region's lake is below it."""
    assert command("--s3_path", str(tmp_path / "elsewhere")).exit_code == 0
    assert not list(home.home.glob("lake/**/bars.parquet"))
    assert len(list((tmp_path / "elsewhere" / "stockholm").glob("**/bars.parquet"))) == 3


def test_the_datasets_path_says_what_was_asked_for(month, home):
    """Mode, entity and tag are the first folders: another entity's download is another dataset."""
    assert command("--downloading-entity", "manual", "--action_tag", "again", end="2025-06-02").exit_code == 0
    (file,) = home.home.glob("lake/**/bars.parquet")
    assert "/periodic_daily/manual/again/parquet/ohlcv/futures/v0_1/ccxt/binance/date=2025-06-01/" in str(file)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--vendor", "cdd"), "use --vendor ccxt"),
        (("--exchange_id", "kraken"), "use --exchange_id binance"),
        (("--data_type", "bid_ask"), "use --data_type ohlcv"),
        (("--data_format", "csv"), "use --data_format parquet or postgres"),
        (("--contract_type", "options"), "spot or futures"),
        (("--universe", "v9.9"), "v0.1"),
        (("--end_timestamp", "2025-05-31"), "give a start before the end"),
        (("--start_timestamp", "2025-06-01T00:00"), "has no time zone"),
        (("--start_timestamp", "2025-08-01", "--end_timestamp", "2025-08-02"), "choose an earlier start"),
        (("--action_tag", "../x"), "cannot be part of a path"),
        (("--s3_path", ""), "given as nothing"),
        (("--s3_path", " "), "given as nothing"),
        *((("--s3_path", place), "write s3://bucket/prefix") for place in ("s3://", "s3:/bucket/x", "gs://bucket/x")),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_do(month, home, tmp_path, monkeypatch, more, said):
    """One error on stderr with a hint, exit code 2, and nothing is fetched, nor stored in the folder where the command runs."""
    monkeypatch.chdir(tmp_path)
    asked = len(month.pages())
    run = subprocess.run(
        [sys.executable, "-m", "ohlcv_assets.cli", *arguments(*more)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert len(month.pages()) == asked
    assert not list(tmp_path.glob("**/bars.parquet"))


def test_missing_minutes_are_named_and_the_exit_code_is_1(replay_factory, home, monkeypatch):
    """With --assert_on_missing_data each range is listed a symbol; without it they are counted."""
    halt = {"fault": "halt", "market": "spot", "from": "2025-06-01T06:00Z", "until": "2025-06-01T06:03Z"}
    exchange = replay_factory(symbols=SYMBOLS, days=2, start="2025-06-02T06:00Z", speed=60, faults=[halt])
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", exchange.url)
    settings.cache_clear()
    told = command(end="2025-06-02", market=Market.SPOT)
    assert told.exit_code == 0
    assert f"does not have {3 * SYMBOLS} minutes (two answers agree)" in told.stdout
    result = command("--assert-on-missing-data", end="2025-06-02", market=Market.SPOT)
    assert result.exit_code == 1
    lines = [line for line in result.stdout.splitlines() if line.startswith("missing: ")]
    assert len(lines) == SYMBOLS
    assert "missing: BTC/USDT [2025-06-01T06:00Z, 2025-06-01T06:03Z)" in lines


def test_postgres_takes_what_it_lacks_and_nothing_else(month, home, database_url, monkeypatch):
    """Bars of exactly the interval with the channel rest; a hole is fetched alone the next time."""
    monkeypatch.setenv("OHLCV_DATABASE_URL", database_url)
    settings.cache_clear()
    options = {"start": "2025-06-01T22:30Z", "end": "2025-06-02T01:00Z"}
    interval = Interval.parse(options["start"], options["end"])
    assert command("--data_format", "postgres", **options).exit_code == 0
    with Database(database_url) as database:
        held = database.read(Market.FUTURES, interval)
        assert held.select(*KEY, *VALUES).equals(truth_of(month, Market.FUTURES, interval))
        assert held["channel"].unique().to_list() == ["rest"]
    with psycopg.connect(database_url) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "delete from bars where symbol = 'BTC/USDT:USDT' and timestamp >= %s", (interval.end_ms - 600_000,)
        )
    result = command("--data_format", "postgres", "--assert_on_missing_data", "--json", **options)
    assert result.exit_code == 0
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["requests"], report["stored"], report["same"], report["bars_missing"]) == (1, 10, 0, 0)


def test_a_days_file_says_where_it_came_from(month, home):
    """The universe's hash is noted in each file, as the assets do."""
    assert command(end="2025-06-02").exit_code == 0
    (file,) = home.home.glob("lake/**/bars.parquet")
    assert load_universe("v0.1", home.universes).content_hash in str(pl.read_parquet_metadata(file))
