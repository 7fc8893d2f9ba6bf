"""The sensors against Dagster's own records of runs, and a real database where they look for bars."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test, freeze_time

from ohlcv_assets.bars import Channel
from ohlcv_assets.definitions import build_defs
from ohlcv_assets.errors import ExchangeUnavailable
from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.timestamps import parse_time
from ohlcv_assets_tests.builders import bars

_UNIVERSE = Universe.of("v0.1", {Market.SPOT: ["BTC/USDT"], Market.FUTURES: ["BTC/USDT:USDT"]})


class _ClockAt:
    """A clock that stands where the test puts it: the sensors ask the exchange for nothing else."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def wall_s(self, delay_s: float) -> float:
        return delay_s


class _Exchange(dg.ConfigurableResource):
    now: str
    silent: str = ""

    def clock(self, market: Market) -> Any:
        if market in self.silent.split():
            raise ExchangeUnavailable(f"{market} does not answer")
        return _ClockAt(parse_time(self.now))


class _Universe(dg.ConfigurableResource):
    def load(self) -> Universe:
        return _UNIVERSE


class _Database(dg.ConfigurableResource):
    url: str = ""

    def open(self) -> Database:
        assert self.url, "the sensor must not need a database here"
        return Database(self.url)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as local:
        yield local


def _tick(
    instance: dg.DagsterInstance,
    now: str,
    *,
    sensor: str = "keep_streaming",
    silent: str = "",
    url: str = "",
    **settings: Any,
) -> Any:
    resources = {
        "exchange": _Exchange(now=now, silent=silent),
        "database": _Database(url=url),
        "universe": _Universe(),
    }
    repository = build_defs(settings=Settings(**settings)).get_repository_def()
    definition = repository.get_sensor_def(sensor)
    needed = {name: resources[name] for name in definition.required_resource_keys}
    context = dg.build_sensor_context(instance=instance, repository_def=repository, resources=needed)
    return definition.evaluate_tick(context)


def _asked(data: Any) -> set[tuple[str, str]]:
    return {(request.job_name, request.partition_key) for request in data.run_requests}


def _had_run(instance: dg.DagsterInstance, market: str, hour: str, status: dg.DagsterRunStatus) -> str:
    tags = {"dagster/partition": f"2025-06-01-{hour}", "ohlcv/shard": "1/1"}
    return create_run_for_test(instance, job_name=f"{market}_stream_hour", status=status, tags=tags).run_id


def test_the_next_hour_is_started_two_minutes_ahead(instance: dg.DagsterInstance) -> None:
    """At 11:57 only the hour of 11:00 has a run; at 11:58 that of 12:00 is asked for as well, in both markets."""
    early = _tick(instance, "2025-06-01T11:57:59Z")
    ahead = _tick(instance, "2025-06-01T11:58:00Z")
    assert [request.partition_key for request in early.run_requests] == ["2025-06-01-11:00"] * 2
    assert _asked(ahead) == {
        (f"{market}_stream_hour", f"2025-06-01-{hour}:00") for market in Market for hour in (11, 12)
    }


def test_an_hour_is_asked_for_under_one_key_however_often_the_sensor_ticks(instance: dg.DagsterInstance) -> None:
    """Until its run exists, ticks at different times ask under the same run key, which Dagster starts once."""
    ticks = [_tick(instance, f"2025-06-01T11:{minute:02}:00Z") for minute in (0, 30, 50)]
    keys = [{request.run_key for request in tick.run_requests} for tick in ticks]
    assert keys == [{"stockholm/futures/2025-06-01-11:00/1/1/0", "stockholm/spot/2025-06-01-11:00/1/1/0"}] * 3


def test_an_hour_with_a_living_run_is_left_alone(instance: dg.DagsterInstance) -> None:
    """A run that is queued or started is enough, and one that succeeded too."""
    _had_run(instance, "futures", "11:00", dg.DagsterRunStatus.NOT_STARTED)
    _had_run(instance, "spot", "11:00", dg.DagsterRunStatus.SUCCESS)
    data = _tick(instance, "2025-06-01T11:00:30Z")
    assert data.run_requests == []


def test_a_run_that_died_is_replaced_by_the_next_tick(instance: dg.DagsterInstance) -> None:
    """A failed run's hour is asked for again under a new key, so that Dagster does start it."""
    _had_run(instance, "futures", "11:00", dg.DagsterRunStatus.FAILURE)
    _had_run(instance, "spot", "11:00", dg.DagsterRunStatus.STARTED)
    (request,) = _tick(instance, "2025-06-01T11:00:30Z").run_requests
    assert (request.job_name, request.partition_key) == ("futures_stream_hour", "2025-06-01-11:00")
    assert request.run_key.endswith("/1/1/1")


def test_hours_that_nobody_watched_are_started_late(instance: dg.DagsterInstance) -> None:
    """A daemon that comes back after three hours asks for those hours too, and for none before the first run."""
    _had_run(instance, "futures", "08:00", dg.DagsterRunStatus.SUCCESS)
    asked = _asked(_tick(instance, "2025-06-01T11:30:00Z"))
    assert {hour for job, hour in asked if job == "futures_stream_hour"} == {
        f"2025-06-01-{h:02}:00" for h in (9, 10, 11)
    }
    assert {hour for job, hour in asked if job == "spot_stream_hour"} == {"2025-06-01-11:00"}


