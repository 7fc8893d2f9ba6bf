"""ticker/24hr: what each symbol traded in the last 24 hours.

Lives here: the answer and its weight. Does not: HTTP (rest.py). Of the fields those of volume and time are there, which
clients rank by; the bars of the minute that runs are not counted yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.klines import ApiError
from ohlcv_assets.replay.tape import MarketTape, SymbolTape
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, floor_to

#: What one symbol and what all of them cost.
_WEIGHTS = {Market.SPOT: (2, 80), Market.FUTURES: (1, 40)}


def spot_ticker_weight(parameters: Mapping[str, str]) -> int:
    """The weight of a request on spot."""
    return _WEIGHTS[Market.SPOT]["symbol" not in parameters]


def futures_ticker_weight(parameters: Mapping[str, str]) -> int:
    """The weight of a request on USD-M and COIN-M."""
    return _WEIGHTS[Market.FUTURES]["symbol" not in parameters]


def ticker(parameters: Mapping[str, str], tape: MarketTape, now_ms: int) -> bytes:
    """The answer: an object for one symbol, a list without one.

    Raises:
        ApiError: -1121 no such symbol.
    """
    name = parameters.get("symbol")
    if name is not None and name not in tape.symbols:
        raise ApiError(-1121, "Invalid symbol.")
    document = (
        [_row(each, now_ms) for each in tape.symbols.values()] if name is None else _row(tape.symbols[name], now_ms)
    )
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _row(tape: SymbolTape, now_ms: int) -> dict[str, Any]:
    end_ms = floor_to(now_ms, MINUTE_MS)
    volume, quote_volume, trades = tape.traded(end_ms - DAY_MS, end_ms)
    return {
        "symbol": tape.name,
        "volume": f"{volume:.8f}",
        "quoteVolume": f"{quote_volume:.8f}",
        "openTime": end_ms - DAY_MS,
        "closeTime": end_ms - 1,
        "count": trades,
    }
