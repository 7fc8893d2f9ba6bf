"""Binance's REST paths: ping, time, exchangeInfo, klines and ticker/24hr of spot, USD-M and (without symbols) COIN-M.

Lives here: HTTP. Every request is charged its weight before it is looked at, so that a refused one costs as well; every
answer carries the used weight and, which Binance never sends, `X-Replay-Speed`. Does not: which rows an
answer holds (klines.py), what a minute allows (weights.py), or how an answer is spoilt (faults/rest.py).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.clock import ReplayClock
from ohlcv_assets.replay.klines import ApiError, limit_of, page, read_query
from ohlcv_assets.replay.listing import ListingDocument, futures_listing, spot_listing
from ohlcv_assets.replay.script import Answer, Script
from ohlcv_assets.replay.tape import MarketTape
from ohlcv_assets.replay.ticker import futures_ticker_weight, spot_ticker_weight, ticker
from ohlcv_assets.replay.truth import empty_frame
from ohlcv_assets.replay.weights import Verdict, WeightPool, futures_klines_weight

SPEED_HEADER = "X-Replay-Speed"

#: Weight a minute of each pool; USD-M and COIN-M draw from one.
LIMITS: dict[Market, int] = {Market.SPOT: 6000, Market.FUTURES: 2400}

_PAGES_KEPT = 100_000

_Parameters = Mapping[str, str]
_Weight = Callable[[_Parameters], int]


@dataclass(frozen=True)
class _Venue:
    """One of Binance's REST hosts: its path prefix, its bars, what it lists, and what its requests cost."""

    prefix: str
    market: Market | None
    tape: MarketTape
    listing: Callable[[MarketTape], dict[str, Any]]
    pool: WeightPool
    listing_weight: int
    klines_weight: _Weight
    ticker_weight: _Weight
    used_weight_headers: tuple[str, ...]


_Answering = Callable[[_Venue, _Parameters, int], bytes]
_Changes = Mapping[str, Mapping[str, Any]]


