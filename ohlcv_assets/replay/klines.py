"""Which bars a klines request gets: its parameters read as Binance reads them, and the rows that follow from them.

Lives here: parameter checks with Binance's error codes, the meaning of startTime, endTime and limit, and the unfinished last
bar. Does not: HTTP (rest.py) or text (wire.py). Only one-minute bars are served; every other interval is refused as an
invalid one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.partial import so_far
from ohlcv_assets.replay.script import Script
from ohlcv_assets.replay.tape import MarketTape, SymbolTape
from ohlcv_assets.replay.wire import kline_row
from ohlcv_assets.timestamps import MINUTE_MS, floor_to

DEFAULT_LIMIT = 500
MOST_ROWS: dict[Market, int] = {Market.SPOT: 1000, Market.FUTURES: 1500}

_LEGAL_SYMBOL = re.compile(r"([^\Wa-z]|[-.]){1,20}")  # letters of every script are legal, lower case ASCII is not
_WHOLE_NUMBER = re.compile(r"[0-9]{1,20}")
_MICROSECONDS_FROM = 10**14  # spot takes times in microseconds as well


class ApiError(Exception):
    """A request that the exchange refuses: HTTP 400, with a code and a message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class KlinesQuery:
    """A checked request for bars: which symbol, from where to where (UNIX ms, both inclusive), how many."""

    tape: SymbolTape
    start_ms: int | None
    end_ms: int | None
    limit: int


def limit_of(parameters: Mapping[str, str]) -> int:
    """The limit as far as it matters for the weight: what was asked for, right or wrong, or the default."""
    text = parameters.get("limit", "")
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else DEFAULT_LIMIT


def read_query(parameters: Mapping[str, str], tape: MarketTape) -> KlinesQuery:
    """The request that the parameters mean.

    Raises:
        ApiError: -1102 a parameter is missing, -1100 illegal characters, -1121 no such symbol, -1120 no such interval,
            -1130 a limit that is not valid, -1023 a start after the end (USD-M).
    """
    symbol = _symbol(parameters, tape)
    if _mandatory(parameters, "interval") != "1m":
        raise ApiError(-1120, "Invalid interval.")
    limit = _whole_number(parameters, "limit")
    start_ms, end_ms = (_moment(parameters, name, tape.market) for name in ("startTime", "endTime"))
    if tape.market is Market.FUTURES and start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise ApiError(-1023, "Start time is greater than end time.")
    return KlinesQuery(
        symbol, start_ms, end_ms, _rows_allowed(DEFAULT_LIMIT if limit is None else limit, tape.market)
    )


def page(query: KlinesQuery, market: MarketTape, script: Script, now_ms: int) -> list[str]:
    """The rows of the answer, oldest first, as text; the last is unfinished when the range reaches now.

    A start alone or with an end gives the oldest bars from it; an end alone or nothing gives the latest.
    """
    tape = query.tape
    known = tape.index_from(now_ms + 1)  # a bar is there from its first millisecond
    begin = 0 if query.start_ms is None else tape.index_from(query.start_ms)
    end = known if query.end_ms is None else min(known, tape.index_from(query.end_ms + 1))
    if query.start_ms is None:
        begin = max(begin, end - query.limit)
    else:
        end = min(end, begin + query.limit)
    return _rows(market, tape, begin, end, script, now_ms) if begin < end else []


def _rows(market: MarketTape, tape: SymbolTape, begin: int, end: int, script: Script, now_ms: int) -> list[str]:
    first_ms, last_ms = int(tape.timestamps[begin]), int(tape.timestamps[end - 1])
    unfinished = last_ms == floor_to(now_ms, MINUTE_MS)
    rows = market.rows(tape, begin, end - 1 if unfinished else end)
    if unfinished:
        rows.append(kline_row(so_far(tape.kline(end - 1), now_ms, tape.decimals), tape.printed))
    changed = script.rest_bars(market.market, tape.symbol, first_ms, last_ms, now_ms)
    if not changed:
        return rows
    shown = dict(zip(tape.timestamps[begin:end].tolist(), rows, strict=True))
    for start_ms, kline in changed.items():
        if kline is None:
            shown.pop(start_ms, None)
        else:
            shown[start_ms] = kline_row(kline, tape.printed)
    return [shown[start_ms] for start_ms in sorted(shown)]


def _symbol(parameters: Mapping[str, str], tape: MarketTape) -> SymbolTape:
    name = _mandatory(parameters, "symbol")
    if not _LEGAL_SYMBOL.fullmatch(name):
        legal = "^[A-Z0-9-_.]{1,20}$"
        raise ApiError(-1100, f"Illegal characters found in parameter 'symbol'; legal range is '{legal}'.")
    if name not in tape.symbols:
        raise ApiError(-1121, "Invalid symbol.")
    return tape.symbols[name]


def _mandatory(parameters: Mapping[str, str], name: str) -> str:
    value = parameters.get(name, "")
    if not value:
        raise ApiError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    return value


def _whole_number(parameters: Mapping[str, str], name: str) -> int | None:
    text = parameters.get(name)
    if text is None:
        return None
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ApiError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)


def _moment(parameters: Mapping[str, str], name: str, market: Market) -> int | None:
    moment = _whole_number(parameters, name)
    if moment is not None and market is Market.SPOT and moment >= _MICROSECONDS_FROM:
        return moment // 1000
    return moment


def _rows_allowed(limit: int, market: Market) -> int:
    """The limit that is served: USD-M refuses one that is too large, spot cuts it."""
    most = MOST_ROWS[market]
    if limit < 1 or (limit > most and market is Market.FUTURES):
        raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")
    return min(limit, most)
