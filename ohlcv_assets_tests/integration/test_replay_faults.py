"""Every fault of the replay exchange on the wire: injected once, seen by a raw client, and written in the ledger.

Lives here: one case a fault, by its name; a fault without a case fails. The exchanges run in the test's own event loop, but
for the last tests, which drive the command and the fixture's handle. REST is asked over bare sockets, for a
client library would hide a reset by asking again.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import polars as pl
import pytest
import requests
from aiohttp import ClientWebSocketResponse, WSMsgType

from ohlcv_assets.bars import VALUES
from ohlcv_assets.cli import main
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.faults.catalogue import FAULTS, Kind
from ohlcv_assets.replay.faults.history import settled_truth
from ohlcv_assets.replay.faults.rules import parse_rules
from ohlcv_assets.replay.faults.script import FaultScript
from ohlcv_assets.replay.server import ReplayExchange
from ohlcv_assets.replay.truth import exchange_symbol, generate_truth
from ohlcv_assets.timestamps import MINUTE_MS, floor_to, parse_time
from ohlcv_assets_tests.fixtures.replay import ReplayFactory

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


@case
async def ws_close(lab: Lab) -> None:
    """An orderly close with the code that was asked for; the other market's connection lives."""
    async with lab.socket() as spot, lab.socket(Market.FUTURES) as futures:
        await lab.inject("ws_close", market="spot", code=1001)
        assert (await ending(spot))[:2] == (WSMsgType.CLOSE, 1001)
        await event(futures)


@case
async def ws_reset(lab: Lab) -> None:
    """The bare socket reads a reset, not an end."""
    _, reader, writer = await shake_hands(lab)
    await lab.inject("ws_reset")
    assert (await read_raw(reader, writer)).reset


@case
async def ws_half_open(lab: Lab) -> None:
    """Nothing comes, not even a pong, and the socket is open; a new connection works; what TCP kept comes at the end."""
    async with lab.socket() as socket:
        await lab.inject("ws_half_open")
        await drain(socket, lab, 0.25)  # what was on its way
        await socket.ping(b"anyone?")
        assert await drain(socket, lab, 2) == []
        assert not socket.closed
        async with lab.socket() as other:
            await event(other)
        await lab.clear()
        got = await drain(socket, lab, 1)
        assert any(each.type is WSMsgType.PONG and each.data == b"anyone?" for each in got)
        assert any(each.type is WSMsgType.TEXT for each in got)


@case
async def ws_silent(lab: Lab) -> None:
    """Pongs and acks come, and no event; afterwards events come again, and those in between are lost."""
    async with lab.socket() as socket:
        await event(socket)
        await lab.inject("ws_silent")
        await drain(socket, lab, 0.25)
        silent_from_ms = lab.clock.now_ms()
        await socket.ping(b"anyone?")
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 5})
        got = await drain(socket, lab, 2)
        assert {each.type for each in got} == {WSMsgType.PONG, WSMsgType.TEXT}
        assert [json.loads(each.data)["id"] for each in got if each.type is WSMsgType.TEXT] == [5]
        await lab.clear()
        assert (await event(socket))["E"] >= silent_from_ms + 2 * MINUTE_MS - 1000


@case
async def ws_stall(lab: Lab) -> None:
    """Nothing comes while it lasts; at its end all comes at once, in order, nothing missing."""
    async with lab.socket() as socket:
        await event(socket)
        start_ms = lab.clock.now_ms()
        await lab.inject("ws_stall", start=start_ms, end=start_ms + 3 * MINUTE_MS)
        await drain(socket, lab, 0.25)
        assert await drain(socket, lab, 1.5) == []
        closed = await closed_events(socket, 3)
        minutes = [each["k"]["t"] for each in closed]
        assert minutes == [minutes[0] + n * MINUTE_MS for n in range(3)]
        assert closed[0]["E"] < start_ms + 2 * MINUTE_MS


