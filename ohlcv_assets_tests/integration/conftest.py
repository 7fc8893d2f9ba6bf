"""Fixtures of the client's tests: a lake of two days with a halt, and a database with their first hour.

Lives here: what several files of tests read. Does not: the stores themselves (fixtures/).
"""

from collections.abc import Iterator
from datetime import date

import polars as pl
import pytest

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import Channel
from ohlcv_assets.instruments import Market, Universe, release_universe
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import MINUTE_MS, Interval, parse_time
from ohlcv_assets_tests.builders import bars

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
DAYS = (date(2025, 6, 1), date(2025, 6, 2))
START_MS = parse_time("2025-06-01")
NOON_MS = parse_time("2025-06-01T12:00Z")
#: The exchange halted for five minutes: these bars are in no store.
HALT = Interval(NOON_MS, NOON_MS + 5 * MINUTE_MS)
#: A question about the first day.
ONE_DAY = {"start": "2025-06-01", "end": "2025-06-02", "market": "futures"}
DAY_END_MS = START_MS + 1440 * MINUTE_MS


@pytest.fixture(scope="module")
def truth() -> pl.DataFrame:
    """Two days of two futures symbols, less a halt."""
    return bars((BTC, ETH), minutes=2 * 1_440).filter(~pl.col("timestamp").is_in(list(HALT.minutes)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, truth: pl.DataFrame) -> Settings:
    """Settings with a universe of three symbols, and a lake that holds the two days of futures."""
    home = tmp_path_factory.mktemp("client")
    universe = Universe.of("v1.0", {Market.SPOT: ["BTC/USDT"], Market.FUTURES: [BTC, ETH, "SOL/USDT:USDT"]})
    release_universe(universe, home / "universes")
    place = Settings(
        home=home, universe="v1.0", universes=home / "universes", lake=str(home / "lake"), region="tokyo"
    )
    lake, signature = Lake(place.lake_url), Signature.daily(Market.FUTURES, universe)
    for day in DAYS:
        lake.write_day(signature, day, of_day(truth, day))
    return place


@pytest.fixture(scope="module")
def client(place: Settings) -> OhlcvClient:
    """A client of the lake alone."""
    return OhlcvClient(place)


@pytest.fixture
def with_database(place: Settings, database_url: str) -> Settings:
    """The same settings, and an empty database."""
    return place.model_copy(update={"database_url": Settings(database_url=database_url).database_url})


@pytest.fixture
def streamed(with_database: Settings, database: Database, truth: pl.DataFrame) -> Iterator[OhlcvClient]:
    """A client of a database that holds the first hour of the same bars."""
    database.record(
        truth.filter(pl.col("timestamp") < START_MS + 60 * MINUTE_MS), channel=Channel.WEBSOCKET, run_id="a"
    )
    with OhlcvClient(with_database) as opened:
        yield opened


def of_day(frame: pl.DataFrame, day: date) -> pl.DataFrame:
    """The bars of a UTC day."""
    return frame.filter(pl.col("timestamp").is_in(list(Interval.of_day(day).minutes)))


def expected(truth: pl.DataFrame, symbols: list[str], interval: Interval) -> pl.DataFrame:
    """What the stores hold of these symbols in the interval, by brute force."""
    inside = [timestamp_ms in interval for timestamp_ms in truth["timestamp"]]
    return truth.filter(pl.Series(inside) & pl.col("symbol").is_in(symbols)).sort("symbol", "timestamp")


def called(monkeypatch, name):
    """A list that gets an entry for each call of a method of the lake."""
    calls, method = [], getattr(Lake, name)

    def noted(*arguments, **named):
        calls.append(arguments[1:])
        return method(*arguments, **named)

    monkeypatch.setattr(Lake, name, noted)
    return calls


def at(minute):
    """The start of a minute of the first day."""
    return START_MS + minute * MINUTE_MS
