"""The three assets of a market through Dagster, over a real exchange process, PostgreSQL and a real lake."""

import json
from datetime import date

import dagster as dg
import polars as pl
import psycopg
import pytest

from ohlcv_assets.bars import KEY, VALUES
from ohlcv_assets.instruments import Market, load_universe
from ohlcv_assets.orchestration.checks import CHECKS
from ohlcv_assets.orchestration.common import asset_key
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import HOUR_MS, Interval
from ohlcv_assets_tests.fixtures.deployment import DAY, Deployment

_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
_HOURS = dict(zip(_RANGE, (f"{DAY}-00:00", f"{DAY}-23:00"), strict=True))
_MARKETS = pytest.mark.parametrize("market", list(Market), ids=str)


def _truth(deployment: Deployment, market: Market, interval: Interval) -> pl.DataFrame:
    inside = pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left")
    return deployment.exchange.truth(market).filter(inside).select(*KEY, *VALUES).sort("symbol", "timestamp")


def _materializations(deployment: Deployment, market: Market, name: str) -> dict[str, dict[str, object]]:
    records = deployment.instance.fetch_materializations(
        asset_key(deployment.settings, market, name), limit=100
    ).records
    return {
        str(record.asset_materialization.partition): {
            k: v.value for k, v in record.asset_materialization.metadata.items()
        }
        for record in reversed(records)
    }


def _evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """By check, those of the comparison; the ledger's are tested with it."""
    found = result.get_asset_check_evaluations()
    return {each.check_name: each for each in found if each.asset_key.path[-1].endswith("_qa")}


def _capture_day(deployment: Deployment, market: Market) -> dg.ExecuteInProcessResult:
    assert deployment.run(f"{market}_stream_hour", tags=_HOURS).success
    return deployment.run(f"{market}_day", partition_key=DAY)


@_MARKETS
def test_an_hour_that_is_over_is_completed_with_the_exchanges_own_values(
    deployment: Deployment, market: Market
) -> None:
    """streamed_bars of a past hour holds every bar of the exchange, bit for bit, and says so in numbers."""
    assert deployment.run(f"{market}_stream_hour", partition_key=f"{DAY}-05:00").success
    start_ms = Interval.parse(f"{DAY}T05:00Z", f"{DAY}T06:00Z").start_ms
    hour = Interval(start_ms, start_ms + HOUR_MS)
    with Database(deployment.settings.database_url.get_secret_value()) as database:
        held = database.read(market, hour)
    assert held.select(*KEY, *VALUES).equals(_truth(deployment, market, hour))
    numbers = _materializations(deployment, market, "streamed_bars")[f"{DAY}-05:00"]
    assert (numbers["bars_present"], numbers["bars_expected"], numbers["bars_missing"]) == (180, 180, 0)
    assert numbers["coverage_pct"] == 100.0
    assert (numbers["first_timestamp"], numbers["last_timestamp"]) == (f"{DAY}T05:00Z", f"{DAY}T05:59Z")
    assert numbers["bars_by_rest"] == 180
    assert numbers["bytes"] > 0
    assert numbers["symbols"] == 3


@_MARKETS
def test_a_day_goes_through_and_matches(deployment: Deployment, market: Market) -> None:
    """24 hours in PostgreSQL by one run, the day in the lake, every check green, every value the exchange's."""
    result = _capture_day(deployment, market)
    assert result.success
    evaluations = _evaluations(result)
    assert {name: evaluation.passed for name, evaluation in evaluations.items()} == dict.fromkeys(evaluations, True)
    assert len(evaluations) == len(CHECKS)
    assert {evaluation.partition for evaluation in evaluations.values()} == {DAY}
    numbers = {k: v.value for k, v in evaluations["streamed_equals_fetched"].metadata.items()}
    assert numbers["bars_equal"] == numbers["bars_expected"] == 3 * 1440
    assert numbers["match_pct"] == 100.0
    hours = _materializations(deployment, market, "streamed_bars")
    assert sorted(hours) == [f"{DAY}-{hour:02}:00" for hour in range(24)]
    assert all(hour["bars_present"] == 180 for hour in hours.values())
    universe = load_universe("v0.1", deployment.settings.universes)
    stored = Lake(deployment.settings.lake_url).read_day(Signature.daily(market, universe), _day())
    assert stored.select(*KEY, *VALUES).equals(_truth(deployment, market, Interval.of_day(_day())))


def test_one_corrupted_bar_turns_the_check_red_and_is_named(deployment: Deployment) -> None:
    """A value changed behind the platform's back is found: that bar, that column, both values, and nothing else."""
    assert _capture_day(deployment, Market.FUTURES).success
    with psycopg.connect(deployment.settings.database_url.get_secret_value()) as connection:
        connection.execute("set session_replication_role = replica")
        symbol, timestamp, volume = connection.execute(
            "update bars set volume = volume * 2 where (market, symbol, timestamp) = (select market, symbol, timestamp "
            "from bars where market = 'futures' and volume > 0 order by timestamp offset 700 limit 1) "
            "returning symbol, timestamp, volume"
        ).fetchone()
    result = deployment.run("futures_day_qa", partition_key=DAY)
    evaluations = _evaluations(result)
    assert not result.success  # the check blocks whatever comes after it
    assert {name for name, evaluation in evaluations.items() if not evaluation.passed} == {"streamed_equals_fetched"}
    numbers = {k: v.value for k, v in evaluations["streamed_equals_fetched"].metadata.items()}
    assert (numbers["bars_differing"], numbers["bars_equal"]) == (1, 3 * 1440 - 1)
    (row,) = [record.data for record in numbers["first_differences"].records]
    assert (row["symbol"], row["column"], row["streamed"], row["fetched"]) == (symbol, "volume", volume, volume / 2)
    differences = _materializations(deployment, Market.FUTURES, "daily_qa")[DAY]["differences"]
    assert pl.read_parquet(differences)["timestamp"].to_list() == [timestamp]


