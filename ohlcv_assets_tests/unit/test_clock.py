"""Promises of clock.py: the exchange's clock runs at its own speed, and no stepped machine clock moves it."""

import asyncio
import time
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.clock import Clock, ExchangeClock, SystemClock, utc_now
from ohlcv_assets.timestamps import to_ms

_NOON_MS = 1_748_779_200_000  # 2025-06-01T12:00Z

speeds = st.sampled_from([0.5, 1.0, 60.0, 600.0])


def clock_started(seconds_ago: float, speed: float = 1.0) -> ExchangeClock:
    """An exchange clock that showed noon so many of our seconds ago."""
    return ExchangeClock(_NOON_MS, time.monotonic() - seconds_ago, speed)


@given(st.floats(0, 86_400), speeds)
def test_the_exchanges_clock_runs_at_its_speed(seconds_ago, speed):
    """After s of our seconds the exchange is at least s times its speed further, and never runs back."""
    clock = clock_started(seconds_ago, speed)
    first_ms, second_ms = clock.now_ms(), clock.now_ms()
    assert first_ms >= _NOON_MS + int(seconds_ago * 1000 * speed) - 1
    assert second_ms >= first_ms


@given(st.floats(0, 86_400), speeds)
def test_seconds_of_the_exchange_are_turned_into_ours(delay_s, speed):
    """A delay of the exchange's seconds takes a speed's part of ours, and none of the system's clock is turned."""
    assert clock_started(0, speed).wall_s(delay_s) * speed == pytest.approx(delay_s)
    assert SystemClock().wall_s(delay_s) == delay_s


@pytest.mark.parametrize("clock", [SystemClock(), clock_started(0), clock_started(0, 600.0)])
async def test_sleeping_lasts_at_least_as_long_as_asked(clock: Clock):
    """After a sleep the same clock has moved on by the delay, at any speed."""
    delay_s = 6.0 if isinstance(clock, ExchangeClock) and clock.speed > 1 else 0.01
    before_ms = clock.now_ms()
    await clock.sleep(delay_s)
    assert clock.now_ms() - before_ms >= delay_s * 1000 - 1  # both readings are cut to whole milliseconds


@pytest.mark.parametrize("clock", [SystemClock(), clock_started(0, 0.001)])
async def test_a_moment_that_is_past_is_not_waited_for(clock: Clock):
    """A negative delay returns at once, which at a thousandth of the speed would take hours."""
    await clock.sleep(-10.0)


def test_stepping_the_machines_clock_does_not_move_the_exchanges(monkeypatch):
    """An operator or NTP sets the machine's clock back a day: the exchange's clock goes on."""
    clock = clock_started(10.0)
    before_ms = clock.now_ms()
    stepped_ns = time.time_ns() - 86_400 * 10**9
    # The machine's real clock cannot be set by a test.
    monkeypatch.setattr(time, "time_ns", lambda: stepped_ns)
    monkeypatch.setattr(time, "time", lambda: stepped_ns / 1e9)
    assert SystemClock().now_ms() == stepped_ns // 10**6
    assert clock.now_ms() >= before_ms


def test_the_systems_clock_is_unix_time_in_utc():
    """Three readings in a row are in order: milliseconds, a tz-aware UTC datetime, milliseconds."""
    before_ms, moment, after_ms = SystemClock().now_ms(), utc_now(), SystemClock().now_ms()
    assert before_ms <= to_ms(moment) <= after_ms
    assert moment.tzinfo is UTC


@pytest.mark.parametrize(("speed", "wall_s"), [(1.0, 6.0), (60.0, 0.1), (0.5, 12.0)])
async def test_a_sleep_takes_as_long_as_the_clock_says(monkeypatch, speed, wall_s):
    """The seconds really waited are the exchange's seconds divided by its speed, as `wall_s` foretells."""
    waited_s = []

    async def waited(delay_s: float) -> None:
        waited_s.append(delay_s)

    # Really waiting would need a timed assertion.
    monkeypatch.setattr(asyncio, "sleep", waited)
    await clock_started(0, speed).sleep(6.0)
    assert waited_s == [wall_s] == [clock_started(0, speed).wall_s(6.0)]