@case
async def ws_refuse(lab: Lab) -> None:
    """An outage resets what is open and refuses what is new, each way as it should look; REST goes on."""
    _, reader, writer = await shake_hands(lab)
    await lab.inject("ws_refuse")
    assert (await read_raw(reader, writer)).reset
    raw, _, _ = await shake_hands(lab)
    assert (raw.status, raw.reset) == (0, True)
    assert (await lab.klines()).status == 200
    await lab.clear()
    await lab.inject("ws_refuse", how="status", cut=False)
    assert (await shake_hands(lab))[0].status == 503
    await lab.clear()
    await lab.inject("ws_refuse", how="close", cut=False)
    async with lab.socket() as socket:
        assert (await ending(socket))[:2] == (WSMsgType.CLOSE, 1013)
    await lab.clear()
    async with lab.socket() as socket:
        await event(socket)


@case
async def ws_cut_24h(lab: Lab) -> None:
    """A connection hears serverShutdown and ends when it reaches the age, opened before the rule or after it."""
    async with lab.socket() as before:
        await lab.inject("ws_cut_24h", lifetime_s=120)
        async with lab.socket() as after:
            opened_ms = lab.clock.now_ms()
            for socket in (before, after):
                assert await ending(socket) == (WSMsgType.CLOSE, 1001, ["serverShutdown"])
            assert lab.clock.now_ms() >= opened_ms + 110_000


@case
async def ws_server_shutdown(lab: Lab) -> None:
    """The event first, events go on, then the close."""
    async with lab.socket() as socket:
        start_ms = lab.clock.now_ms()
        await lab.inject("ws_server_shutdown", notice_s=60)
        assert await ending(socket) == (WSMsgType.CLOSE, 1001, ["serverShutdown"])
        assert lab.clock.now_ms() >= start_ms + MINUTE_MS


@case
async def ws_drop_subscription(lab: Lab) -> None:
    """The ack comes and the stream is listed, its events never come; the other stream's do; an existing one dies as well."""
    async with lab.socket(streams="") as socket:
        await lab.inject("ws_drop_subscription", symbols=["BTCUSDT"])
        await socket.send_json({"method": "SUBSCRIBE", "params": BOTH_SYMBOLS.split("/"), "id": 1})
        assert json.loads((await message(socket)).data) == {"result": None, "id": 1}
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 2})
        got = [json.loads(each.data) for each in await drain(socket, lab, 2)]
        assert [each["result"] for each in got if "id" in each] == [BOTH_SYMBOLS.split("/")]
        assert {each["data"]["s"] for each in got if "data" in each} == {"ETHUSDT"}
        await lab.inject("ws_drop_subscription", symbols=["ETHUSDT"], existing=True)
        await drain(socket, lab, 0.25)
        assert await drain(socket, lab, 1) == []


@case
async def ws_message_rate(lab: Lab) -> None:
    """The message beyond the limit ends the connection with 1008."""
    async with lab.socket(streams="") as socket:
        await lab.inject("ws_message_rate", messages_a_second=0)
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        assert (await ending(socket))[:2] == (WSMsgType.CLOSE, 1008)


@case
async def never_closed(lab: Lab) -> None:
    """The symbol's bars so far come, its x:true does not; the other symbol's does."""
    await lab.inject("never_closed", symbols=["BTCUSDT"], market="spot")
    async with lab.socket() as socket:
        events = []
        while sum(each["k"]["x"] for each in events) < 3:
            events.append(await event(socket))
    assert {each["s"] for each in events if each["k"]["x"]} == {"ETHUSDT"}
    assert len({each["k"]["t"] for each in events if each["s"] == "BTCUSDT"}) >= 3


@case
async def late_close(lab: Lab) -> None:
    """x:true comes later than usual, with the true values."""
    await lab.inject("late_close", median_s=20, tail_s=20.1, never=0)
    truth = lab.settled(Market.SPOT)
    async with lab.socket() as socket:
        for each in await closed_events(socket, 2):
            assert each["E"] >= each["k"]["T"] + 19_000
            assert event_values(each["k"]) == truth[each["k"]["t"]]