def test_a_missing_minute_is_named(deployment: Deployment) -> None:
    """A bar that PostgreSQL lost is missing by symbol and minute, and the day is red until the hour is completed again."""
    assert _capture_day(deployment, Market.SPOT).success
    with psycopg.connect(deployment.settings.database_url.get_secret_value()) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "delete from bars where timestamp = %s", (Interval.parse(f"{DAY}T07:30Z", f"{DAY}T07:31Z").start_ms,)
        )
    evaluations = _evaluations(deployment.run("spot_day_qa", partition_key=DAY))
    (row,) = [record.data for record in evaluations["streamed_complete"].metadata["missing_ranges"].value.records]
    assert (row["start"], row["end"], row["symbols"], row["bars"]) == (f"{DAY}T07:30Z", f"{DAY}T07:31Z", 3, 3)
    assert f"missing: {DAY}T07:30Z to {DAY}T07:31Z" in evaluations["streamed_complete"].description
    (kept,) = [
        pl.read_parquet(file)
        for file in deployment.settings.home.glob("lake/**/missing.parquet")
        if pl.read_parquet(file).height
    ]
    assert kept["side"].to_list() == ["streamed"] * 3
    assert kept["symbol"].n_unique() == 3
    assert deployment.run("spot_stream_hour", partition_key=f"{DAY}-07:00").success
    assert deployment.run("spot_day_qa", partition_key=DAY).success


def test_a_day_that_is_not_over_is_refused(deployment: Deployment) -> None:
    """The second day has begun on the exchange, and is not downloaded before it is over."""
    result = deployment.run("futures_day", partition_key="2025-06-02")
    assert not result.success
    assert "is not over" in _failure(result)


def test_qa_without_the_days_file_says_what_to_do(deployment: Deployment) -> None:
    """Comparing a day that was never downloaded is one clear error."""
    result = deployment.run("futures_day_qa", partition_key=DAY)
    assert not result.success
    assert DAY in _failure(result)
    assert "try:" in _failure(result)


def test_the_hour_so_far_is_compared_while_it_runs(deployment: Deployment) -> None:
    """The windows that are due are fetched apart and match what was streamed; what was not streamed is red at once."""
    assert deployment.run("spot_stream_hour", partition_key=f"{DAY}-23:00").success
    result = deployment.run("spot_recent", partition_key=f"{DAY}-23:00")
    assert result.success
    evaluations = _evaluations(result)
    assert {evaluation.partition for evaluation in evaluations.values()} == {f"{DAY}-23:00"}
    assert evaluations["streamed_equals_fetched"].metadata["bars_equal"].value == 180
    assert _materializations(deployment, Market.SPOT, "recent_bars")[f"{DAY}-23:00"]["windows"] == 6
    assert list(deployment.settings.home.glob("lake/**/qa/recent_bars/spot/**/2300.parquet"))
    unstreamed = _evaluations(deployment.run("spot_recent", partition_key="2025-06-02-00:00"))
    assert not unstreamed["streamed_complete"].passed
    # Half past midnight, or later on a busy machine: the windows that ended five minutes ago are due, and they alone.
    windows = _materializations(deployment, Market.SPOT, "recent_bars")["2025-06-02-00:00"]["windows"]
    assert windows >= 2
    assert unstreamed["streamed_complete"].metadata["bars_expected"].value == 3 * 10 * windows


def test_a_shard_streams_its_part_and_all_parts_are_the_whole(deployment: Deployment) -> None:
    """Two runs over two parts of the universe hold together every bar of the hour, and neither the other's."""
    for part in ("1/2", "2/2"):
        assert deployment.run("futures_stream_hour", partition_key=f"{DAY}-04:00", tags={"ohlcv/shard": part}).success
    with Database(deployment.settings.database_url.get_secret_value()) as database:
        held = database.read(Market.FUTURES, Interval.parse(f"{DAY}T04:00Z", f"{DAY}T05:00Z"))
    assert held.height == 180


def test_downloading_a_day_again_changes_nothing(deployment: Deployment) -> None:
    """The same content again leaves the lake's object as it is."""
    assert _capture_day(deployment, Market.FUTURES).success
    assert deployment.run("futures_day", partition_key=DAY).success
    records = deployment.instance.fetch_materializations(
        asset_key(deployment.settings, Market.FUTURES, "daily_bars"), limit=5
    ).records
    outcomes = [record.asset_materialization.metadata["outcome"].value for record in records]
    assert outcomes == ["unchanged", "created"]


def test_a_verdict_is_kept_beside_the_data(deployment: Deployment) -> None:
    """Each QA run leaves its counts and its differing bars in the lake."""
    assert _capture_day(deployment, Market.SPOT).success
    (summary,) = deployment.settings.home.glob("lake/**/qa/daily_qa/spot/**/summary.json")
    assert json.loads(summary.read_text())["match_pct"] == 100.0
    assert summary.with_name("differences.parquet").is_file()


def _failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    return failure.description if failure else str(event.step_failure_data.error)


def _day() -> date:
    return date.fromisoformat(DAY)
