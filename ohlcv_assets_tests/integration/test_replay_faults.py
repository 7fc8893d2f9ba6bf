"""Every fault of the replay exchange on the wire: injected once, seen by a raw client, and written in the ledger.

A fault without a case fails. The exchanges run in the test's own event loop, but for the last tests, which drive the
command and the fixture's handle.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import pairwise
from pathlib import Path

import aiohttp
import polars as pl
import pytest
import requests
from aiohttp import WSMsgType

from ohlcv_assets.bars import VALUES
from ohlcv_assets.cli import main
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.faults.catalogue import FAULTS
from ohlcv_assets.timestamps import MINUTE_MS
from ohlcv_assets_tests.fixtures.replay import ReplayFactory
from ohlcv_assets_tests.integration import fault_cases_rest, fault_cases_websocket
from ohlcv_assets_tests.integration.laboratory import (
    CASES,
    NOON_MS,
    PATIENCE_S,
    drain,
    ending,
    laboratory,
    values,
)


def test_every_fault_has_a_case() -> None:
    """The cases are exactly the faults of the catalogue."""
    assert {function.__module__ for function in CASES.values()} == {
        fault_cases_rest.__name__,
        fault_cases_websocket.__name__,
    }
    assert set(CASES) == set(FAULTS)


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
