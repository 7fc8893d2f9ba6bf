"""The sensor that keeps the markets streaming."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.definitions import build_defs
from ohlcv_assets.errors import ExchangeUnavailable
from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration.sensors import hours_to_stream
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import HOUR_MS, parse_time


class _ClockAt:
    """A clock that stands where the test puts it: the sensor asks the exchange for nothing else."""

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
        if market == self.silent:
            raise ExchangeUnavailable(f"{market} does not answer")
        return _ClockAt(parse_time(self.now))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def _tick(now: str, instance: dg.DagsterInstance, silent: str = "") -> Any:
    defs = build_defs(settings=Settings(), resources={"exchange": _Exchange(now=now, silent=silent)})
    repository = defs.get_repository_def()
    context = dg.build_sensor_context(
        instance=instance, repository_def=repository, resources={"exchange": _Exchange(now=now, silent=silent)}
    )
    return repository.get_sensor_def("keep_streaming").evaluate_tick(context)


@given(now_ms=st.integers(0, 4_000_000_000_000), lead_s=st.floats(0, 3600))
def test_this_hour_always_has_a_run_and_the_next_one_when_it_is_near(now_ms: int, lead_s: float) -> None:
    """The hours are this one and those that begin within the lead, each once, in order."""
    hours = hours_to_stream(now_ms, lead_s)
    assert hours[0] <= now_ms < hours[0] + HOUR_MS
    assert hours == list(range(hours[0], hours[-1] + 1, HOUR_MS))
    assert all(hour % HOUR_MS == 0 and hour <= now_ms + lead_s * 1000 for hour in hours)
    assert hours[-1] + HOUR_MS > now_ms + int(lead_s * 1000)


def test_the_next_hour_is_started_two_minutes_ahead(instance: dg.DagsterInstance) -> None:
    """At 11:57 only the hour of 11:00 has a run; at 11:58 that of 12:00 is asked for as well, in both markets."""
    early = _tick("2025-06-01T11:57:59Z", instance)
    ahead = _tick("2025-06-01T11:58:00Z", instance)
    assert [request.partition_key for request in early.run_requests] == ["2025-06-01-11:00"] * 2
    assert {(request.job_name, request.partition_key) for request in ahead.run_requests} == {
        (f"{market}_stream_hour", f"2025-06-01-{hour}:00") for market in Market for hour in (11, 12)
    }


def test_an_hour_is_asked_for_under_one_key_however_often_the_sensor_ticks(instance: dg.DagsterInstance) -> None:
    """Ticks at different times ask under the same run key, which Dagster starts once."""
    keys = [
        {request.run_key for request in _tick(f"2025-06-01T11:{minute:02}:00Z", instance).run_requests}
        for minute in (0, 30, 50)
    ]
    assert keys == [{"stockholm/futures/2025-06-01-11:00", "stockholm/spot/2025-06-01-11:00"}] * 3


def test_every_run_has_a_limit(instance: dg.DagsterInstance) -> None:
    """A run may take the rest of its hour, its overlap and ten minutes, but not for ever."""
    (spot, _) = _tick("2025-06-01T11:30:00Z", instance).run_requests
    assert int(spot.tags["dagster/max_runtime"]) == 30 * 60 + 120 + 600


def test_one_silent_market_does_not_stop_the_other(instance: dg.DagsterInstance) -> None:
    """Where one market's clock cannot be had, the other's run is asked for all the same."""
    data = _tick("2025-06-01T11:30:00Z", instance, silent="spot")
    assert [request.job_name for request in data.run_requests] == ["futures_stream_hour"]


def test_when_nobody_answers_the_tick_says_so(instance: dg.DagsterInstance) -> None:
    """Where no clock can be had, nothing is asked for, and the tick's reason names the market."""

    class Silent(_Exchange):
        def clock(self, market: Market) -> Any:
            raise ExchangeUnavailable(f"{market} does not answer")

    defs = build_defs(settings=Settings())
    context = dg.build_sensor_context(
        instance=instance, repository_def=defs.get_repository_def(), resources={"exchange": Silent(now="")}
    )
    data = defs.get_repository_def().get_sensor_def("keep_streaming").evaluate_tick(context)
    assert data.run_requests == []
    assert "futures does not answer" in data.skip_message


def test_hours_without_a_partition_are_not_asked_for(instance: dg.DagsterInstance) -> None:
    """Before the first day of streamed_bars there is nothing to materialize."""
    data = _tick("2020-06-01T11:30:00Z", instance)
    assert data.run_requests == []
    assert "OHLCV_STREAMED_SINCE" in data.skip_message