def test_a_run_whose_bars_stopped_arriving_is_replaced(instance: dg.DagsterInstance, database_url: str) -> None:
    """The run of the market without new bars is replaced; the one whose bars arrive is left alone."""
    with freeze_time(datetime.now(UTC) - timedelta(minutes=20)):
        for market in Market:
            _had_run(instance, market, "11:00", dg.DagsterRunStatus.STARTED)
    with closing(Database(database_url)) as database:
        for symbol, minutes in (("BTC/USDT", 12), ("BTC/USDT:USDT", 19)):
            arrived = bars([symbol], start="2025-06-01T11:00Z", minutes=minutes)
            database.record(arrived, channel=Channel.WEBSOCKET, run_id="test")
    (request,) = _tick(instance, "2025-06-01T11:20:10Z", url=database_url).run_requests
    assert (request.job_name, request.run_key[-1]) == ("spot_stream_hour", "1")


def test_a_market_may_be_split_over_several_runs(instance: dg.DagsterInstance) -> None:
    """OHLCV_STREAM_SHARDS=3 asks for three runs an hour and market, each with its part in a tag."""
    requests = _tick(instance, "2025-06-01T11:30:00Z", stream_shards=3).run_requests
    assert len({request.run_key for request in requests}) == 6
    assert {request.tags["ohlcv/shard"] for request in requests} == {"1/3", "2/3", "3/3"}


def test_every_run_has_a_limit(instance: dg.DagsterInstance) -> None:
    """A run may take the rest of its hour, its overlap and a quarter of an hour, but not for ever."""
    (spot, _) = _tick(instance, "2025-06-01T11:30:00Z").run_requests
    assert int(spot.tags["dagster/max_runtime"]) == 30 * 60 + 120 + 900


def test_one_silent_market_does_not_stop_the_other(instance: dg.DagsterInstance) -> None:
    """Where one market's clock cannot be had, the other's run is asked for all the same."""
    data = _tick(instance, "2025-06-01T11:30:00Z", silent="spot")
    assert [request.job_name for request in data.run_requests] == ["futures_stream_hour"]


def test_when_nobody_answers_the_tick_says_so(instance: dg.DagsterInstance) -> None:
    """Where no clock can be had, nothing is asked for, and the tick's reason names the markets."""
    data = _tick(instance, "2025-06-01T11:30:00Z", silent="spot futures")
    assert data.run_requests == []
    assert "futures does not answer" in data.skip_message


def test_hours_without_a_partition_are_not_asked_for(instance: dg.DagsterInstance) -> None:
    """Before the first day of streamed_bars there is nothing to materialize."""
    assert _tick(instance, "2020-06-01T11:30:00Z").run_requests == []


def test_each_ten_minute_window_is_compared_five_minutes_after_its_end(instance: dg.DagsterInstance) -> None:
    """At 11:14 the last hour's windows are all that is due; at 11:15 the first of this hour is due as well."""
    for market in Market:
        for hour in ("10:00", "11:00"):
            _had_run(instance, market, hour, dg.DagsterRunStatus.STARTED)
    replayed = {"sensor": "keep_comparing", "partitions_until": "2025-06-02"}
    early = _tick(instance, "2025-06-01T11:14:59Z", **replayed)
    due = _tick(instance, "2025-06-01T11:15:00Z", **replayed)
    assert _asked(early) == {(f"{market}_recent", "2025-06-01-10:00") for market in Market}
    assert _asked(due) - _asked(early) == {(f"{market}_recent", "2025-06-01-11:00") for market in Market}
    again = _tick(instance, "2025-06-01T11:24:59Z", **replayed)
    assert {request.run_key for request in again.run_requests} == {request.run_key for request in due.run_requests}


def test_an_hour_that_nobody_streamed_is_not_compared(instance: dg.DagsterInstance) -> None:
    """When the platform is started in the middle of an hour, the hour before is not called wrong."""
    _had_run(instance, "spot", "11:00", dg.DagsterRunStatus.STARTED)
    data = _tick(instance, "2025-06-01T11:30:00Z", sensor="keep_comparing", partitions_until="2025-06-02")
    assert _asked(data) == {("spot_recent", "2025-06-01-11:00")}


def test_a_market_has_one_comparison_at_a_time(instance: dg.DagsterInstance) -> None:
    """While one runs no other of its market is asked for; the next one takes what is due by then."""
    for market in Market:
        _had_run(instance, market, "11:00", dg.DagsterRunStatus.STARTED)
    replayed = {"sensor": "keep_comparing", "partitions_until": "2025-06-02"}
    running = create_run_for_test(instance, job_name="spot_recent", status=dg.DagsterRunStatus.STARTED)
    assert _asked(_tick(instance, "2025-06-01T11:35:00Z", **replayed)) == {("futures_recent", "2025-06-01-11:00")}
    instance.report_run_failed(running)
    requests = _tick(instance, "2025-06-01T11:55:00Z", **replayed).run_requests
    assert [request.run_key for request in requests if request.job_name == "spot_recent"] == [
        "stockholm/spot/2025-06-01-11:00/windows=5"
    ]


def test_the_last_windows_of_an_hour_are_compared_although_another_comparison_took_long(
    instance: dg.DagsterInstance,
) -> None:
    """An hour whose last window was due while a run was under way is still asked for two hours later, as a whole."""
    _had_run(instance, "spot", "08:00", dg.DagsterRunStatus.SUCCESS)
    data = _tick(instance, "2025-06-01T11:04:00Z", sensor="keep_comparing", partitions_until="2025-06-02")
    assert [request.run_key for request in data.run_requests] == ["stockholm/spot/2025-06-01-08:00/windows=6"]
