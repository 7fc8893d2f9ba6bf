"""The loop from a red check to a green one, through Dagster: QA, sensor, repair run, QA; over real servers."""

import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl
import psycopg
import pytest
from dagster._core.test_utils import create_run_for_test

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, VALUES
from ohlcv_assets.clock import utc_now
from ohlcv_assets.instruments import Market, load_universe
from ohlcv_assets.orchestration import repair_sensor
from ohlcv_assets.orchestration.common import asset_key
from ohlcv_assets.quality.recent import WINDOW_MS, RecentBars
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.storage.quality_store import QualityStore
from ohlcv_assets.timestamps import Interval
from ohlcv_assets_tests.fixtures.deployment import DAY, Deployment
from ohlcv_assets_tests.fixtures.replay import ReplayFactory, ReplayHandle

_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
_HOURS = dict(zip(_RANGE, (f"{DAY}-00:00", f"{DAY}-23:00"), strict=True))
_DAY = Interval.of_day(date.fromisoformat(DAY))
_HOUR_KEY = f"{DAY}-23:00"
_MATCH = "streamed_equals_fetched"


class Watch:
    """The sensor `keep_repairing` of a deployment, ticked by hand; it keeps its cursor as Dagster's daemon does."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.cursor: str | None = None

    def tick(self) -> list[dg.RunRequest]:
        """What the next tick asks for."""
        repository = self.deployment.defs.get_repository_def()
        context = dg.build_sensor_context(
            instance=self.deployment.instance, cursor=self.cursor, repository_def=repository
        )
        result = repository.get_sensor_def("keep_repairing").evaluate_tick(context)
        self.cursor = result.cursor
        return list(result.run_requests)

    def run_what_is_asked(self) -> list[dg.ExecuteInProcessResult]:
        """Tick, and execute what was asked for."""
        return [
            self.deployment.run(str(request.job_name), partition_key=request.partition_key, tags=request.tags)
            for request in self.tick()
        ]


@pytest.fixture
def watch(deployment: Deployment) -> Watch:
    return Watch(deployment)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause before another attempt: what is not asked for again is so for another reason."""
    monkeypatch.setattr(repair_sensor, "_PAUSES_S", (0.0, 0.0, 0.0))


@pytest.fixture
def database(deployment: Deployment) -> Iterator[Database]:
    assert deployment.settings.database_url is not None
    with Database(deployment.settings.database_url.get_secret_value()) as opened:
        yield opened


def _capture_day(deployment: Deployment, market: Market) -> None:
    assert deployment.run(f"{market}_stream_hour", tags=_HOURS).success
    assert deployment.run(f"{market}_day", partition_key=DAY).success


def _capture_hour(deployment: Deployment, market: Market) -> None:
    assert deployment.run(f"{market}_stream_hour", partition_key=_HOUR_KEY).success
    assert deployment.run(f"{market}_recent", partition_key=_HOUR_KEY).success


def _compare(deployment: Deployment, market: Market, *, hourly: bool = False) -> dg.ExecuteInProcessResult:
    job, key = (f"{market}_recent", _HOUR_KEY) if hourly else (f"{market}_day_qa", DAY)
    return deployment.run(job, partition_key=key)


def _corrupt(deployment: Deployment, market: Market, statement: str = "set volume = volume * 2") -> tuple[str, int]:
    """Change one traded bar of the last hour in PostgreSQL, as another program would; which one."""
    assert deployment.settings.database_url is not None
    with psycopg.connect(deployment.settings.database_url.get_secret_value()) as connection:
        connection.execute("set session_replication_role = replica")
        found = connection.execute(
            f"update bars {statement} where (market, symbol, timestamp) = (select market, symbol, timestamp from bars "
            "where market = %s and volume > 0 and timestamp >= %s order by timestamp, symbol limit 1) "
            "returning symbol, timestamp",
            (market.value, _DAY.end_ms - 3_600_000),
        ).fetchone()
    assert found is not None
    return found