class RestApi:
    """The REST side of the exchange.

    Args:
        tapes: the bars of each market.
        clock: the exchange's clock.
        script: what may go wrong.
    """

    def __init__(self, tapes: Mapping[Market, MarketTape], clock: ReplayClock, script: Script) -> None:
        self._clock = clock
        self._script = script
        self.pools = {market: WeightPool(limit) for market, limit in LIMITS.items()}
        self._venues = [_spot(tapes, self.pools), _usd_m(tapes, self.pools), _coin_m(self.pools)]
        self._listings: dict[str, tuple[_Changes, ListingDocument]] = {}  # the latest of each venue
        #: The pages that were asked for last, in order: market, the exchange's symbol, startTime and endTime.
        self.pages: deque[tuple[Market, str, int | None, int | None]] = deque(maxlen=_PAGES_KEPT)

    def add_routes(self, app: web.Application) -> None:
        """Put every path of every venue into the application."""
        for venue in self._venues:
            for name, weight, answer in (
                ("ping", _constant(1), self._ping),
                ("time", _constant(1), self._time),
                ("exchangeInfo", _constant(venue.listing_weight), self._exchange_info),
                ("klines", venue.klines_weight, self._klines),
                ("ticker/24hr", venue.ticker_weight, self._ticker),
                *((("uiKlines", venue.klines_weight, self._klines),) if venue.market is Market.SPOT else ()),
            ):
                endpoint = "klines" if name == "uiKlines" else name
                app.router.add_get(f"{venue.prefix}/{name}", self._handler(venue, endpoint, weight, answer))
        app.on_response_prepare.append(self._say_the_speed)

    def _handler(
        self, venue: _Venue, endpoint: str, weight: _Weight, answer: _Answering
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            now_ms = self._clock.now_ms()
            verdict = venue.pool.charge(weight(request.query), now_ms)
            headers = dict.fromkeys(venue.used_weight_headers, str(verdict.used))
            if verdict.status != 200:
                return _response(refusal(verdict, venue.pool.limit), headers)

            def true_answer() -> Answer:
                try:
                    return Answer(200, answer(venue, request.query, now_ms))
                except ApiError as error:
                    return error_answer(400, error.code, error.message)

            fault = self._script.rest_fault(venue.market, endpoint, request.query, now_ms)
            given = true_answer() if fault is None else await fault(request, true_answer, headers)
            return _response(given, headers) if isinstance(given, Answer) else given

        return handle

    async def _say_the_speed(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers[SPEED_HEADER] = f"{self._clock.speed:g}"

    def _ping(self, _venue: _Venue, _parameters: _Parameters, _now_ms: int) -> bytes:
        return b"{}"

    def _time(self, venue: _Venue, _parameters: _Parameters, now_ms: int) -> bytes:
        return b'{"serverTime":%d}' % (now_ms + self._script.time_offset_ms(venue.market, now_ms))

    def _exchange_info(self, venue: _Venue, _parameters: _Parameters, now_ms: int) -> bytes:
        changes = self._script.listing_changes(venue.market, now_ms)
        if self._listings.get(venue.prefix, (None,))[0] != changes:
            self._listings[venue.prefix] = changes, ListingDocument(venue.listing(venue.tape), changes)
        return self._listings[venue.prefix][1].at(now_ms)

    def _klines(self, venue: _Venue, parameters: _Parameters, now_ms: int) -> bytes:
        query = read_query(parameters, venue.tape)
        self.pages.append((venue.tape.market, query.tape.name, query.start_ms, query.end_ms))
        return f"[{','.join(page(query, venue.tape, self._script, now_ms))}]".encode()

    def _ticker(self, venue: _Venue, parameters: _Parameters, now_ms: int) -> bytes:
        return ticker(parameters, venue.tape, now_ms)


def _spot(tapes: Mapping[Market, MarketTape], pools: Mapping[Market, WeightPool]) -> _Venue:
    tape = tapes[Market.SPOT]
    return _Venue(
        prefix="/api/v3",
        market=Market.SPOT,
        tape=tape,
        listing=spot_listing,
        pool=pools[Market.SPOT],
        listing_weight=20,
        klines_weight=_constant(2),
        ticker_weight=spot_ticker_weight,
        used_weight_headers=("X-MBX-USED-WEIGHT", "X-MBX-USED-WEIGHT-1M"),
    )


def _usd_m(tapes: Mapping[Market, MarketTape], pools: Mapping[Market, WeightPool]) -> _Venue:
    tape = tapes[Market.FUTURES]
    return _Venue(
        prefix="/fapi/v1",
        market=Market.FUTURES,
        tape=tape,
        listing=futures_listing,
        pool=pools[Market.FUTURES],
        listing_weight=1,
        klines_weight=_by_limit,
        ticker_weight=futures_ticker_weight,
        used_weight_headers=("X-MBX-USED-WEIGHT-1M",),
    )


def _coin_m(pools: Mapping[Market, WeightPool]) -> _Venue:
    """COIN-M lists nothing here; it is there because stock clients ask for it, and its requests cost USD-M's weight."""
    tape = MarketTape(Market.FUTURES, empty_frame())
    return _Venue(
        prefix="/dapi/v1",
        market=None,
        tape=tape,
        listing=futures_listing,
        pool=pools[Market.FUTURES],
        listing_weight=1,
        klines_weight=_by_limit,
        ticker_weight=futures_ticker_weight,
        used_weight_headers=("X-MBX-USED-WEIGHT-1M",),
    )


def _constant(weight: int) -> _Weight:
    return lambda _parameters: weight


def _by_limit(parameters: _Parameters) -> int:
    return futures_klines_weight(limit_of(parameters))


def refusal(verdict: Verdict, limit: int) -> Answer:
    """429 or 418, with the seconds of the exchange's clock to stay away."""
    if verdict.status == 418:
        message = f"Way too much request weight used; IP banned until {verdict.banned_until_ms}. Please use WebSocket Streams for live updates to avoid bans."
    else:
        message = f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE. Please use WebSocket Streams for live updates to avoid polling the API."
    answer = error_answer(verdict.status, -1003, message)
    return answer._replace(headers={"Retry-After": str(verdict.retry_after_s)})


def error_answer(status: int, code: int, message: str) -> Answer:
    """An error as Binance tells it: an object with code and msg."""
    return Answer(status, json.dumps({"code": code, "msg": message}).encode())


def _response(answer: Answer, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        body=answer.body,
        status=answer.status,
        headers={**headers, **answer.headers},
        content_type=answer.content_type,
        charset="utf-8",
    )
