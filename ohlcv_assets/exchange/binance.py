"""The exchange of one market, opened: its clock, its listing, its budget, and one page of klines at a time.

Lives here: how ccxt's objects for Binance are configured (ours to decide: number of retries, limits, hosts), and the
turning of every ccxt exception and status into an error of ours. Does not: paging (fetch.py), streaming
(stream.py), or the wire form of a kline (klines.py): answers leave here as they came, and are distrusted there.

`OHLCV_EXCHANGE_URL` changes the hosts and nothing else. ccxt is imported inside functions: it takes half a second.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from ohlcv_assets.clock import ExchangeClock, SystemClock, utc_now
from ohlcv_assets.errors import IncompletePage, OhlcvError, RateLimited, Refused, UsageError, meaning_of
from ohlcv_assets.exchange.budget import WEIGHT_PER_MINUTE, Lane, WeightBudget, shared_folder
from ohlcv_assets.exchange.kline_text import is_page
from ohlcv_assets.exchange.listing import Listing
from ohlcv_assets.exchange.retrying import patiently
from ohlcv_assets.exchange.server_time import BASE_URLS, CLOCK_WEIGHT, STOP_STATUSES, measure_clock
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.listing_times import ListingTimes
from ohlcv_assets.logs import get_logger
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import MINUTE_MS, Interval, floor_to

#: ccxt's word for each market, and the implicit method that gives klines untouched: twelve columns of strings.
CCXT_TYPES = {Market.SPOT: "spot", Market.FUTURES: "linear"}
_KLINES_METHODS = {Market.SPOT: "publicGetKlines", Market.FUTURES: "fapiPublicGetKlines"}
#: The method that gives the last 24 hours of every symbol at once, and its weight.
_TICKER_METHODS = {Market.SPOT: "publicGetTicker24hr", Market.FUTURES: "fapiPublicGetTicker24hr"}
_TICKER_WEIGHT = {Market.SPOT: 80, Market.FUTURES: 40}
_EXCHANGE_INFO_WEIGHT = {Market.SPOT: 20, Market.FUTURES: 1}

#: Most minutes a page, and why: weight a bar is lowest there (futures: 2 for 100 to 499, 5 from 500 on).
PAGE_MINUTES = {Market.SPOT: 1000, Market.FUTURES: 499}

_TIMEOUT_MS = 10_000
_USED_WEIGHT = "x-mbx-used-weight-1m"
_log = get_logger()


class Answer(NamedTuple):
    """One answer as it came, and when it had entered this process (its own clock, UTC).

    `value` is the JSON value, or the text of a page with klines: klines.py makes columns of it, and not objects first.
    """

    value: Any
    received: datetime


def klines_weight(market: Market, limit: int) -> int:
    """The weight of one page of `limit` klines."""
    if market is Market.SPOT:
        return 2
    return next(weight for most, weight in ((99, 1), (499, 2), (1000, 5), (1500, 10)) if limit <= most)


@dataclass
class Usage:
    """What this process asked of the exchange since it was opened."""

    requests: int = 0
    weight: int = 0


class Exchange:
    """One market of the exchange; opened by `open_exchange`, which closes it.

    Attributes:
        market: spot or futures.
        clock: the exchange's clock.
        budget: the request weight that this host may spend.
        listing: what the exchange lists.
        usage: what was asked through this object.
        client: the ccxt object for REST; only this package touches it.
        url: of a replay exchange; None for Binance.
        known: when a universe's symbols were listed; the listing knows them, gone ones too (`Listing.knowing`).
        expected: a universe's symbols, whether the exchange lists them or not (`Listing.expecting`).
    """

    def __init__(
        self, market: Market, clock: ExchangeClock, budget: WeightBudget, client: Any, url: str | None
    ) -> None:
        self.market = market
        self.clock = clock
        self.budget = budget
        self.listing = Listing(market, {})
        self.usage = Usage()
        self.client = client
        self.url = url
        self.known: Mapping[Symbol, ListingTimes] = {}
        self.expected: Collection[Symbol] = ()
        client.on_answer = self._on_answer

    async def load_listing(self) -> None:
        """Ask the exchange what it lists, and keep it as `listing`."""
        await self._spend(CLOCK_WEIGHT)
        async for attempt in patiently(self.clock):
            with attempt:
                await self._spend(_EXCHANGE_INFO_WEIGHT[self.market])
                with our_errors(self.clock):
                    markets = await self.client.load_markets(reload=True)
                # What is no listing at all (a web page with status 200) is an empty table to ccxt.
                if not (listing := Listing.of(self.market, markets)):
                    raise IncompletePage(f"the exchange lists nothing on {self.market}")
                self.listing = listing.knowing(self.known).expecting(self.expected)

    async def klines(self, symbol: Symbol, interval: Interval, lane: Lane = Lane.BULK) -> Answer:
        """One request for the klines of the minutes that begin in `interval`, as the exchange answers it.

        Waits for the budget; asks once. The answer is not checked (klines.page_of does), and holds the unfinished bar
        if the interval reaches it.

        Args:
            symbol: a listed symbol.
            interval: at most `PAGE_MINUTES` of this market.
            lane: realtime repairs go before bulk work.

        Raises:
            TransientError: of the kind that happened.
            PermanentError: the exchange refuses the question.
        """
        limit = len(interval.minutes)
        # The exchange includes a kline when its start is no later than endTime.
        reach = {"startTime": interval.start_ms, "endTime": interval.end_ms - 1, "limit": limit}
        return await self._ask_klines(symbol, reach, lane)

    async def kline_nearest(
        self, symbol: Symbol, *, after_ms: int | None = None, before_ms: int | None = None
    ) -> Answer:
        """One request for the first kline that starts at or after a moment, or for the last one that starts before it.

        Args:
            symbol: a listed symbol.
            after_ms: 0 for the very first kline.
            before_ms: used when `after_ms` is None; None as well for the latest kline.

        Raises:
            TransientError: of the kind that happened.
            PermanentError: the exchange refuses the question.
        """
        reach = {"limit": 1}
        if after_ms is not None:
            reach["startTime"] = after_ms
        elif before_ms is not None:
            reach["endTime"] = before_ms - 1
        return await self._ask_klines(symbol, reach, Lane.BULK)

    async def tickers(self) -> Answer:
        """One request for what every symbol traded in the last 24 hours, as the exchange answers it.

        Raises:
            TransientError: of the kind that happened.
        """
        weight = _TICKER_WEIGHT[self.market]
        async with self.budget.spending(weight, Lane.BULK):
            self._count(weight)
            with our_errors(self.clock):
                value = await getattr(self.client, _TICKER_METHODS[self.market])()
        return Answer(value, utc_now())

    async def _ask_klines(self, symbol: Symbol, reach: Mapping[str, int], lane: Lane) -> Answer:
        weight = klines_weight(self.market, reach["limit"])
        question = {"symbol": self.listing[symbol].exchange_id, "interval": "1m", **reach}
        async with self.budget.spending(weight, lane):
            self._count(weight)
            with our_errors(self.clock):
                value = await getattr(self.client, _KLINES_METHODS[self.market])(question)
        return Answer(value, utc_now())

    def finished_until_ms(self) -> int:
        """The end of the last minute that is finished for sure, however wrong our knowledge of the exchange's clock."""
        return floor_to(self.clock.now_ms() - round(self.clock.uncertainty_s * 1000), MINUTE_MS)

    async def close(self) -> None:
        """Close every connection."""
        await self.client.close()

    async def _spend(self, weight: int) -> None:
        await self.budget.spend(weight)
        self._count(weight)

    def _count(self, weight: int) -> None:
        self.usage.requests += 1
        self.usage.weight += weight

    def _on_answer(self, status: int, headers: Mapping[str, str], body: str) -> None:
        """What the head of an answer says, before ccxt makes a value or an exception of the rest."""
        headers = {name.lower(): value for name, value in headers.items()}
        if headers.get(_USED_WEIGHT, "").isdigit():
            self.budget.observe(int(headers[_USED_WEIGHT]))
        if status in STOP_STATUSES:
            stop = STOP_STATUSES[status](
                f"the exchange answers {status}: {body[:200]}",
                retry_after_s=_retry_after_s(headers, self.clock),
                hint="lower OHLCV_WEIGHT_SHARE if other programs share this address",
            )
            self.budget.block(stop.retry_after_s)
            raise stop
        if status == 451:
            raise Refused(
                "the exchange does not serve this place (451)", hint="run where Binance is available, or use a replay"
            )


