"""The demo's promise: one real day through the whole platform, equal on both sides, and one planted error named."""

import re

import polars as pl
import pytest

from ohlcv_assets.bars import KEY, VALUES
from ohlcv_assets.instruments import Market, load_universe
from ohlcv_assets.platform.demo import UNIVERSE, reopened_settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.storage.local_postgres import LocalPostgres, bars_url
from ohlcv_assets.timestamps import Interval
from ohlcv_assets_tests.fixtures.demo import DAY, FinishedDemo

_DAY = Interval.of_day(DAY)


def _truth(demo: FinishedDemo, market: Market) -> pl.DataFrame:
    inside = pl.col("timestamp").is_between(_DAY.start_ms, _DAY.end_ms, closed="left")
    return demo.truth[market].filter(inside).select(*KEY, *VALUES).sort("symbol", "timestamp")


def test_the_demo_ends_well_and_says_100_percent(finished_demo: FinishedDemo) -> None:
    """It exits 0, and its table shows every bar of the day on both sides and none that differs."""
    assert finished_demo.exit_code == 0, finished_demo.output
    rows = {row[0].strip(): row[1:] for row in re.findall(r"│ (.*?) │\s+(\S[^│]*?) │", finished_demo.output)}
    expected = f"{_truth(finished_demo, Market.FUTURES).height:,}"
    for row in ("bars streamed into PostgreSQL", "bars fetched by REST into the lake", "bars matching"):
        assert rows[row][0] == expected
    assert rows["match"][0] == "100 %"
    assert rows["bars differing"][0] == "0"
    assert rows["bars missing, streamed / fetched"][0] == "0 / 0"


def test_the_corrupted_bar_is_named(finished_demo: FinishedDemo) -> None:
    """After one bar was changed behind the platform's back, the check is red and names exactly that bar."""
    assert "T12:34Z: the check is red and names exactly this bar" in finished_demo.output


def test_the_live_hour_came_by_websocket(finished_demo: FinishedDemo) -> None:
    """The hour that is streamed live is streamed: bars came as closed events, however busy the machine is."""
    live = int(re.search(r"by WebSocket │\s+([\d,]+)", finished_demo.output)[1].replace(",", ""))
    assert live > 0.1 * _truth(finished_demo, Market.FUTURES)["symbol"].n_unique() * 60


@pytest.mark.parametrize("market", list(Market), ids=str)
def test_every_stored_value_is_the_exchanges_bit_for_bit(finished_demo: FinishedDemo, market: Market) -> None:
    """Both stores hold every bar of the source, with the same doubles; the one corrupted bar aside."""
    if finished_demo.recorded and market is Market.SPOT:
        pytest.skip("the recorded day is of the futures market")
    settings = reopened_settings(finished_demo.home)
    truth = _truth(finished_demo, market)
    daily = Lake(settings.lake_url).read_day(
        Signature.daily(market, load_universe(UNIVERSE, settings.universes)), DAY
    )
    assert daily.select(*KEY, *VALUES).equals(truth)
    running = LocalPostgres(finished_demo.home).status().running
    with Database(bars_url(settings)) as database:
        streamed = database.read(market, _DAY).select(*KEY, *VALUES)
    if not running:
        LocalPostgres(finished_demo.home).down()
    same = streamed.join(truth, on=[*KEY, *VALUES], how="inner").height
    assert streamed.height == truth.height
    assert same == truth.height - (1 if market is finished_demo.market else 0)


def test_the_demo_leaves_no_server_behind(finished_demo: FinishedDemo) -> None:
    """What it started has ended with it."""
    assert not finished_demo.left_running
