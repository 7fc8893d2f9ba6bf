"""Binance's WebSocket protocol: paths, subscriptions, acks that prove nothing, limits, pings and the end of a connection.

Lives here: what a connection may ask and what it is answered. Does not: events (pump.py). The rules, and where they are not the
documented ones but what was observed:

- a request is acked whatever it names; a stream that does not exist, or a path that carries no klines, stays silent
- a client frame of more than 4,096 bytes is ignored without a word (observed)
- the 1,025th stream and a message too many end the connection with 1008; USD-M lets 15 messages through (observed)
- the server pings every 20 s (spot) or 3 min (USD-M) and closes when no pong comes; a connection lives 24 h, its end is
  announced by `serverShutdown`

All these times are the exchange's, but pings are at least one wall second apart and a pong may always take ten.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import WSMessage, WSMsgType, web

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay import tcp
from ohlcv_assets.replay.clock import ReplayClock
from ohlcv_assets.replay.hub import Connection, Hub
from ohlcv_assets.replay.script import Script
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS

LONGEST_FRAME_BYTES = 4_096
POLICY_VIOLATION, GOING_AWAY, TRY_AGAIN_LATER = 1008, 1001, 1013
NOTICE_MS = 10_000  # between serverShutdown and the end

_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")


@dataclass(frozen=True)
class Rules:
    """What a market's stream host demands of a connection; times in exchange milliseconds, or seconds of the wall."""

    ping_ms: int
    pong_within_ms: int
    messages_a_second: int
    most_streams: int = 1024
    lifetime_ms: int = DAY_MS
    least_ping_wall_s: float = 1.0
    least_pong_wall_s: float = 10.0


RULES: dict[Market, Rules] = {
    Market.SPOT: Rules(ping_ms=20_000, pong_within_ms=MINUTE_MS, messages_a_second=5),
    Market.FUTURES: Rules(ping_ms=3 * MINUTE_MS, pong_within_ms=10 * MINUTE_MS, messages_a_second=15),
}


@dataclass(frozen=True)
class _Path:
    """A path that can be connected to: whose rules hold, whether klines flow, and the payload's form."""

    market: Market
    carries_klines: bool
    combined: bool


_PATHS: dict[str, _Path] = {
    "/ws": _Path(Market.SPOT, True, False),
    "/stream": _Path(Market.SPOT, True, True),
    "/stream/ws": _Path(Market.SPOT, True, False),
    "/stream/stream": _Path(Market.SPOT, True, True),
    **{
        f"/fstream{route}{form}": _Path(Market.FUTURES, route == "/market", form == "/stream")
        for route in ("/market", "/public", "/private", "")
        for form in ("/ws", "/stream")
    },
    "/dstream/ws": _Path(Market.FUTURES, False, False),
    "/dstream/stream": _Path(Market.FUTURES, False, True),
}