@case
async def duplicate_close(lab: Lab) -> None:
    """The very same closing event comes again, but for the time at which it was sent."""
    await lab.inject("duplicate_close", copies=2)
    async with lab.socket() as socket:
        events = await closed_events(socket, 3)
    assert events[0]["k"] == events[1]["k"] == events[2]["k"]
    assert events[0]["E"] < events[1]["E"] < events[2]["E"]


@case
async def out_of_order(lab: Lab) -> None:
    """The bar's closing event comes after the next bar's."""
    minute_ms = floor_to(lab.clock.now_ms(), MINUTE_MS) + MINUTE_MS
    await lab.inject("out_of_order", start=minute_ms, end=minute_ms + MINUTE_MS)
    async with lab.socket() as socket:
        minutes = [each["k"]["t"] for each in await closed_events(socket, 3)]
    assert minutes.index(minute_ms + MINUTE_MS) < minutes.index(minute_ms)


@case
async def late_trade(lab: Lab) -> None:
    """The event and REST have fewer trades at first, and REST the truth afterwards; with event: final only REST is early."""
    for kind in ("early", "final"):
        minute_ms = floor_to(lab.clock.now_ms(), MINUTE_MS) + MINUTE_MS
        await lab.inject("late_trade", settle_s=150, event=kind, start=minute_ms, end=minute_ms + MINUTE_MS)
        async with lab.socket(Market.FUTURES) as socket:
            while (closed := (await closed_events(socket, 1))[0])["k"]["t"] < minute_ms:
                pass
        truth = lab.settled(Market.FUTURES)[minute_ms]
        (row,) = (await lab.klines(startTime=minute_ms, limit=1)).json()
        assert row[8] < truth[6]
        assert event_values(closed["k"]) == (values(row) if kind == "early" else truth)
        await lab.until(minute_ms + MINUTE_MS + 150_000)
        (row,) = (await lab.klines(startTime=minute_ms, limit=1)).json()
        assert values(row) == truth


async def stay_away(lab: Lab, fault: str, status: int) -> None:
    """The status, Retry-After and -1003; an early second request is refused again and written down as such; then all is well."""
    await lab.inject(fault, retry_after_s=90, count=1)
    for asked_before in (False, True):
        raw = await lab.klines()
        assert (raw.status, raw.json()["code"]) == (status, -1003)
        assert raw.headers["x-mbx-used-weight-1m"]
        assert asked_before or raw.headers["retry-after"] == "90"
        banned = re.search(r"IP banned until (\d+)", raw.json()["msg"])
        assert (banned is not None) == (status == 418)
        until_ms = (await lab.ledger(fault))[-1]["at_ms"] + 1000 * int(raw.headers["retry-after"])
        assert banned is None or int(banned[1]) == until_ms
    await lab.until(until_ms)
    assert (await lab.klines()).status == 200
    assert [e["detail"].startswith("asked too early") for e in await lab.ledger(fault)] == [False, True]


@case
async def rest_429(lab: Lab) -> None:
    """429 is meant."""
    await stay_away(lab, "rest_429", 429)


@case
async def rest_418(lab: Lab) -> None:
    """418 is meant, and says until when."""
    await stay_away(lab, "rest_418", 418)


async def one_page(lab: Lab, fault: str, **fields: Any) -> Raw:
    """The answer to the one request that the fault hits; the next one is healthy."""
    await lab.inject(fault, count=1, **fields)
    raw = await lab.klines()
    healthy = await lab.klines()
    assert (healthy.status, len(healthy.json())) == (200, 5)
    return raw


@case
async def rest_5xx(lab: Lab) -> None:
    """The status with an HTML page; a request for another endpoint is not hit."""
    await lab.inject("rest_5xx", status=502, endpoints=["time"])
    assert (await lab.klines()).status == 200
    raw = await lab.get("/fapi/v1/time")
    assert (raw.status, raw.headers["content-type"][:9]) == (502, "text/html")
    assert b"502 Bad Gateway" in raw.body