@asynccontextmanager
async def open_exchange(
    market: Market,
    settings: Settings,
    known: Mapping[Symbol, ListingTimes] | None = None,
    expected: Collection[Symbol] = (),
) -> AsyncIterator[Exchange]:
    """The exchange of `market`, with its clock measured and its listing loaded; closed at the end.

    Args:
        market: spot or futures.
        settings: `exchange_url` and `weight_share` are used.
        known: a universe's listing times, so that the past of its delisted symbols can be asked for.
        expected: a universe's symbols of this market: one that the exchange does not list is gone, and no error.

    Raises:
        UnknownSymbol: most of the expected symbols are not listed.
        ExchangeUnavailable: it cannot be reached.
        ClockUncertain: its clock cannot be measured.
    """
    url = settings.exchange_url.rstrip("/") if settings.exchange_url else None
    clock = await _measured(market, url)
    limit = int(settings.weight_share * WEIGHT_PER_MINUTE[market])
    pool = f"{(url or BASE_URLS[market]).split('://')[-1]} {market}"
    client = _rest_class()(ccxt_config(market, url))
    exchange = Exchange(market, clock, WeightBudget(shared_folder(), pool, limit, clock), client, url)
    exchange.known, exchange.expected = known or {}, expected
    try:
        await exchange.load_listing()
        _log.debug("exchange opened", market=market.value, symbols=len(exchange.listing), speed=clock.speed)
        yield exchange
    finally:
        await exchange.close()


