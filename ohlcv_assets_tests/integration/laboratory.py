"""A laboratory for the replay exchange's faults: one exchange in the test's own event loop, and raw clients of it.

Lives here: `Lab`, what came over a bare socket, and the register of cases. Does not: any case (fault_cases_*.py) or test
(test_replay_faults.py). REST is asked over bare sockets, for a client library would hide a reset by asking again.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType

from ohlcv_assets.bars import VALUES
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.faults.catalogue import FAULTS, Kind
from ohlcv_assets.replay.faults.history import settled_truth
from ohlcv_assets.replay.faults.rules import parse_rules
from ohlcv_assets.replay.faults.script import FaultScript
from ohlcv_assets.replay.server import ReplayExchange
from ohlcv_assets.replay.truth import exchange_symbol, generate_truth
from ohlcv_assets.timestamps import MINUTE_MS, floor_to, parse_time

TRUTH = generate_truth(symbols=3, days=1, seed=7, first_day=date(2025, 6, 1))
NOON_MS = parse_time("2025-06-01T12:00Z")
PATIENCE_S = 20
REST = {Market.SPOT: "/api/v3", Market.FUTURES: "/fapi/v1"}
STREAMS = {Market.SPOT: "/stream", Market.FUTURES: "/fstream/market/stream"}
BOTH_SYMBOLS = "btcusdt@kline_1m/ethusdt@kline_1m"


@dataclass
class Raw:
    """What came over a bare socket: the status, headers in lower case, the body, and whether a reset ended it."""

    status: int
    headers: dict[str, str]
    body: bytes
    reset: bool

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Lab:
    """A running exchange, and the questions that the cases ask it."""

    def __init__(self, url: str, exchange: ReplayExchange, script: FaultScript) -> None:
        self.url = url
        self.clock = exchange.clock
        self.exchange = exchange
        self.script = script

    async def call(self, method: str, path: str, rules: Any = None) -> Any:
        """Ask the control port."""
        async with aiohttp.ClientSession() as session, session.request(method, self.url + path, json=rules) as answer:
            return await answer.json()

    async def inject(self, fault: str, **fields: Any) -> None:
        """Add one rule over HTTP, by default from the minute that is now; `start` and `end` stand for `from` and `until`."""
        if FAULTS[fault].kind is Kind.BAR:
            fields.setdefault("start", floor_to(self.clock.now_ms(), MINUTE_MS))
        renamed = {{"start": "from", "end": "until"}.get(name, name): value for name, value in fields.items()}
        answer = await self.call("POST", "/_replay/faults", [{"fault": fault, **renamed}])
        assert list(answer) == ["ids"], answer

    async def clear(self) -> None:
        """End all rules."""
        await self.call("DELETE", "/_replay/faults")

    async def get(self, path: str, **parameters: Any) -> Raw:
        """One GET over a connection of its own, until it ends."""
        target = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(target.hostname, target.port)
        query = f"?{urlencode(parameters)}" if parameters else ""
        writer.write(f"GET {path}{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return await read_raw(reader, writer)

    async def klines(self, market: Market = Market.FUTURES, **parameters: Any) -> Raw:
        """One page of klines, of BTCUSDT unless said otherwise."""
        return await self.get(
            f"{REST[market]}/klines", **{"symbol": "BTCUSDT", "interval": "1m", "limit": 5} | parameters
        )

    @asynccontextmanager
    async def socket(
        self, market: Market = Market.SPOT, streams: str = BOTH_SYMBOLS
    ) -> AsyncIterator[ClientWebSocketResponse]:
        """A WebSocket that does not answer pings by itself, subscribed."""
        query = f"?streams={streams}" if streams else ""
        async with aiohttp.ClientSession() as session:
            socket = await session.ws_connect(self.url + STREAMS[market] + query, autoping=False)
            try:
                yield socket
            finally:
                socket._response.close()

    async def minutes(self, count: float) -> None:
        """Let minutes of the exchange pass."""
        await self.until(self.clock.now_ms() + count * MINUTE_MS)

    async def until(self, moment_ms: float) -> None:
        """Wait for a moment of the exchange."""
        while self.clock.now_ms() <= moment_ms:  # noqa: ASYNC110 - the exchange's clock rings no bell
            await asyncio.sleep(0.01)

    async def ledger(self, fault: str) -> list[dict[str, Any]]:
        """The fault's entries."""
        return [entry for entry in await self.call("GET", "/_replay/ledger") if entry["fault"] == fault]

    def settled(self, market: Market, symbol: str = "BTCUSDT") -> dict[int, tuple[Any, ...]]:
        """A symbol's values by minute as they are at last."""
        frame = settled_truth(TRUTH, parse_rules(self.script.rules()), seed=self.script.seed)[market]
        rows = frame.select("symbol", "timestamp", *VALUES).iter_rows()
        return {start_ms: tuple(values) for name, start_ms, *values in rows if exchange_symbol(name) == symbol}


