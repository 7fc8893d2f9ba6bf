"""The asset `ledger` through Dagster: every expected minute in one state, in PostgreSQL, in the lake and in the client."""

from datetime import date

import dagster as dg
import polars as pl
import psycopg
import pytest

from ohlcv_assets import OhlcvClient
from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration.common import asset_key
from ohlcv_assets.timestamps import Interval
from ohlcv_assets_tests.fixtures.deployment import DAY, Deployment

_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
_HOURS = dict(zip(_RANGE, (f"{DAY}-00:00", f"{DAY}-23:00"), strict=True))
_DAY = Interval.of_day(date.fromisoformat(DAY))
_GRID = 3 * 1440


def _ledger(
    deployment: Deployment, result: dg.ExecuteInProcessResult
) -> tuple[dict, dict[str, dg.AssetCheckEvaluation]]:
    """The numbers of the newest materialization, and the ledger's evaluations of a run."""
    key = asset_key(deployment.settings, Market.SPOT, "ledger")
    records = deployment.instance.fetch_materializations(dg.AssetRecordsFilter(key, asset_partitions=[DAY]), limit=1)
    numbers = {name: value.value for name, value in records.records[0].asset_materialization.metadata.items()}
    checks = {found.check_name: found for found in result.get_asset_check_evaluations() if found.asset_key == key}
    return numbers, checks


def _capture_day(deployment: Deployment) -> dg.ExecuteInProcessResult:
    assert deployment.run("spot_stream_hour", tags=_HOURS).success
    return deployment.run("spot_day", partition_key=DAY)


def _behind_its_back(deployment: Deployment, statement: str, *values: object) -> None:
    with psycopg.connect(deployment.settings.database_url.get_secret_value()) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(statement, values)


def test_a_quiet_day_is_confirmed_minute_by_minute_everywhere(deployment: Deployment) -> None:
    """The counts sum to the grid in the asset, in the SQL view and in the lake's file, and every bar can be read as verified."""
    result = _capture_day(deployment)
    assert result.success
    numbers, checks = _ledger(deployment, result)
    assert {name: found.passed for name, found in checks.items()} == {
        "ledger_sums_to_grid": True,
        "nothing_unexplained": True,
    }
    assert {found.partition for found in checks.values()} == {DAY}
    assert (numbers["bars_expected"], numbers["bars_confirmed"], numbers["verified_pct"]) == (_GRID, _GRID, 100.0)
    with psycopg.connect(deployment.settings.database_url.get_secret_value()) as connection:
        counted = connection.execute(
            "select state, bars from ledger_counts where market = 'spot' and day = %s", [DAY]
        )
        assert counted.fetchall() == [("confirmed", _GRID)]
    ranges = pl.read_parquet(numbers["file"], hive_partitioning=False)
    assert (ranges.height, ranges["state"].unique().to_list()) == (3, ["confirmed"])
    with OhlcvClient(deployment.settings) as client:
        bars = client.read(client.symbols("spot"), f"{DAY}T00:00Z", "2025-06-02T00:00Z", market="spot", verified=True)
    assert bars.height == _GRID


@pytest.mark.slow
def test_a_red_comparison_does_not_keep_the_ledger_from_being_written(deployment: Deployment) -> None:
    """A differing bar and a lost one: daily_qa blocks, and yet the ledger names both, with their states, in a new version."""
    first, _ = _ledger(deployment, _capture_day(deployment))
    at = "market = 'spot' and symbol = 'BTC/USDT' and timestamp = %s"
    _behind_its_back(deployment, f"update bars set volume = volume + 1 where {at}", _DAY.start_ms + 60 * 60_000)
    _behind_its_back(deployment, f"delete from bars where {at}", _DAY.start_ms + 120 * 60_000)
    result = deployment.run("spot_day_qa", partition_key=DAY)
    assert not result.success
    numbers, checks = _ledger(deployment, result)
    assert checks["ledger_sums_to_grid"].passed
    assert not checks["nothing_unexplained"].passed
    told = (
        numbers["bars_confirmed"],
        numbers["bars_differing"],
        numbers["bars_fetched_only"],
        numbers["bars_unexplained"],
    )
    assert told == (_GRID - 2, 1, 1, 2)
    gaps = [(row.data["symbol"], row.data["start"], row.data["state"]) for row in numbers["gaps"].records]
    assert sorted(gaps) == [
        ("BTC/USDT", f"{DAY}T01:00Z", "differing"),
        ("BTC/USDT", f"{DAY}T02:00Z", "fetched_only"),
    ]
    assert numbers["version"] > first["version"]


def test_a_repair_leaves_its_mark_in_the_ledger(deployment: Deployment) -> None:
    """After the repair run the bar is the same on both sides and its minute is `repaired`, with the repair's number as proof."""
    _capture_day(deployment)
    at = "market = 'spot' and symbol = 'BTC/USDT' and timestamp = %s"
    _behind_its_back(deployment, f"update bars set volume = volume + 1 where {at}", _DAY.start_ms + 60 * 60_000)
    result = deployment.run("spot_day_repair", partition_key=DAY)
    assert result.success
    numbers, checks = _ledger(deployment, result)
    assert all(found.passed for found in checks.values())
    assert (numbers["bars_confirmed"], numbers["bars_repaired"]) == (_GRID - 1, 1)
    assert "last_repair" in numbers["gaps"].records[0].data["proof"]


@pytest.mark.slow
def test_a_ledger_that_was_tampered_with_does_not_sum(deployment: Deployment, monkeypatch) -> None:
    """What the tables say is counted, not what was just made: ranges deleted behind the program's back turn the check red."""
    _capture_day(deployment)
    from ohlcv_assets.orchestration import ledger as asset

    keep = asset.keep_ledger

    def tampered(*args: object, **options: object) -> tuple[int, str]:
        kept = keep(*args, **options)
        _behind_its_back(deployment, "delete from ledger_ranges where symbol = 'BTC/USDT'")
        return kept

    monkeypatch.setattr(asset, "keep_ledger", tampered)
    _, checks = _ledger(deployment, deployment.run("spot_day_qa", partition_key=DAY))
    assert not checks["ledger_sums_to_grid"].passed


def test_a_day_that_fails_does_not_take_its_range_with_it(deployment: Deployment) -> None:
    """Two days, the file of the second is damaged: the first has its ledger and its checks, the run names the second."""
    _capture_day(deployment)
    (file,) = deployment.settings.home.glob(f"lake/**/spot/**/date={DAY}/bars.parquet")
    damaged = file.parent.with_name("date=2025-06-02") / file.name
    damaged.parent.mkdir()
    damaged.write_bytes(b"no Parquet")
    tags = dict(
        zip(
            ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"),
            (DAY, "2025-06-02"),
            strict=True,
        )
    )
    result = deployment.run("spot_day_qa", tags=tags)
    of_ledger = [event for event in result.all_events if str(event.step_key).endswith("ledger")]
    assert [event.partition for event in of_ledger if event.is_step_materialization] == [DAY]
    (failed,) = [event for event in of_ledger if event.is_step_failure]
    assert "1 of 2 partitions failed: 2025-06-02" in failed.event_specific_data.error.message
    checks = {
        (each.check_name, each.partition): each.passed
        for each in result.get_asset_check_evaluations()
        if each.asset_key.path[-1] == "ledger"
    }
    assert checks == {("ledger_sums_to_grid", DAY): True, ("nothing_unexplained", DAY): True}