async def _measured(market: Market, url: str | None) -> ExchangeClock:
    async for attempt in patiently(SystemClock(), attempts=3):
        with attempt:
            return await asyncio.to_thread(measure_clock, market, url)
    raise AssertionError("stamina either returns or raises")


def ccxt_config(market: Market, exchange_url: str | None) -> dict[str, Any]:
    """The configuration of ccxt for one market: our budget rules, so its own limiter and retries are off."""
    config: dict[str, Any] = {
        "enableRateLimit": False,
        "timeout": _TIMEOUT_MS,
        "number": str,
        # The replay exchange is on this machine or network; only the real one may be behind a proxy.
        "aiohttp_trust_env": exchange_url is None,
        "options": {
            "fetchMarkets": {"types": [CCXT_TYPES[market]]},
            "fetchCurrencies": False,
            "fetchMargins": False,
            "OHLCVLimit": 3,
            "ws": {"cost": 5, "compress": 0},
        },
        "streaming": {"keepAlive": 20_000},
    }
    if exchange_url is not None:
        config["urls"] = {"api": _replay_urls(exchange_url)}
    return config


def _replay_urls(url: str) -> dict[str, Any]:
    ws = re.sub("^http", "ws", url)
    return {
        "public": f"{url}/api/v3",
        "private": f"{url}/api/v3",
        "v1": f"{url}/api/v1",
        "fapiPublic": f"{url}/fapi/v1",
        "fapiPublicV2": f"{url}/fapi/v2",
        "fapiPublicV3": f"{url}/fapi/v3",
        "fapiPrivate": f"{url}/fapi/v1",
        "fapiData": f"{url}/futures/data",
        "dapiPublic": f"{url}/dapi/v1",
        "dapiPrivate": f"{url}/dapi/v1",
        "dapiData": f"{url}/futures/data",
        "eapiPublic": f"{url}/eapi/v1",
        "sapi": f"{url}/sapi/v1",
        # ccxt tells spot from futures by "/stream" in the address, and routes .../fstream/ws to .../fstream/market/ws.
        "ws": {
            "spot": f"{ws}/stream/ws",
            "margin": f"{ws}/stream/ws",
            "linear": f"{ws}/fstream/ws",
            "inverse": f"{ws}/dstream/ws",
        },
    }


@lru_cache(maxsize=1)
def _rest_class() -> type[Any]:
    """The Binance class of ccxt for REST, with a hook that sees status and headers of each answer, in that answer's own task."""
    import ccxt.async_support

    class Rest(ccxt.async_support.binance):  # type: ignore[misc]
        """The class itself; `on_answer(status, headers, body)` is called with every answer and may raise."""

        on_answer: Any = None
        # What ccxt waits after closing, for TLS connections to end.
        timeout_on_exit = 50

        def on_rest_response(self, code: int, reason: str, url: str, method: str, response_headers: Any, response_body: str, request_headers: Any, request_body: Any) -> str:  # fmt: skip
            """Hand status and headers to our hook (`ex.last_response_headers` would be another answer's)."""
            if self.on_answer is not None:
                self.on_answer(code, response_headers, response_body)
            body: str = super().on_rest_response(
                code, reason, url, method, response_headers, response_body, request_headers, request_body
            )
            return body

        def parse_json(self, http_response: str) -> Any:
            """Leave a page of klines the text that it came as: `Answer.value`."""
            return http_response if is_page(http_response) else super().parse_json(http_response)

    return Rest


@contextmanager
def our_errors(clock: ExchangeClock) -> Iterator[None]:
    """Turn whatever ccxt raises into the error of ours that it means.

    Raises:
        OhlcvError: of the kind in `errors.CCXT_ERRORS`.
    """
    from ccxt.base.errors import BaseError

    try:
        yield
    except BaseError as error:
        kind = meaning_of([cls.__name__ for cls in type(error).__mro__])
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        if issubclass(kind, RateLimited):
            raise kind(reason, retry_after_s=_retry_after_s({}, clock)) from error
        raise _explained(kind, reason) from error


def _explained(kind: type[OhlcvError], reason: str) -> OhlcvError:
    hint = "choose symbols that the exchange lists on this market" if issubclass(kind, UsageError) else None
    return kind(reason, hint=hint)


def _retry_after_s(headers: Mapping[str, str], clock: ExchangeClock) -> float:
    """What the answer asks for; without a figure, until the exchange's count begins anew at the full minute."""
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return (MINUTE_MS - clock.now_ms() % MINUTE_MS) / 1000