def _spoil_lake(deployment: Deployment, market: Market, symbol: str, timestamp: int, *, hourly: bool) -> None:
    """Give the lake another value of one bar, as a wrong download would have."""
    lake = Lake(deployment.settings.lake_url)
    universe = load_universe("v0.1", deployment.settings.universes)
    here = (pl.col("symbol") == symbol) & (pl.col("timestamp") == timestamp)
    other = pl.when(here).then(pl.col("close") * 1.5).otherwise(pl.col("close")).alias("close")
    high = pl.when(here).then(pl.col("high") * 2).otherwise(pl.col("high")).alias("high")
    if hourly:
        start_ms = timestamp - timestamp % WINDOW_MS
        store, window = RecentBars(lake, market, universe), Interval(start_ms, start_ms + WINDOW_MS)
        bars = store.read([window])[0].with_columns(other, high)
        store.write(window, bars.select(list(CAPTURED_SCHEMA)))
    else:
        signature = Signature.daily(market, universe)
        bars = lake.read_day(signature, date.fromisoformat(DAY)).with_columns(other, high)
        lake.write_day(signature, date.fromisoformat(DAY), bars.select(list(CAPTURED_SCHEMA)), replace=True)


def _passed(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}


def _numbers(deployment: Deployment, market: Market, asset: str) -> dict[str, Any]:
    """What the newest materialization of an asset says."""
    key = asset_key(deployment.settings, market, asset)
    record = deployment.instance.fetch_materializations(key, limit=1).records[0]
    assert record.asset_materialization is not None
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}


def _values(database: Database, market: Market, as_of: datetime | None = None) -> pl.DataFrame:
    return database.read(market, _DAY, as_of=as_of).select(*KEY, *VALUES)


@pytest.mark.parametrize(
    ("market", "hourly"), [(Market.FUTURES, False), pytest.param(Market.SPOT, True, marks=pytest.mark.slow)], ids=str
)
def test_a_corrupted_bar_is_right_again_and_what_it_was_is_readable(
    deployment: Deployment, watch: Watch, database: Database, market: Market, *, hourly: bool
) -> None:
    """Corrupted, red, asked for once, repaired, green: with a revision, a row of the audit trail, and the old value by as_of."""
    (_capture_hour if hourly else _capture_day)(deployment, market)
    right = _values(database, market)
    assert watch.tick() == []
    symbol, timestamp = _corrupt(deployment, market)
    wrong, corrupted_at = _values(database, market), utc_now()
    assert not _passed(_compare(deployment, market, hourly=hourly))[_MATCH]
    (request,) = watch.tick()
    assert (request.job_name, request.partition_key) == (
        (f"{market}_recent_repair", _HOUR_KEY) if hourly else (f"{market}_day_repair", DAY)
    )
    (again,) = watch.tick()
    assert again.run_key == request.run_key  # Dagster starts a key once

    (repaired,) = watch.run_what_is_asked()
    assert repaired.success
    assert _passed(repaired)[_MATCH]
    assert watch.tick() == []
    assert json.loads(watch.cursor or "")["red"] == []

    assert _values(database, market).equals(right)
    assert _values(database, market, as_of=corrupted_at).equals(wrong)
    (revision,) = database.revisions(market, _DAY).iter_rows(named=True)
    assert (revision["symbol"], revision["timestamp"], revision["run_id"]) == (symbol, timestamp, repaired.run_id)
    (row,) = QualityStore(database).repairs(market, _DAY).iter_rows(named=True)
    assert (row["decision"], row["run_id"]) == ("streamed_was_wrong", repaired.run_id)
    assert json.loads(row["before"])["volume"] == 2 * json.loads(row["after"])["volume"]
    numbers = _numbers(deployment, market, "recent_repair" if hourly else "daily_repair")
    assert (numbers["bars_concerned"], numbers["bars_repaired"], numbers["bars_undecided"]) == (1, 1, 0)
    (shown,) = [record.data for record in numbers["first_decisions"].records] if numbers["first_decisions"] else []
    assert (shown["symbol"], shown["decision"]) == (symbol, "streamed_was_wrong")


