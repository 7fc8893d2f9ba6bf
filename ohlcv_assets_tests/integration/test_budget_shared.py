"""One budget for all processes of a host: backfills and a QA window at once, and the exchange's own counter is the judge."""

import json
import subprocess
import sys

import pytest

from ohlcv_assets.exchange.binance import klines_weight
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.rest import LIMITS
from ohlcv_assets_tests.fixtures.program import deployed

#: Little enough that a busy machine spends all of it in each minute of an exchange at fifteen times the speed.
_SHARE = 0.05
_SPEED = 15.0
_SYMBOLS = {Market.SPOT: 24, Market.FUTURES: 8}

_QA_WINDOWS = """
import asyncio, sys
from ohlcv_assets.exchange.binance import open_exchange
from ohlcv_assets.exchange.fetch import fetch_bars
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import Interval

async def main():
    async with open_exchange(Market(sys.argv[1]), Settings()) as exchange:
        for start in range(0, 60, 10):
            window = Interval.parse(f"2025-06-01T05:{start:02}Z", f"2025-06-01T05:{start + 9:02}Z")
            fetched = await fetch_bars(exchange, sorted(exchange.listing), window)
            assert fetched.missing.is_empty()
        print(fetched.bars.height)

asyncio.run(main())
"""


@pytest.mark.parametrize("market", list(Market), ids=str)
def test_two_backfills_and_a_qa_window_at_once_stay_within_the_budget(replay_factory, tmp_path, monkeypatch, market):
    """Three processes that each want more than the share never exceed it together, meet no 429, and waste next to none of it.

    The two backfills write different datasets of the same days. In the fullest minute at least 95 % of what bulk work may
    spend is spent: guards and reserves may not cost more.
    """
    exchange = replay_factory(symbols=_SYMBOLS[market], days=6, start="2025-06-06T06:00Z", speed=_SPEED)
    deployed(exchange, tmp_path, monkeypatch, weight_share=_SHARE)
    download = [sys.executable, "-m", "ohlcv_assets.cli", "download-bulk", "--json", "--contract_type", str(market)]
    download += ["--start_timestamp", "2025-06-01", "--end_timestamp", "2025-06-06", "--downloading_entity"]
    commands = [[*download, "one"], [*download, "other"], [sys.executable, "-c", _QA_WINDOWS, str(market)]]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    allowed = int(_SHARE * LIMITS[market])
    stats = exchange.stats()
    assert stats["refused"] == {"429": 0, "418": 0}
    assert stats["max_used_weight"][market] <= allowed
    used = sum(stats["used_weight"][market].values())
    wanted = sum(json.loads(output.splitlines()[-1])["weight"] for output in outputs[:2])
    assert used >= wanted + 6 * _SYMBOLS[market] * klines_weight(market, 10)
    assert wanted > 2 * allowed, "there was not enough to do"
    assert stats["max_used_weight"][market] >= 0.95 * (allowed - int(0.02 * allowed))
