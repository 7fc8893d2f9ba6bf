"""exchangeInfo: what the exchange says of itself and of each symbol, in the shapes of spot and of USD-M.

Lives here: the documents, with tick and step sizes derived from the decimals of the data. Does not: the clock;
`serverTime` is put in when the document is served, nor what was traded lately (ticker.py). Only fields that clients are
known to read are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ohlcv_assets.replay.tape import MarketTape, SymbolTape

#: Of `changes`: the exchange lists the symbol no more.
GONE = {"gone": True}

_PERPETUAL_DELIVERY_MS = 4_133_404_800_000
_ORDER_TYPES = ["LIMIT", "MARKET"]


def spot_listing(tape: MarketTape) -> dict[str, Any]:
    """The exchangeInfo of spot, without its serverTime."""
    limits = [
        _limit("REQUEST_WEIGHT", "MINUTE", 1, 6000),
        _limit("ORDERS", "SECOND", 10, 100),
        _limit("RAW_REQUESTS", "MINUTE", 5, 61_000),
    ]
    return {
        "timezone": "UTC",
        "serverTime": 0,
        "rateLimits": limits,
        "exchangeFilters": [],
        "symbols": [_spot_symbol(symbol) for symbol in tape.symbols.values()],
    }


def futures_listing(tape: MarketTape) -> dict[str, Any]:
    """The exchangeInfo of USD-M, without its serverTime."""
    symbols = tape.symbols.values()
    return {
        "timezone": "UTC",
        "serverTime": 0,
        "futuresType": "U_MARGINED",
        "rateLimits": [_limit("REQUEST_WEIGHT", "MINUTE", 1, 2400), _limit("ORDERS", "MINUTE", 1, 1200)],
        "exchangeFilters": [],
        "assets": [{"asset": asset, "marginAvailable": True} for asset in sorted({s.quote for s in symbols})],
        "symbols": [_futures_symbol(symbol) for symbol in symbols],
    }


class ListingDocument:
    """An exchangeInfo as JSON bytes, made once; only `serverTime` changes.

    Args:
        listing: the document.
        changes: fields of symbols that are otherwise, by the exchange's name; one with the field of `GONE` is left out.
    """

    def __init__(self, listing: dict[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> None:
        changed = [{**symbol, **changes.get(symbol["symbol"], {})} for symbol in listing["symbols"]]
        listing = {**listing, "symbols": [symbol for symbol in changed if not GONE.keys() & symbol.keys()]}
        text = json.dumps(listing, separators=(",", ":"), ensure_ascii=False)
        self._before, _, self._after = text.partition('"serverTime":0')

    def at(self, now_ms: int) -> bytes:
        """The document at a moment."""
        return f'{self._before}"serverTime":{now_ms}{self._after}'.encode()


def _limit(kind: str, interval: str, count: int, limit: int) -> dict[str, Any]:
    return {"rateLimitType": kind, "interval": interval, "intervalNum": count, "limit": limit}


def _spot_symbol(tape: SymbolTape) -> dict[str, Any]:
    precisions = ("baseAssetPrecision", "quotePrecision", "quoteAssetPrecision", "baseCommissionPrecision", "quoteCommissionPrecision")  # fmt: skip
    return {
        "symbol": tape.name,
        "status": "TRADING",
        "baseAsset": tape.base,
        "quoteAsset": tape.quote,
        **dict.fromkeys(precisions, 8),
        "orderTypes": _ORDER_TYPES,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": _filters(tape, written_decimals=8, notional_name="NOTIONAL", notional_field="minNotional"),
        "permissions": [],
        "permissionSets": [["SPOT"]],
    }


def _futures_symbol(tape: SymbolTape) -> dict[str, Any]:
    return {
        "symbol": tape.name,
        "pair": tape.name,
        "contractType": "PERPETUAL",
        "deliveryDate": _PERPETUAL_DELIVERY_MS,
        "onboardDate": tape.first_ms,
        "status": "TRADING",
        "baseAsset": tape.base,
        "quoteAsset": tape.quote,
        "marginAsset": tape.quote,
        "pricePrecision": tape.decimals.price,
        "quantityPrecision": tape.decimals.volume,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "filters": _filters(tape, written_decimals=None, notional_name="MIN_NOTIONAL", notional_field="notional"),
        "orderTypes": _ORDER_TYPES,
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }


def _filters(
    tape: SymbolTape, *, written_decimals: int | None, notional_name: str, notional_field: str
) -> list[dict[str, Any]]:
    def unit(decimals: int) -> str:
        return f"{10.0**-decimals:.{decimals if written_decimals is None else written_decimals}f}"

    tick, step = unit(tape.decimals.price), unit(tape.decimals.volume)
    return [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "10000000", "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "1000000000", "stepSize": step},
        {"filterType": notional_name, notional_field: "5"},
    ]