class ProtocolError(Exception):
    """A request that is answered with an error object; `ends` when the connection is closed as well."""

    def __init__(self, code: int, message: str, *, ends: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.ends = ends


class StreamApi:
    """The WebSocket side of the exchange.

    Args:
        hubs: each market's subscriptions.
        clock: the exchange's clock.
        script: what may go wrong.
        rules: what each market demands of a connection.
    """

    def __init__(
        self,
        hubs: Mapping[Market, Hub],
        clock: ReplayClock,
        script: Script,
        rules: Mapping[Market, Rules] | None = None,
    ) -> None:
        self._hubs = hubs
        self._script = script
        self._clock = clock
        self._rules = rules or RULES
        self.connections: dict[Connection, Market] = {}
        self.opened = 0

    def add_routes(self, app: web.Application) -> None:
        """Put every path into the application; what follows a path names streams, or is a number and ignored."""
        for path in sorted(_PATHS, key=len, reverse=True):  # /stream/ws before /stream
            app.router.add_get(path, self._handle)
            app.router.add_get(f"{path}/{{streams:.+}}", self._handle)

    def abort(self) -> None:
        """Cut every connection at once, without a goodbye."""
        for connection in list(self.connections):
            connection.cut()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        streams = request.match_info.get("streams", "")
        path = _PATHS[request.path.removesuffix(streams).rstrip("/")]
        opened_ms = self._clock.now_ms()
        refusal = self._script.refusal(path.market, opened_ms)
        if refusal is not None:
            return await _refuse_connection(request, refusal)
        socket = web.WebSocketResponse(autoping=False, compress=False)
        await socket.prepare(request)
        hub = self._hubs[path.market] if path.carries_klines else None
        connection = Connection(
            socket, request.transport, market=path.market, opened_ms=opened_ms, combined=path.combined, hub=hub
        )
        self.connections[connection] = path.market
        self.opened += 1
        self._script.connection_opened(connection)
        session = _Session(connection, self._rules[path.market], self._clock, self._script)
        try:
            await session.run(_streams_in_url(streams, request.query.get("streams", "")))
        finally:
            del self.connections[connection]
            connection.unsubscribe(connection.streams)
        return socket


async def _refuse_connection(request: web.Request, how: str) -> web.StreamResponse:
    """Send a client away that wants a WebSocket: with a reset, with a status, or with a close right after the handshake."""
    if how == "status":
        page = "<html><body>503 Service Temporarily Unavailable</body></html>"
        response = web.Response(status=503, text=page, content_type="text/html")
        response.force_close()
        return response
    if how == "close":
        socket = web.WebSocketResponse(autoping=False, compress=False)
        await socket.prepare(request)
        await socket.close(code=TRY_AGAIN_LATER, message=b"Try again later")
        return socket
    tcp.reset(request.transport)
    return web.Response()


def _streams_in_url(tail: str, query: str) -> list[str]:
    """The streams that a URL names: /ws/a@x/b@y or ?streams=a@x/b@y; a bare number is a client's counter."""
    return [stream for stream in [*tail.split("/"), *query.split("/")] if "@" in stream]


class _Session:
    """One connection's life: its requests answered, its limits kept, pings sent, its end."""

    def __init__(self, connection: Connection, rules: Rules, clock: ReplayClock, script: Script) -> None:
        self._connection = connection
        self._script = script
        self._rules = rules
        self._clock = clock
        self._arrivals: deque[int] = deque()
        self._answered = asyncio.Event()  # a pong came since the last ping

    async def run(self, streams: list[str]) -> None:
        """Serve until either side closes."""
        helpers = [
            asyncio.create_task(each)
            for each in (self._connection.write_until_closed(), self._ping(), self._grow_old())
        ]
        try:
            if await self._subscribe_by_url(streams):
                await self._read_until_hung_up()
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        if self._connection.farewell is not None:
            code, reason = self._connection.farewell
            await self._connection.socket.close(code=code, message=reason)

    async def _subscribe_by_url(self, streams: list[str]) -> bool:
        try:
            self._subscribe(streams)
        except ProtocolError as error:
            await self._refuse(error, None)
            return False
        return True

    async def _read_until_hung_up(self) -> None:
        """Read until the client closes, or until the exchange hangs up."""
        self._connection.reading = asyncio.create_task(self._read())
        try:
            await self._connection.reading
        except asyncio.CancelledError:
            if self._connection.farewell is None:
                raise

    async def _read(self) -> None:
        async for message in self._connection.socket:
            await self._connection.thawed.wait()
            if self._too_many_messages():
                await self._connection.socket.close(code=POLICY_VIOLATION, message=b"Too many requests")
                return
            if message.type is WSMsgType.PING:
                await self._connection.socket.pong(message.data)
            elif message.type is WSMsgType.PONG:
                self._answered.set()
            elif not await self._answer(message):
                return

    def _too_many_messages(self) -> bool:
        now_ms = self._clock.now_ms()
        self._arrivals.append(now_ms)
        while self._arrivals[0] <= now_ms - 1000:
            self._arrivals.popleft()
        limit = self._script.message_limit(self._connection.market, now_ms)
        if limit is not None and len(self._arrivals) > limit:
            self._script.too_many_messages(self._connection)
            return True
        return len(self._arrivals) > self._rules.messages_a_second

    async def _answer(self, message: WSMessage) -> bool:
        """Answer a request; whether the connection goes on."""
        data = message.data if isinstance(message.data, bytes) else str(message.data).encode()
        if len(data) > LONGEST_FRAME_BYTES:
            return True
        request_id: Any = None
        try:
            request = _parsed(data)
            request_id = request.get("id")
            self._connection.push(_text({"result": self._result(request), "id": request_id}))
        except ProtocolError as error:
            await self._refuse(error, request_id)
            return not error.ends
        return True

    async def _refuse(self, error: ProtocolError, request_id: Any) -> None:
        answer: dict[str, Any] = {"error": {"code": error.code, "msg": error.message}}
        if request_id is not None:
            answer["id"] = request_id
        if error.ends:
            with suppress(ConnectionError):
                await self._connection.socket.send_str(_text(answer))
            await self._connection.socket.close(code=POLICY_VIOLATION, message=error.message.encode())
        else:
            self._connection.push(_text(answer))

    def _result(self, request: dict[str, Any]) -> Any:
        method, connection = request.get("method"), self._connection
        if method == "LIST_SUBSCRIPTIONS":
            return list(connection.streams)
        if method == "SUBSCRIBE":
            self._subscribe(_stream_names(request))
        elif method == "UNSUBSCRIBE":
            connection.unsubscribe(_stream_names(request))
        elif method == "GET_PROPERTY":
            return connection.combined
        elif method == "SET_PROPERTY":
            connection.combined = _combined(request)
        else:
            variants = ", ".join(f"`{name}`" for name in _METHODS)
            raise ProtocolError(2, f"Invalid request: unknown variant `{method}`, expected one of {variants}")
        return None

    def _subscribe(self, streams: list[str]) -> None:
        if len(self._connection.streams.keys() | set(streams)) > self._rules.most_streams:
            raise ProtocolError(4, "Too many subscriptions", ends=True)
        now_ms, market = self._clock.now_ms(), self._connection.market
        self._connection.subscribe(streams, {each for each in streams if self._script.loses(market, each, now_ms)})

    async def _ping(self) -> None:
        """Ping for ever; end the connection when a pong does not come."""
        socket = self._connection.socket
        while not socket.closed:
            await self._wait(self._rules.ping_ms, self._rules.least_ping_wall_s)
            await self._connection.thawed.wait()
            self._answered.clear()
            await socket.ping()
            patience_s = max(self._clock.wall_s(self._rules.pong_within_ms), self._rules.least_pong_wall_s)
            try:
                await asyncio.wait_for(self._answered.wait(), patience_s)
            except TimeoutError:
                if not self._connection.thawed.is_set():
                    continue  # nobody is reading: the pong may be there
                self._connection.cut()
                return

    async def _grow_old(self) -> None:
        """End the connection when its life is over."""
        await self._wait(self._rules.lifetime_ms - NOTICE_MS)
        self._connection.push(server_shutdown(self._clock.now_ms()))
        await self._wait(NOTICE_MS)
        self._connection.hang_up(GOING_AWAY, b"Connection lifetime is over")

    async def _wait(self, delay_ms: int, least_wall_s: float = 0.0) -> None:
        """Wait exchange milliseconds, looking at the clock's speed every now and then, for it may change."""
        remaining_ms = float(delay_ms)
        while remaining_ms > 0:
            pause_s = min(5.0, max(self._clock.wall_s(remaining_ms), 0.001))
            before_ms = self._clock.now_ms()
            await asyncio.sleep(pause_s)
            remaining_ms -= self._clock.now_ms() - before_ms
            least_wall_s -= pause_s
        await asyncio.sleep(max(0.0, least_wall_s))


def server_shutdown(now_ms: int) -> str:
    """The event by which the exchange announces that it is about to close a connection."""
    return _text({"e": "serverShutdown", "E": now_ms})


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        request = json.loads(data)
    except ValueError as error:
        raise ProtocolError(3, "Invalid JSON: expected value at line 1 column 1") from error
    if not isinstance(request, dict):
        raise ProtocolError(2, "Invalid request: expected an object")
    return request


def _stream_names(request: dict[str, Any]) -> list[str]:
    names = request.get("params")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ProtocolError(2, "Invalid request: params must be a list of stream names")
    return names


def _combined(request: dict[str, Any]) -> bool:
    match request.get("params"):
        case ["combined", bool(value)]:
            return value
        case ["combined", _]:
            raise ProtocolError(1, "Invalid value type: expected Boolean")
        case _:
            raise ProtocolError(0, "Unknown property")


def _text(answer: dict[str, Any]) -> str:
    return json.dumps(answer, separators=(",", ":"))
