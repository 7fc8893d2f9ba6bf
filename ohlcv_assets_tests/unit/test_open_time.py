"""How long a WebSocket was open in a minute: by the exchange's clock, over reconnects and hand-overs, to a tenth of a second."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.clock import ExchangeClock
from ohlcv_assets.exchange import stream_socket
from ohlcv_assets.exchange.connection import OpenTime
from ohlcv_assets.exchange.stream_socket import Socket
from ohlcv_assets.instruments import Symbol
from ohlcv_assets.timestamps import MINUTE_MS

_NOON_MS = 1_748_779_200_000


def _socket(
    monkeypatch: pytest.MonkeyPatch, *spans: tuple[float, float | None], now_s: float, speed: float = 1.0
) -> Socket:
    """A socket that had these connections open; seconds are the exchange's, counted from noon."""
    clock = ExchangeClock(_NOON_MS, 1000.0, speed)
    moments = SimpleNamespace(monotonic=lambda: 1000.0 + now_s / speed)
    monkeypatch.setattr(stream_socket, "time", moments)
    monkeypatch.setattr("ohlcv_assets.clock.time", moments)
    monkeypatch.setattr(stream_socket, "dial_budget", lambda _: None)
    listing = {Symbol("BTC/USDT"): SimpleNamespace(exchange_id="BTCUSDT")}
    socket = Socket(SimpleNamespace(clock=clock, listing=listing), list(listing), lambda _: None)
    for began_s, ended_s in spans:
        ended = None if ended_s is None else 1000.0 + ended_s / speed
        socket._open_times.append(OpenTime(1000.0 + began_s / speed, ended))
    return socket


@pytest.mark.parametrize("speed", [1.0, 60.0, 600.0])
def test_seconds_of_a_minute_are_the_exchanges(monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
    """At any speed: open from 12:00:20 to 12:01:30 is 40 s of the first minute, 30 s of the second, none of others."""
    socket = _socket(monkeypatch, (20.0, 90.0), now_s=200.0, speed=speed)
    assert [socket.connected_s(_NOON_MS + minute * MINUTE_MS) for minute in (-1, 0, 1, 2)] == [0.0, 40.0, 30.0, 0.0]


def test_what_is_open_still_counts_until_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without an end is open at this moment, and was never open where it did not begin."""
    socket = _socket(monkeypatch, (-500.0, None), now_s=75.0)
    assert socket.connected_s(_NOON_MS) == 60.0
    assert socket.connected_s(_NOON_MS + MINUTE_MS) == 15.0
    socket._open_times[0].began_s = None
    assert socket.connected_s(_NOON_MS) == 0.0


def test_reconnects_add_up_and_a_hand_over_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two connections apart are 10 s and 20 s together; two that overlap are as long as both together."""
    apart = _socket(monkeypatch, (0.0, 10.0), (30.0, 50.0), now_s=70.0)
    assert apart.connected_s(_NOON_MS) == 30.0
    over = _socket(monkeypatch, (0.0, 40.0), (5.0, 8.0), (35.0, 60.0), now_s=70.0)
    assert over.connected_s(_NOON_MS) == 60.0


@given(spans=st.lists(st.tuples(st.integers(-100, 200), st.integers(0, 100)), max_size=6))
def test_it_is_the_seconds_that_any_connection_covers(spans: list[tuple[int, int]]) -> None:
    """Whatever connections there were, the covered time is that of the seconds in which one of them was open."""
    seconds = {second for began, length in spans for second in range(began, began + length)}
    with pytest.MonkeyPatch.context() as patching:
        socket = _socket(patching, *((float(b), float(b + n)) for b, n in spans), now_s=400.0)
        assert socket.connected_s(_NOON_MS) == len(seconds & set(range(60)))