@case
async def rest_403(lab: Lab) -> None:
    """The firewall's page."""
    raw = await one_page(lab, "rest_403")
    assert (raw.status, raw.headers["content-type"][:9]) == (403, "text/html")
    assert b"Request blocked" in raw.body


@case
async def rest_timeout(lab: Lab) -> None:
    """No byte comes, until the rule ends or its patience does: then a reset."""
    await lab.inject("rest_timeout", hang_s=60)
    start_ms = lab.clock.now_ms()
    raw = await lab.klines()
    assert (raw.status, raw.reset) == (0, True)
    assert lab.clock.now_ms() >= start_ms + MINUTE_MS
    await lab.inject("rest_timeout", symbols=["ETHUSDT"])
    hanging = asyncio.create_task(lab.klines(symbol="ETHUSDT"))
    await lab.minutes(1)
    assert not hanging.done()
    await lab.clear()
    assert (await hanging).reset


@case
async def rest_reset(lab: Lab) -> None:
    """A reset in place of an answer."""
    raw = await one_page(lab, "rest_reset")
    assert (raw.status, raw.reset) == (0, True)


@case
async def rest_truncated(lab: Lab) -> None:
    """Content-Length promises more than comes."""
    raw = await one_page(lab, "rest_truncated", share=0.3)
    assert raw.status == 200
    assert 0 < len(raw.body) < int(raw.headers["content-length"])
    assert len(raw.body) == int(0.3 * int(raw.headers["content-length"]))


@case
async def rest_html(lab: Lab) -> None:
    """200, and no JSON."""
    raw = await one_page(lab, "rest_html")
    assert (raw.status, raw.headers["content-type"][:9], raw.body[:9]) == (200, "text/html", b"<!DOCTYPE")


@case
async def rest_empty(lab: Lab) -> None:
    """200, and nothing."""
    raw = await one_page(lab, "rest_empty")
    assert (raw.status, raw.headers["content-length"], raw.body) == (200, "0", b"")


@case
async def rest_null(lab: Lab) -> None:
    """200, and null."""
    raw = await one_page(lab, "rest_null")
    assert (raw.status, raw.body) == (200, b"null")


@case
async def rest_short_page(lab: Lab) -> None:
    """Rows are missing at the start, in the middle, or from the end on; the others are untouched."""
    span = {"startTime": NOON_MS - 5 * MINUTE_MS, "endTime": NOON_MS - 1}
    whole = (await lab.klines(**span)).json()
    for where, kept in (("start", whole[2:]), ("middle", [whole[0], *whole[3:]]), ("end", whole[:3])):
        await lab.inject("rest_short_page", drop=2, where=where, count=1)
        assert (await lab.klines(**span)).json() == kept
        assert (await lab.klines(**span)).json() == whole
    assert [e["minute_ms"] for e in await lab.ledger("rest_short_page")] == [whole[n][0] for n in (0, 1, 3)]


@case
async def rest_empty_list(lab: Lab) -> None:
    """An empty page of a range that has bars; one that is empty by itself is no fault."""
    await lab.inject("rest_empty_list", count=1)
    assert (await lab.klines(startTime=NOON_MS + 1000 * MINUTE_MS)).json() == []
    assert await lab.ledger("rest_empty_list") == []
    assert (await lab.klines()).json() == []
    assert len((await lab.klines()).json()) == 5


@case
async def rest_error_code(lab: Lab) -> None:
    """Each code comes with Binance's status, or the one that was asked for."""
    for code, status in ((-1001, 503), (-1003, 429), (-1008, 503), (-1121, 400), (-4141, 400)):
        raw = await one_page(lab, "rest_error_code", code=code)
        assert (raw.status, raw.json()["code"]) == (status, code)
        assert raw.json()["msg"]
    assert (await one_page(lab, "rest_error_code", code=-1001, status=200)).status == 200


