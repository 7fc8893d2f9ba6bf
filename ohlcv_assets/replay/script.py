"""What the exchange does with each bar, request and connection: the one place where a fault is decided.

Lives here: `Script`, a healthy exchange. Does not: any delivery; the pump, the REST handlers and the connections ask
the script what to do and do it. `faults/script.py` is the script that decides otherwise, and writes down what it did.

    close_lags_ms      per (market, symbol, minute): how late the closing event is
    closings           per bar: its closing events: when, with which values, or withheld
    rest_bars          per (market, symbol, range, now): bars that REST shows otherwise than the truth, or not at all
    rest_fault         per request: an answer in place of the true one, or what is done to the true one
    time_offset_ms     per market: how far off the clock is that REST tells
    listing_changes    per market: fields of exchangeInfo's symbols that are otherwise
    connection_opened  per WebSocket: told that it is there
    refusal            per market: how a new WebSocket is refused
    loses              per subscription: acked, and never delivered
    message_limit      per market: messages a second that a client may send
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.partial import Kline

if TYPE_CHECKING:
    from aiohttp import web

    from ohlcv_assets.replay.hub import Connection
    from ohlcv_assets.replay.tape import SymbolTape

#: The closing event's lag is lognormal around this median, with this standard deviation of its logarithm:
#: 0.2 s in the middle, below 0.65 s for 99 in 100. Recorded USD-M captures show 0.25 to 2 s.
MEDIAN_LAG_MS = 200.0
LAG_SPREAD = 0.5

_NORMAL = NormalDist()


class Answer(NamedTuple):
    """An HTTP answer: status, body, and headers beside those that every answer has."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    content_type: str = "application/json"


#: Makes the true answer: called only when it is needed.
TrueAnswer = Callable[[], Answer]


class RestFault(Protocol):
    """What is done to a request instead of answering it: an answer, or the whole handling of the connection."""

    def __call__(
        self, request: web.Request, true_answer: TrueAnswer, headers: Mapping[str, str]
    ) -> Awaitable[Answer | web.StreamResponse]:
        """Handle the request; an `Answer` still gets the headers that every answer has."""


class Closing(NamedTuple):
    """A closing event of a bar.

    Attributes:
        lag_ms: exchange milliseconds after the bar's end.
        bar: what it says; None for an event that is withheld.
        on_sent: called with the clock's time when it was sent, or withheld, while somebody listened.
    """

    lag_ms: float
    bar: Kline | None
    on_sent: Callable[[int], None] | None = None


class Script:
    """A healthy exchange: every bar comes, on both channels, once and right.

    Args:
        seed: decides every lag; the same seed gives the same lags.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def close_lags_ms(self, market: Market, symbol: str, timestamp_ms: int) -> Sequence[float]:
        """How many exchange milliseconds after a bar's end its closing event is sent, for each time that it is."""
        return (drawn_lognormal(MEDIAN_LAG_MS, LAG_SPREAD, self.seed, market.value, symbol, timestamp_ms),)

    def closings(self, market: Market, tape: SymbolTape, final: Kline) -> Sequence[Closing]:
        """The closing events of a bar."""
        return [Closing(lag_ms, final) for lag_ms in self.close_lags_ms(market, tape.symbol, final.timestamp)]

    def rest_bars(
        self, market: Market, symbol: str, first_ms: int, last_ms: int, now_ms: int
    ) -> Mapping[int, Kline | None]:
        """What REST shows otherwise than the truth among the bars that start in [first_ms, last_ms], by start."""
        return {}

    def rest_fault(
        self, market: Market | None, endpoint: str, parameters: Mapping[str, str], now_ms: int
    ) -> RestFault | None:
        """What is done to a request instead of answering it; None to answer it. An endpoint is `klines` or `time`."""
        return None

    def time_offset_ms(self, market: Market | None, now_ms: int) -> int:
        """How far ahead of the exchange's clock the time is that REST tells."""
        return 0

    def listing_changes(self, market: Market | None, now_ms: int) -> Mapping[str, Mapping[str, Any]]:
        """Fields of exchangeInfo that are otherwise now, by the exchange's name of the symbol."""
        return {}

    def connection_opened(self, connection: Connection) -> None:
        """A WebSocket was opened."""

    def refusal(self, market: Market, now_ms: int) -> str | None:
        """How a new WebSocket is refused: reset, status or close; None when it is welcome."""
        return None

    def loses(self, market: Market, stream: str, now_ms: int) -> bool:
        """Whether a subscription is acked and never delivered."""
        return False

    def message_limit(self, market: Market, now_ms: int) -> int | None:
        """Messages a second that a client may send; None for the market's own limit."""
        return None

    def too_many_messages(self, connection: Connection) -> None:
        """A WebSocket is about to be closed, for it sent more messages than `message_limit` said."""


def drawn_share(*key: object) -> float:
    """A number between 0 and 1 that depends on the key only: what seeded draws are made of."""
    text = " ".join(str(part) for part in key)
    draw = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
    return (draw + 0.5) / 2**48


def drawn_lognormal(median: float, spread: float, *key: object) -> float:
    """A lognormal draw that depends on the key only; `spread` is the standard deviation of its logarithm."""
    return median * math.exp(spread * _NORMAL.inv_cdf(drawn_share(*key)))
