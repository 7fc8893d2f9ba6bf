"""The exchange's wire form of a bar, and the one way from it to a frame of bars.

Lives here: Binance's kline as REST sends it (a row of twelve) and as WebSocket sends it (the `k` object), checked and
turned into `CAPTURED_SCHEMA`. Does not: asking for klines (binance.py, stream_socket.py), the fast reading of a page's
text (kline_text.py), or whether a set of bars is whole (fetch.py). Raw answers come in; nothing that is not exactly a closed
one-minute kline goes out.

Prices and volumes come as decimal strings and become a float64 once, correctly rounded: equal strings give equal
doubles. A JSON number in their place has been a float already and is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ohlcv_assets.bars import CAPTURED_SCHEMA, VALUES
from ohlcv_assets.errors import IncompletePage
from ohlcv_assets.exchange.kline_text import is_page, numbers_of
from ohlcv_assets.instruments import Market
from ohlcv_assets.timestamps import MINUTE_MS, Interval, iso

#: A kline row: openTime, open, high, low, close, volume, closeTime, quote volume, trades, taker buy base, taker
#: buy quote, unused. Everything but the times and the number of trades is a decimal string.
Row = Sequence[Any]
ROW_LENGTH = 12

_OPEN_TIME, _CLOSE_TIME, _TRADE_COUNT = 0, 6, 8
_POSITIONS = dict(zip(VALUES, (1, 2, 3, 4, 5, 7, _TRADE_COUNT, 9, 10), strict=True))
_DECIMALS = {name: position for name, position in _POSITIONS.items() if position != _TRADE_COUNT}
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_STREAM_FIELDS = ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q", "B")


def bars_of(
    market: Market, symbols: str | Sequence[str], rows: Sequence[Row], received: datetime | Sequence[datetime]
) -> pl.DataFrame:
    """The bars of these kline rows: one row each of `CAPTURED_SCHEMA`, in the order given.

    Args:
        market: the market of all of them.
        symbols: the unified symbol of each row, or of all.
        rows: kline rows of twelve; `row[0]` is the start of the minute in UNIX milliseconds.
        received: when each row, or all, entered this process, tz-aware UTC; the bar's `end_download_timestamp`.

    Raises:
        IncompletePage: a row that is no one-minute kline, with the first reason found.
    """
    if not rows:
        return pl.DataFrame(schema=CAPTURED_SCHEMA)
    columns, values = _checked(rows)
    return _frame(market, symbols, columns[_OPEN_TIME], values, received)


def page_of(market: Market, symbol: str, interval: Interval, answer: Any, received: datetime) -> pl.DataFrame:
    """The bars of one REST answer that was asked for the minutes of `interval`.

    The page may lack minutes (the caller compares); what it holds is in order, each minute once, on the grid and in
    the interval.

    Args:
        market: of the symbol.
        symbol: that was asked for.
        interval: the minutes that were asked for.
        answer: the text of a page of klines, or the value that any other answer is.
        received: when it entered this process, tz-aware UTC.

    Raises:
        IncompletePage: the answer is no list of klines, or holds what was not asked for.
    """
    numbers = numbers_of(answer) if isinstance(answer, str) else None
    if numbers is not None and _all_asked_for(numbers, interval):
        values = {name: _typed(name, numbers[:, position]) for name, position in _POSITIONS.items()}
        return _frame(market, symbol, _typed("timestamp", numbers[:, _OPEN_TIME]), values, received)
    # Row by row: what is no such page in one glance, and what must be refused with the reason named.
    rows = rows_of(answer, f"{symbol} {interval}: ")
    frame = bars_of(market, symbol, rows, received)
    # On plain integers: each polars operation costs more than a page of them.
    starts: list[int] = [row[_OPEN_TIME] for row in rows]
    if starts and (starts[0] not in interval or starts[-1] not in interval):
        raise IncompletePage(f"{symbol}: asked for {interval}, was given {iso(starts[0])} to {iso(starts[-1])}")
    if any(following <= start for start, following in pairwise(starts)):
        raise IncompletePage(f"{symbol} {interval}: the klines are not in order, or one comes twice")
    return frame


def rows_of(answer: Any, asked: str = "") -> list[Row]:
    """The kline rows of an answer, unchecked.

    Args:
        answer: as `page_of`.
        asked: what the error begins with.

    Raises:
        IncompletePage: it is no list.
    """
    value = answer
    if isinstance(answer, str) and is_page(answer):
        try:
            value = json.loads(answer)
        except ValueError as error:
            raise IncompletePage(f"{asked}the answer is no whole list of klines: {error}") from error
    if not isinstance(value, list):
        raise IncompletePage(f"{asked}the answer is no list of klines but {_shortened(value)}")
    return value


def row_of_event(kline: Mapping[str, Any]) -> list[Any]:
    """The kline row of a WebSocket event's `k` object, the same twelve values in REST's order.

    Raises:
        IncompletePage: a field is absent, the interval is not one minute, or the bar is not closed (`x` is not true).
    """
    if kline.get("i") != "1m" or kline.get("x") is not True:
        raise IncompletePage(f"no closed one-minute kline: {_shortened(kline)}")
    try:
        return [kline[field] for field in _STREAM_FIELDS]
    except KeyError as error:
        raise IncompletePage(f"a kline event without {error}: {_shortened(kline)}") from error


def _frame(
    market: Market, symbols: str | Sequence[str], starts: Any, values: Mapping[str, Any], received: Any
) -> pl.DataFrame:
    data = {
        "market": market.value,
        "symbol": symbols,
        "timestamp": starts,
        **values,
        "end_download_timestamp": received,
    }
    # Series of known dtypes: a dict with a schema would be cast column by column.
    return pl.DataFrame([_series(name, data[name], len(starts)) for name in CAPTURED_SCHEMA])


def _series(name: str, values: Any, length: int) -> pl.Series:
    """The column of that name; one value stands for all rows."""
    if isinstance(values, str):
        values = [values] * length
    if isinstance(values, datetime):
        return pl.Series(name, np.full(length, (values - _EPOCH) // _MICROSECOND)).cast(CAPTURED_SCHEMA[name])
    return pl.Series(name, values, dtype=CAPTURED_SCHEMA[name])


def _typed(name: str, column: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """The column in one piece, whole numbers as such."""
    return np.ascontiguousarray(column, dtype=np.int64 if CAPTURED_SCHEMA[name] == pl.Int64() else np.float64)


def _all_asked_for(numbers: npt.NDArray[np.float64], interval: Interval) -> bool:
    """Whether every row is a minute of the interval that ends when a minute ends, in order and each once."""
    starts = numbers[:, _OPEN_TIME]
    return bool(
        starts[0] >= interval.start_ms
        and starts[-1] < interval.end_ms
        and (np.diff(starts) > 0).all()
        and not (starts % MINUTE_MS).any()
        and (numbers[:, _CLOSE_TIME] - starts == MINUTE_MS - 1).all()
    )


def check_rows(rows: Sequence[Row]) -> None:
    """Do nothing if `bars_of` can make bars of these rows.

    Raises:
        IncompletePage: it cannot.
    """
    if rows:
        _checked(rows)


def _checked(rows: Sequence[Row]) -> tuple[list[tuple[Any, ...]], dict[str, Sequence[Any]]]:
    """The rows' columns as they came, and the values in them as numbers."""
    columns = _columns(rows)
    _check_times(columns)
    return columns, {name: _values(name, columns[position]) for name, position in _POSITIONS.items()}