@case
async def clock_offset_ms(lab: Lab) -> None:
    """REST tells another time than the exchange lives by; the other market's does not."""
    await lab.inject("clock_offset_ms", offset_ms=-300_000, market="futures")
    told = {market: (await lab.get(f"{REST[market]}/time")).json()["serverTime"] for market in Market}
    now_ms = lab.clock.now_ms()
    assert now_ms - 310_000 < told[Market.FUTURES] <= now_ms - 300_000
    assert now_ms - 10_000 < told[Market.SPOT] <= now_ms


@case
async def halt(lab: Lab) -> None:
    """Spot has neither row nor event of the halted minutes and is in a break; futures has flat rows and no event."""
    start_ms = floor_to(lab.clock.now_ms(), MINUTE_MS) + MINUTE_MS
    await lab.inject("halt", start=start_ms, end=start_ms + 2 * MINUTE_MS, symbols=["BTCUSDT"])
    events: dict[Market, list[dict[str, Any]]] = {}
    async with lab.socket() as spot, lab.socket(Market.FUTURES) as futures:
        await lab.until(start_ms)
        listed = (await lab.get("/api/v3/exchangeInfo")).json()["symbols"]
        assert {each["symbol"]: each["status"] for each in listed}["BTCUSDT"] == "BREAK"
        for market, socket in ((Market.SPOT, spot), (Market.FUTURES, futures)):
            events[market] = [each for each in [await event(socket)] if each["s"] == "BTCUSDT"]
            while not events[market] or events[market][-1]["k"]["t"] < start_ms + 2 * MINUTE_MS:
                each = await event(socket)
                events[market] += [each] if each["s"] == "BTCUSDT" else []
    for market, seen in events.items():
        assert not {each["k"]["t"] for each in seen} & {start_ms, start_ms + MINUTE_MS}, market
        rows = (await lab.klines(market, startTime=start_ms - MINUTE_MS, limit=3)).json()
        settled = lab.settled(market)
        assert [values(row) for row in rows[:-1]] == [settled[row[0]] for row in rows[:-1]]
        skipped = 2 if market is Market.SPOT else 0
        assert rows[1][0] == start_ms + skipped * MINUTE_MS
    listed = (await lab.get("/api/v3/exchangeInfo")).json()["symbols"]
    assert {each["status"] for each in listed} == {"TRADING"}
    noted = [(e["market"], e["symbol"], e["minute_ms"] - start_ms) for e in await lab.ledger("halt")]
    assert sorted(noted) == [(m, "BTCUSDT", n * MINUTE_MS) for m in ("futures", "spot") for n in range(2)]


@case
async def list_at(lab: Lab) -> None:
    """Before its moment a symbol is listed as not trading yet and has no bar; from then on it has bars of its own."""
    moment_ms = floor_to(lab.clock.now_ms(), MINUTE_MS) + 2 * MINUTE_MS
    await lab.inject("list_at", symbols=["BTCUSDT"], start=moment_ms)
    status = {Market.SPOT: "BREAK", Market.FUTURES: "PENDING_TRADING"}
    for market in Market:
        (listed,) = [each for each in await symbols(lab, market) if each["symbol"] == "BTCUSDT"]
        assert listed["status"] == status[market]
        assert listed.get("onboardDate", moment_ms) == moment_ms
        assert (await lab.klines(market)).json() == []
    await lab.until(moment_ms + 2 * MINUTE_MS)
    for market in Market:
        assert {each["status"] for each in await symbols(lab, market)} == {"TRADING"}
        rows = (await lab.klines(market, startTime=NOON_MS)).json()
        assert rows[0][0] == moment_ms
        assert values(rows[0]) == lab.settled(market)[moment_ms]