@pytest.mark.parametrize(
    ("market", "hourly"), [pytest.param(Market.SPOT, False, marks=pytest.mark.slow), (Market.FUTURES, True)], ids=str
)
def test_a_wrong_lake_gets_a_new_version(
    deployment: Deployment, watch: Watch, database: Database, market: Market, *, hourly: bool
) -> None:
    """Where the fetched side was wrong the file has a new version, the old one is kept, and PostgreSQL is as it was."""
    (_capture_hour if hourly else _capture_day)(deployment, market)
    bar = _values(database, market).filter(pl.col("timestamp") == _DAY.end_ms - 3_600_000).row(0, named=True)
    _spoil_lake(deployment, market, bar["symbol"], bar["timestamp"], hourly=hourly)
    assert not _passed(_compare(deployment, market, hourly=hourly))[_MATCH]
    (repaired,) = watch.run_what_is_asked()
    assert repaired.success
    assert _passed(repaired)[_MATCH]
    assert database.revisions(market, _DAY).is_empty()
    (row,) = QualityStore(database).repairs(market, _DAY).iter_rows(named=True)
    assert (row["decision"], row["side"]) == ("fetched_was_wrong", "fetched")
    (kept,) = _numbers(deployment, market, "recent_repair" if hourly else "daily_repair")["former_files"]
    former = pl.read_parquet(Lake(deployment.settings.lake_url).location(kept))
    wrong = former.filter(pl.col("symbol") == bar["symbol"], pl.col("timestamp") == bar["timestamp"])
    assert wrong["close"].to_list() == [bar["close"] * 1.5]


@pytest.mark.usefixtures("impatient")
def test_what_nobody_can_decide_stays_red_is_listed_and_is_not_asked_for_again(
    deployment: Deployment, watch: Watch, database: Database
) -> None:
    """Three different values: red before and after, all three are in the audit trail, and no second run is asked for."""
    _capture_hour(deployment, Market.SPOT)
    symbol, timestamp = _corrupt(deployment, Market.SPOT)
    _spoil_lake(deployment, Market.SPOT, symbol, timestamp, hourly=True)
    assert not _passed(_compare(deployment, Market.SPOT, hourly=True))[_MATCH]
    (repaired,) = watch.run_what_is_asked()
    assert not _passed(repaired)[_MATCH]
    assert _numbers(deployment, Market.SPOT, "recent_repair")["bars_undecided"] == 1
    (row,) = QualityStore(database).repairs(Market.SPOT, _DAY).iter_rows(named=True)
    assert (row["symbol"], row["timestamp"], row["decision"]) == (symbol, timestamp, "undecided")
    assert len({source["values"]["close"] for source in json.loads(row["sources"])}) == 2
    assert len({source["values"]["volume"] for source in json.loads(row["sources"])}) == 2
    assert watch.tick() == []
    # Compared again, it is as red as before: the same finding.
    assert not _passed(_compare(deployment, Market.SPOT, hourly=True))[_MATCH]
    assert watch.tick() == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.slow
def test_a_new_difference_is_asked_for_although_an_old_one_is_undecided(
    deployment: Deployment, watch: Watch, database: Database
) -> None:
    """What is left to a person does not hold up the repair of what comes later."""
    _capture_hour(deployment, Market.SPOT)
    symbol, timestamp = _corrupt(deployment, Market.SPOT)
    _spoil_lake(deployment, Market.SPOT, symbol, timestamp, hourly=True)
    _compare(deployment, Market.SPOT, hourly=True)
    watch.run_what_is_asked()
    # The bar that was changed before has the smallest key: with no volume it is passed over.
    with psycopg.connect(deployment.settings.database_url.get_secret_value()) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "update bars set high = high + 1 where market = 'spot' and symbol = %s and timestamp = %s",
            (symbol, timestamp + 60_000),
        )
    _compare(deployment, Market.SPOT, hourly=True)
    (repaired,) = watch.run_what_is_asked()
    decisions = QualityStore(database).repairs(Market.SPOT, _DAY).filter(pl.col("run_id") == repaired.run_id)
    assert sorted(decisions["decision"]) == ["streamed_was_wrong", "undecided"]
    assert watch.tick() == []


def test_a_partition_has_one_repair_run_at_a_time(deployment: Deployment, watch: Watch) -> None:
    """While a repair of the hour waits or runs, no other is asked for."""
    _capture_hour(deployment, Market.SPOT)
    _corrupt(deployment, Market.SPOT)
    _compare(deployment, Market.SPOT, hourly=True)
    tags = {"dagster/partition": _HOUR_KEY}
    create_run_for_test(
        deployment.instance, job_name="spot_recent_repair", status=dg.DagsterRunStatus.STARTED, tags=tags
    )
    assert watch.tick() == []
    assert json.loads(watch.cursor or "")["red"] == [["spot", "recent_qa", _HOUR_KEY]]