@asynccontextmanager
async def laboratory(speed: float = 120) -> AsyncIterator[Lab]:
    """An exchange in this event loop, at noon."""
    script = FaultScript(7)
    replay = ReplayExchange(TRUTH, start_ms=NOON_MS, speed=speed, script=script)
    listening = await replay.listen("127.0.0.1", 0)
    try:
        yield Lab(listening.url, replay, script)
    finally:
        await replay.close()


async def read_raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Raw:
    """Everything until the end of a connection; a 101 is returned when its headers are there."""
    data, reset = b"", False
    try:
        while chunk := await asyncio.wait_for(reader.read(65_536), PATIENCE_S):
            data += chunk
            if data.startswith(b"HTTP/1.1 101") and b"\r\n\r\n" in data:
                break
    except ConnectionResetError:
        reset = True
    if not data.startswith(b"HTTP/1.1 101"):
        writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(re.split(r":\s*", line.lower(), maxsplit=1) for line in lines[1:])
    return Raw(int(lines[0].split()[1]) if data else 0, headers, body, reset)


async def shake_hands(
    lab: Lab, path: str = "/ws/btcusdt@kline_1m"
) -> tuple[Raw, asyncio.StreamReader, asyncio.StreamWriter]:
    """The first bytes of a WebSocket over a bare socket."""
    target = urlsplit(lab.url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    return await read_raw(reader, writer), reader, writer


async def message(socket: ClientWebSocketResponse) -> aiohttp.WSMessage:
    """The next message but pings, which are answered."""
    while (got := await asyncio.wait_for(socket.receive(), PATIENCE_S)).type is WSMsgType.PING:
        await socket.pong(got.data)
    return got


async def event(socket: ClientWebSocketResponse) -> dict[str, Any]:
    """The next kline event."""
    while True:
        got = await message(socket)
        assert got.type is WSMsgType.TEXT, got
        data = json.loads(got.data)
        if "data" in data:
            return data["data"]


async def closed_events(socket: ClientWebSocketResponse, count: int, symbol: str = "BTCUSDT") -> list[dict[str, Any]]:
    """The next closing events of a symbol."""
    closed: list[dict[str, Any]] = []
    while len(closed) < count:
        each = await event(socket)
        closed += [each] if each["k"]["x"] and each["s"] == symbol else []
    return closed


async def drain(socket: ClientWebSocketResponse, lab: Lab, minutes: float) -> list[aiohttp.WSMessage]:
    """Everything that comes while minutes of the exchange pass, pings left out and unanswered."""
    got: list[aiohttp.WSMessage] = []
    wait_s = lab.clock.wall_s(minutes * MINUTE_MS)
    try:
        async with asyncio.timeout(wait_s):
            while True:
                each = await socket.receive()
                got += [] if each.type is WSMsgType.PING else [each]
    except TimeoutError:
        return got


async def ending(socket: ClientWebSocketResponse) -> tuple[WSMsgType, int | None, list[str]]:
    """How the server ended a connection: by which message, with which code, and the special events before."""
    said: list[str] = []
    while (got := await message(socket)).type is WSMsgType.TEXT:
        data = json.loads(got.data)
        said += [data["e"]] if "e" in data else []
    return got.type, socket.close_code, said


def values(row: list[Any]) -> tuple[Any, ...]:
    """The nine values of a REST row."""
    return (*map(float, row[1:6]), float(row[7]), row[8], float(row[9]), float(row[10]))


def event_values(k: dict[str, Any]) -> tuple[Any, ...]:
    """The nine values of an event."""
    return (*(float(k[name]) for name in "ohlcvq"), k["n"], float(k["V"]), float(k["Q"]))


Case = Callable[[Lab], Awaitable[None]]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Register a case under its fault's name."""
    CASES[function.__name__] = function
    return function