@case
async def delist_at(lab: Lab) -> None:
    """After its moment a symbol has no bar any more and is listed as such; with `flat` futures goes on without trades."""
    moment_ms = floor_to(lab.clock.now_ms(), MINUTE_MS) + MINUTE_MS
    await lab.inject("delist_at", symbols=["BTCUSDT"], start=moment_ms)
    await lab.inject("delist_at", symbols=["ETHUSDT"], start=moment_ms, flat=True)
    await lab.until(moment_ms + 2 * MINUTE_MS)
    for market, status in ((Market.SPOT, "BREAK"), (Market.FUTURES, "SETTLING")):
        statuses = {each["symbol"]: each["status"] for each in await symbols(lab, market)}
        assert statuses == {"BTCUSDT": status, "ETHUSDT": status, "SOLUSDT": "TRADING"}
        assert (await lab.klines(market)).json()[-1][0] == moment_ms - MINUTE_MS
    flat = (await lab.klines(Market.FUTURES, symbol="ETHUSDT", startTime=moment_ms)).json()
    settled = lab.settled(Market.FUTURES, "ETHUSDT")
    assert len(flat) >= 2
    assert all(values(row) == settled[row[0]] and row[8] == 0 for row in flat)
    assert (await lab.klines(Market.SPOT, symbol="ETHUSDT", startTime=moment_ms)).json() == []


async def symbols(lab: Lab, market: Market) -> list[dict[str, Any]]:
    """What exchangeInfo lists."""
    return (await lab.get(f"{REST[market]}/exchangeInfo")).json()["symbols"]


@case
async def correct(lab: Lab) -> None:
    """REST serves the bar as it was, and from its moment on as it is restated; the event had the old one."""
    await lab.inject("correct", after_s=150, market="futures")
    async with lab.socket(Market.FUTURES) as socket:
        (closed,) = await closed_events(socket, 1)
    minute_ms = closed["k"]["t"]
    await lab.clear()  # a bar that began under the rule is still restated
    (row,) = (await lab.klines(startTime=minute_ms, limit=1)).json()
    after = lab.settled(Market.FUTURES).get(minute_ms)
    assert values(row) == event_values(closed["k"])
    await lab.until(minute_ms + MINUTE_MS + 150_000)
    (row,) = (await lab.klines(startTime=minute_ms, limit=1)).json()
    assert values(row) == after
    assert row[8] == closed["k"]["n"] + 1


@pytest.mark.parametrize("name", FAULTS)
async def test_each_fault_is_seen_on_the_wire_and_in_the_ledger(name: str) -> None:
    """A raw client sees the fault as it is in reality, and the ledger has it, when, where and by which rule."""
    async with laboratory() as lab:
        await CASES[name](lab)
        entries = await lab.ledger(name)
        everything = await lab.call("GET", "/_replay/ledger")
        now_ms = lab.clock.now_ms()
    assert entries
    assert {entry["fault"] for entry in everything} == {name}, "a fault that nobody asked for"
    for entry in entries:
        assert NOON_MS <= entry["at_ms"] <= now_ms
        assert entry["channel"] in ("websocket", "rest", "exchange")
        assert entry["market"] in ("spot", "futures")
        assert entry["rule"] >= 1
    assert [entry["at_ms"] for entry in entries] == sorted(entry["at_ms"] for entry in entries)


async def test_a_rule_with_a_period_happens_again_and_again() -> None:
    """A moment that comes back every minute closes each connection that there is then; ended, it never does again."""
    async with laboratory() as lab:
        await lab.inject("ws_close", every=60)
        for _ in range(3):
            async with lab.socket() as socket:
                assert (await ending(socket))[:2] == (WSMsgType.CLOSE, 1000)
        await lab.clear()
        at_ms = [entry["at_ms"] for entry in await lab.ledger("ws_close")]
        async with lab.socket() as socket:
            await drain(socket, lab, 3)
        assert len(await lab.ledger("ws_close")) == len(at_ms)
    assert len(at_ms) >= 3
    assert all(later - earlier >= MINUTE_MS - 1000 for earlier, later in pairwise(at_ms))


async def test_the_same_seed_hits_the_same_requests_and_bars() -> None:
    """Two exchanges with the same seed and rules spoil the same requests, by number."""
    seen = []
    for _ in range(2):
        async with laboratory() as lab:
            await lab.inject("rest_null", probability=0.4)
            seen.append([(await lab.klines()).body == b"null" for _ in range(30)])
            assert sum(seen[-1]) == len(await lab.ledger("rest_null"))
    assert seen[0] == seen[1]
    assert 0 < sum(seen[0]) < 30


