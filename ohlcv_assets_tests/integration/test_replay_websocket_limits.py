"""The replay exchange's WebSockets at their edges: malformed requests, limits, pings and the ends of connections.

Lives here: what a connection refuses and when it ends. Does not: events (test_replay_websocket.py).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import WSMsgType

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.websocket import RULES
from ohlcv_assets.timestamps import MINUTE_MS
from ohlcv_assets_tests.fixtures.replay import ReplayHandle
from ohlcv_assets_tests.integration.websocket_client import (
    BOTH,
    PATIENCE_S,
    RAW,
    ask,
    closing,
    connected,
    exchange,
    receive,
)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("no json", 3),
        ("[1, 2]", 2),
        ('{"method":"SHOUT","id":4}', 2),
        ('{"method":"SUBSCRIBE","params":"btcusdt@kline_1m","id":4}', 2),
        ('{"method":"SUBSCRIBE","params":[1],"id":4}', 2),
        ('{"method":"SET_PROPERTY","params":["colour",true],"id":4}', 0),
        ('{"method":"SET_PROPERTY","params":["combined",1],"id":4}', 1),
    ],
)
async def test_a_request_that_is_none_is_answered_with_an_error(
    replay_exchange: ReplayHandle, text: str, code: int
) -> None:
    """A malformed request gets an error with its code, and the connection goes on."""
    async with connected(replay_exchange.url, "/ws") as socket:
        await socket.send_str(text)
        assert (await receive(socket))["error"]["code"] == code
        assert (await ask(socket, "LIST_SUBSCRIPTIONS"))["result"] == []


async def test_a_connection_can_change_its_form(replay_exchange: ReplayHandle) -> None:
    """SET_PROPERTY combined wraps the events of a raw connection from then on."""
    async with connected(replay_exchange.url, "/ws") as socket:
        assert (await ask(socket, "GET_PROPERTY", ["combined"]))["result"] is False
        await ask(socket, "SET_PROPERTY", ["combined", True], request_id=2)
        assert (await ask(socket, "GET_PROPERTY", ["combined"], request_id=3))["result"] is True
        await ask(socket, "SUBSCRIBE", ["btcusdt@kline_1m"], request_id=4)
        assert (await receive(socket))["stream"] == "btcusdt@kline_1m"


async def test_a_frame_that_is_too_long_is_ignored(replay_exchange: ReplayHandle) -> None:
    """4,096 bytes are read; one byte more is neither acked nor refused, and subscribes to nothing."""
    async with connected(replay_exchange.url, "/ws") as socket:
        for length in (4_096, 4_097):
            request = json.dumps({"method": "SUBSCRIBE", "params": [f"s{length}@kline_1m"], "id": length})
            await socket.send_str(request.ljust(length))
        assert (await receive(socket))["id"] == 4_096
        assert (await ask(socket, "LIST_SUBSCRIPTIONS"))["result"] == ["s4096@kline_1m"]


@BOTH
async def test_the_1025th_stream_ends_the_connection(replay_exchange: ReplayHandle, market: Market) -> None:
    """1,024 streams are acked; one more is refused with code 4 and closes the connection with 1008."""
    async with connected(replay_exchange.url, RAW[market]) as socket:
        streams = [f"s{i}@x" for i in range(1025)]  # short, so that a frame holds many and few messages do
        for i in range(0, 1024, 342):
            subscribed = await ask(socket, "SUBSCRIBE", streams[i : min(i + 342, 1024)], request_id=i + 1)
            assert subscribed == {"result": None, "id": i + 1}
        await socket.send_json({"method": "SUBSCRIBE", "params": [streams[1024]], "id": 9})
        code, said = await closing(socket)
    assert code == 1008
    assert said == [{"error": {"code": 4, "msg": "Too many subscriptions"}, "id": 9}]


@pytest.mark.parametrize(("market", "allowed"), [(Market.SPOT, 5), (Market.FUTURES, 15)])
async def test_a_message_too_many_ends_the_connection(market: Market, allowed: int) -> None:
    """As many messages as a second allows are answered; the next closes with 1008."""
    async with exchange(speed=60) as (url, replay), connected(url, RAW[market]) as socket:
        replay.clock.change_speed(0)  # all in the same moment
        for i in range(allowed + 1):
            await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": i})
        code, said = await closing(socket)
    assert code == 1008
    assert [message["id"] for message in said] == list(range(allowed))[: len(said)]


async def test_the_server_pings_and_drops_who_does_not_answer() -> None:
    """A client that answers pings stays; one that does not is cut off, without a goodbye."""
    rules = {m: replace(RULES[m], ping_ms=1_000, pong_within_ms=10_000, least_pong_wall_s=2.0) for m in Market}
    async with (
        exchange(speed=600, rules=rules) as (url, _),
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws", autoping=False) as deaf,
        session.ws_connect(f"{url}/ws") as polite,
    ):
        listening = asyncio.create_task(polite.receive())  # a client answers pings while it listens
        assert (await deaf.receive(timeout=PATIENCE_S)).type is WSMsgType.PING
        assert (await deaf.receive(timeout=PATIENCE_S)).type in (WSMsgType.CLOSED, WSMsgType.ERROR)
        assert deaf.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
        assert not listening.done()
        await polite.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        assert json.loads((await listening).data) == {"result": [], "id": 1}


async def test_a_client_may_ping() -> None:
    """A ping of the client is answered with its own payload."""
    async with (
        exchange(speed=1) as (url, _),
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws", autoping=False) as socket,
    ):
        await socket.ping(b"are you there")
        message = await socket.receive(timeout=PATIENCE_S)
    assert (message.type, message.data) == (WSMsgType.PONG, b"are you there")


async def test_a_connection_ends_after_its_lifetime() -> None:
    """At the end of its life a connection hears serverShutdown, goes on for a while, and is closed."""
    rules = {m: replace(RULES[m], lifetime_ms=5 * MINUTE_MS) for m in Market}
    async with exchange(speed=600, rules=rules) as (url, replay), connected(url, "/ws") as socket:
        opened_ms = replay.clock.now_ms()
        code, said = await closing(socket)
        assert replay.clock.now_ms() >= opened_ms + 5 * MINUTE_MS - 1000
    assert code == 1001
    assert [message["e"] for message in said] == ["serverShutdown"]
