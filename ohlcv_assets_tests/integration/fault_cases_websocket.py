"""The cases of the WebSocket's faults: each injected once, and seen by a raw client (test_replay_faults.py runs them)."""

from __future__ import annotations

import json

from aiohttp import WSMsgType

from ohlcv_assets.instruments import Market
from ohlcv_assets.timestamps import MINUTE_MS, floor_to
from ohlcv_assets_tests.integration.laboratory import (
    BOTH_SYMBOLS,
    Lab,
    case,
    closed_events,
    drain,
    ending,
    event,
    event_values,
    message,
    read_raw,
    shake_hands,
    values,
)


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