def _columns(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    try:
        columns = list(zip(*rows, strict=True))
    except (TypeError, ValueError) as error:
        raise IncompletePage(f"klines of different lengths, or no rows at all: {_shortened(rows)}") from error
    if len(columns) != ROW_LENGTH or isinstance(rows[0], str | Mapping):
        raise IncompletePage(f"a kline has {ROW_LENGTH} fields, these have {len(columns)}: {_shortened(rows)}")
    return columns


def _check_times(columns: list[tuple[Any, ...]]) -> None:
    """Every row is a whole minute of the grid, and ends when a minute ends."""
    whole_numbers = {*map(type, columns[_OPEN_TIME]), *map(type, columns[_CLOSE_TIME])}
    if whole_numbers != {int}:
        raise IncompletePage(f"open and close times must be whole numbers, not {whole_numbers}")
    for start_ms, close_ms in zip(columns[_OPEN_TIME], columns[_CLOSE_TIME], strict=True):
        if start_ms % MINUTE_MS or close_ms != start_ms + MINUTE_MS - 1:
            raise IncompletePage(f"no one-minute kline: open time {start_ms}, close time {close_ms}")


def _values(name: str, column: tuple[Any, ...]) -> Sequence[Any]:
    if name not in _DECIMALS:
        if {*map(type, column)} != {int}:
            raise IncompletePage(f"{name} must be a whole number: {_shortened(column)}")
        return column
    try:
        # Plain ASCII digits and points: no NaN, no infinity, no sign, and none of what only Python takes for a
        # number (1_0, blanks, digits of other scripts). join refuses whatever is no string.
        digits = "".join(column).replace(".", "")
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError(name)
        return [float(text) for text in column]
    except (TypeError, ValueError) as error:
        raise IncompletePage(f"{name} must be plain decimal strings: {_shortened(column)}") from error


def _shortened(value: object, length: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
