"""The cases of the faults of REST and of the market: each injected once, and seen by a raw client (test_replay_faults.py)."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from ohlcv_assets.instruments import Market
from ohlcv_assets.timestamps import MINUTE_MS, floor_to
from ohlcv_assets_tests.integration.laboratory import (
    NOON_MS,
    REST,
    Lab,
    Raw,
    case,
    closed_events,
    event,
    event_values,
    values,
)


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