async def test_a_bad_rule_adds_none_and_says_why() -> None:
    """400, one error that names rule and field, and the good rule beside it is not added either."""
    async with laboratory() as lab:
        for bad, told in (
            ([{"fault": "rest_null"}, {"fault": "rest_null", "count": 0}], "rule 2 (rest_null): the field 'count'"),
            ([{"fault": "never_closed", "symbols": ["NOPEUSDT"]}], "'symbols' names NOPEUSDT"),
            ({"fault": "rest_null"}, "a list of rules"),
        ):
            answer = await lab.call("POST", "/_replay/faults", bad)
            assert told in answer["error"]
        assert await lab.call("GET", "/_replay/faults") == {"seed": 7, "faults": []}
        assert (await lab.klines()).status == 200
        async with aiohttp.ClientSession() as session, session.post(f"{lab.url}/_replay/faults", data="{") as answer:
            assert answer.status == 400


async def test_a_frozen_exchange_still_stops(replay_factory: ReplayFactory) -> None:
    """Half-open sockets and hanging requests do not keep the process from ending when it is told to."""
    replay = replay_factory(symbols=2, speed=60)
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{replay.url}/ws/btcusdt@kline_1m") as client:
        await client.receive_str(timeout=PATIENCE_S)
        replay.inject([{"fault": "ws_half_open"}, {"fault": "rest_timeout"}])
        hanging = asyncio.create_task(session.get(f"{replay.url}/api/v3/time"))
        while not replay.ledger("rest_timeout"):  # noqa: ASYNC110 - the ledger rings no bell
            await asyncio.sleep(0.01)
        replay.process.terminate()
        assert replay.process.wait(timeout=10) == 0
        with pytest.raises(aiohttp.ClientError):
            await hanging


def test_a_file_of_faults_holds_from_the_start_and_the_handle_knows_what_settles(
    replay_factory: ReplayFactory,
) -> None:
    """`ohlcv replay --faults FILE`: the rules are there at once, the ledger can be asked, rules added and ended."""
    halted = {"from": "2025-06-01T11:50Z", "until": "2025-06-01T11:55Z", "symbols": ["BTCUSDT"]}
    replay = replay_factory(symbols=2, start="2025-06-01T12:00Z", speed=60, faults=[{"fault": "halt", **halted}])
    asked = {"symbol": "BTCUSDT", "interval": "1m", "startTime": NOON_MS - 20 * MINUTE_MS, "endTime": NOON_MS - 1}
    rows = requests.get(f"{replay.url}/api/v3/klines", params=asked, timeout=10).json()
    settled = replay.settled(Market.SPOT).filter(
        (pl.col("symbol") == "BTC/USDT") & pl.col("timestamp").is_between(NOON_MS - 20 * MINUTE_MS, NOON_MS - 1)
    )
    assert [(row[0], *values(row)) for row in rows] == settled.select("timestamp", *VALUES).rows()
    assert len(rows) == 15
    assert len(replay.ledger("halt")) == 10
    assert replay.inject([{"fault": "rest_null"}]) == [2]
    assert requests.get(f"{replay.url}/api/v3/klines", params=asked, timeout=10).text == "null"
    assert replay.clear_faults() == [2]
    assert requests.get(f"{replay.url}/api/v3/klines", params=asked, timeout=10).json() == rows
    assert [entry["fault"] for entry in replay.ledger("rest_null")] == ["rest_null"]
    with pytest.raises(AssertionError, match="no fault"):
        replay.inject([{"fault": "earthquake"}])


def test_a_bad_file_of_faults_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command names the file, the rule and the field, and ends with exit code 2 before it listens."""
    file = tmp_path / "faults.yaml"
    file.write_text("- {fault: ws_cut_24h}\n")
    monkeypatch.setattr(sys, "argv", ["ohlcv", "replay", "--generate", "--symbols", "1", "--faults", str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"error: {file}: rule 1 (ws_cut_24h): needs the field 'lifetime_s'" in capsys.readouterr().err
