"""The exchange's clock, measured over the network.

Lives here: asking a market's `time` several times and anchoring an `ExchangeClock` to the best answer. Does not: the
clock itself (clock.py). The answer's header `X-Replay-Speed` (a replay exchange sends it, Binance never does) says
how many of the exchange's seconds pass in one of ours.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import requests

from ohlcv_assets.clock import ExchangeClock
from ohlcv_assets.errors import Banned, ClockUncertain, ExchangeUnavailable, RateLimited
from ohlcv_assets.instruments import Market

#: Where each market answers, and its path there; a replay exchange serves both paths on one host.
BASE_URLS = {Market.SPOT: "https://api.binance.com", Market.FUTURES: "https://fapi.binance.com"}
API_PATHS = {Market.SPOT: "/api/v3", Market.FUTURES: "/fapi/v1"}
SPEED_HEADER = "X-Replay-Speed"

#: Statuses by which the exchange orders a stop.
STOP_STATUSES = {429: RateLimited, 418: Banned}
#: The weight that measuring usually costs.
CLOCK_WEIGHT = 5

_FEWEST_SAMPLES, _MOST_SAMPLES = CLOCK_WEIGHT, 25
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class _Sample:
    """One answer: the exchange's time, and our monotonic clock before asking and after the answer."""

    server_ms: float
    sent_s: float
    received_s: float
    speed: float

    @property
    def uncertainty_s(self) -> float:
        """Half the round trip, in seconds of the exchange: the answer was made somewhere within it."""
        # The answer is cut to whole milliseconds: another half of one.
        return (self.received_s - self.sent_s) / 2 * self.speed + 0.0005


def measure_clock(market: Market, exchange_url: str | None) -> ExchangeClock:
    """The clock of the exchange that serves `market`.

    Asks until the shortest round trip is short enough, and anchors the clock in its middle: unlike a mean or a median,
    the error of that one answer is bounded by half its own round trip.

    Args:
        market: whose `time` is asked.
        exchange_url: http://host:port of a replay exchange; None for Binance itself.

    Raises:
        ExchangeUnavailable: no answer, or none that is a time.
        RateLimited: the exchange orders a stop.
        ClockUncertain: no round trip short enough to know the clock to within a second (at more than twenty times
            the real speed: to within 50 ms of our own time).
    """
    url = f"{exchange_url or BASE_URLS[market]}{API_PATHS[market]}/time"
    with requests.Session() as session:
        # A replay exchange is never behind the proxy that leads to the internet.
        session.trust_env = exchange_url is None
        best = _ask(session, url)
        for count in range(1, _MOST_SAMPLES):
            if count >= _FEWEST_SAMPLES and best.uncertainty_s <= _largest_uncertainty_s(best.speed):
                break
            best = min(best, _ask(session, url), key=lambda sample: sample.uncertainty_s)
    if best.uncertainty_s > _largest_uncertainty_s(best.speed):
        raise ClockUncertain(
            f"{url} answers so slowly that its clock is known only to within {best.uncertainty_s:.2f} s",
            hint="try again when the network, or this machine, is less busy",
        )
    middle_s = (best.sent_s + best.received_s) / 2
    return ExchangeClock(best.server_ms + 0.5, middle_s, best.speed, best.uncertainty_s)


def _largest_uncertainty_s(speed: float) -> float:
    return max(1.0, 0.05 * speed)


def _ask(session: requests.Session, url: str) -> _Sample:
    sent_s = time.monotonic()
    try:
        answer = session.get(url, timeout=_TIMEOUT_S)
        received_s = time.monotonic()
        _heed_stop(answer)
        answer.raise_for_status()
        return _Sample(float(answer.json()["serverTime"]), sent_s, received_s, _speed(answer))
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise ExchangeUnavailable(
            f"{url} does not tell the time: {_reason(error)}",
            hint="check the network, or set OHLCV_EXCHANGE_URL to a replay exchange (ohlcv replay --help)",
        ) from error


def _heed_stop(answer: requests.Response) -> None:
    kind = STOP_STATUSES.get(answer.status_code)
    if kind is not None:
        retry_after = answer.headers.get("Retry-After", "")
        raise kind(
            f"{answer.url} answers {answer.status_code}",
            retry_after_s=float(retry_after) if retry_after.isdigit() else 60.0,
        )


def _speed(answer: requests.Response) -> float:
    speed = float(answer.headers.get(SPEED_HEADER, 1.0))
    if not 0 < speed < float("inf"):
        raise ValueError(f"{SPEED_HEADER}: {speed}")
    return speed


def _reason(error: Exception) -> str:
    """The innermost cause in one line: requests wraps a refused connection in four others."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"status {error.response.status_code}"
    innermost: BaseException = error
    while innermost.__context__ is not None:
        innermost = innermost.__context__
    return f"{type(error).__name__} ({innermost})"