def test_a_repair_that_died_is_tried_three_times(
    deployment: Deployment, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt has a key of its own, and waits for a while; after the third the partition is left to a person."""
    _capture_hour(deployment, Market.SPOT)
    _corrupt(deployment, Market.SPOT)
    _compare(deployment, Market.SPOT, hourly=True)
    attempts = []
    for _ in range(4):
        for request in watch.tick():
            attempts.append(request.run_key.rpartition("/")[2])
            tags = {**request.tags, "dagster/partition": _HOUR_KEY}
            died = create_run_for_test(
                deployment.instance, job_name=request.job_name, status=dg.DagsterRunStatus.STARTED, tags=tags
            )
            deployment.instance.report_run_failed(died)
        monkeypatch.setattr(repair_sensor, "utc_now", utc_now)
        assert watch.tick() == []  # not at once
        monkeypatch.setattr(repair_sensor, "utc_now", lambda: utc_now() + timedelta(minutes=2))
    assert attempts == ["0", "1", "2"]
    assert json.loads(watch.cursor or "")["red"] == []


class TestAnExchangeThatRestatesItsBars:
    """The exchange's own corrections, on an exchange of the test's own."""

    @pytest.fixture
    def finished_exchange(self, replay_factory: ReplayFactory) -> ReplayHandle:
        """In the place of the session's: what is restated stays so."""
        return replay_factory(symbols=3, days=2, start="2025-06-02T00:30Z")

    def test_a_few_late_corrections_are_taken_over(
        self, deployment: Deployment, watch: Watch, database: Database
    ) -> None:
        """Bars restated between the two captures become revisions, each as the exchange has it at last."""
        assert deployment.run("spot_stream_hour", partition_key=_HOUR_KEY).success
        first_ms = _DAY.end_ms - 3_600_000
        deployment.exchange.inject(
            [{"fault": "correct", "market": "spot", "from": first_ms, "until": first_ms + 300_000, "after_s": 60}]
        )
        assert not _passed(_compare(deployment, Market.SPOT, hourly=True))[_MATCH]
        (repaired,) = watch.run_what_is_asked()
        assert repaired.success
        assert database.revisions(Market.SPOT, _DAY).height > 1
        hour = Interval(first_ms, _DAY.end_ms)
        settled = deployment.exchange.settled(Market.SPOT).filter(
            pl.col("timestamp").is_between(hour.start_ms, hour.end_ms, closed="left")
        )
        held = database.read(Market.SPOT, hour).select(*KEY, *VALUES)
        assert held.equals(settled.select(*KEY, *VALUES).sort("symbol", "timestamp"))

    @pytest.mark.usefixtures("impatient")
    @pytest.mark.slow
    def test_a_restated_day_is_one_finding_for_a_person_and_no_storm(
        self, deployment: Deployment, watch: Watch, database: Database
    ) -> None:
        """Nothing is touched, one row and one finding say how to go on, no second run is asked for; confirmed, all is repaired."""
        assert deployment.run("futures_stream_hour", tags=_HOURS).success
        deployment.exchange.inject(
            [{"fault": "correct", "market": "futures", "from": _DAY.start_ms, "until": _DAY.end_ms, "after_s": 60}]
        )
        assert not _passed(deployment.run("futures_day", partition_key=DAY))[_MATCH]
        (asked,) = watch.run_what_is_asked()
        assert not _passed(asked)[_MATCH]
        numbers = _numbers(deployment, Market.FUTURES, "daily_repair")
        assert numbers["needs_confirmation"]
        assert numbers["bars_concerned"] > 500
        assert numbers["bars_repaired"] == 0
        assert database.revisions(Market.FUTURES, _DAY).is_empty()
        (row,) = QualityStore(database).repairs(Market.FUTURES, _DAY).iter_rows(named=True)
        assert row["decision"] == "needs_confirmation"
        (finding,) = QualityStore(database).findings().iter_rows(named=True)
        assert "`confirm: true`" in finding["sentence"]
        for _ in range(2):
            assert watch.tick() == []
            _compare(deployment, Market.FUTURES)
        assert watch.tick() == []

        op = asset_key(deployment.settings, Market.FUTURES, "daily_repair").to_python_identifier()
        confirmed = deployment.run(
            "futures_day_repair", partition_key=DAY, run_config={"ops": {op: {"config": {"confirm": True}}}}
        )
        assert confirmed.success
        assert database.revisions(Market.FUTURES, _DAY).height == numbers["bars_concerned"]
