"""The truth as arrays: any bar of any symbol in microseconds, and the text of any run of final bars.

Lives here: `SymbolTape` (one symbol's bars in the order of time) and `MarketTape` (a market's symbols by the exchange's
name). Does not: what time it is, or what may be wrong with an answer. Memory: 88 bytes a bar, and text for the
runs that were asked for last.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ohlcv_assets.bars import VALUES
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.derive import grid_decimals
from ohlcv_assets.replay.partial import Decimals, Kline
from ohlcv_assets.replay.truth import exchange_symbol
from ohlcv_assets.replay.wire import kline_row, printed_decimals
from ohlcv_assets.timestamps import MINUTE_MS

_BLOCK = 240  # bars whose text is made at once: some 1.5 ms, little enough not to delay a closing bar
_BLOCKS_KEPT = 2_000

_TRADE_COUNT = VALUES.index("trade_count")


class SymbolTape:
    """One symbol's final bars, in the order of time.

    Args:
        symbol: the unified symbol.
        market: where it is traded.
        frame: its bars, sorted by timestamp.
        decimals: its grid; derived from the bars by default.
    """

    def __init__(self, symbol: str, market: Market, frame: pl.DataFrame, decimals: Decimals | None = None) -> None:
        self.symbol = symbol
        self.name = exchange_symbol(symbol)
        self.base, _, self.quote = symbol.partition(":")[0].partition("/")
        self.stream = f"{self.name.lower()}@kline_1m"
        self.timestamps: NDArray[np.int64] = frame["timestamp"].to_numpy()
        self._columns = [frame[name].to_numpy() for name in VALUES]
        counts = self._columns[_TRADE_COUNT]
        self._first_trade_ids = np.cumsum(counts) - counts + 1
        self.decimals = decimals or Decimals(
            *(grid_decimals([self._columns[i] for i in group]) for group in _DECIMAL_GROUPS)
        )
        self.printed = printed_decimals(market, self.decimals)

    @property
    def first_ms(self) -> int:
        """The start of the first bar; 0 when there is none."""
        return int(self.timestamps[0]) if len(self.timestamps) else 0

    def at(self, timestamp_ms: int) -> Kline | None:
        """The final bar that starts at a minute, or None."""
        index = self.index_from(timestamp_ms)
        if index == len(self.timestamps) or self.timestamps[index] != timestamp_ms:
            return None
        return self.kline(index)

    def index_from(self, timestamp_ms: int) -> int:
        """The index of the first bar that starts at or after a moment; the number of bars when there is none."""
        return int(np.searchsorted(self.timestamps, timestamp_ms, side="left"))

    def kline(self, index: int) -> Kline:
        """The final bar at an index."""
        values = (column[index].item() for column in self._columns)
        return Kline._make((int(self.timestamps[index]), *values, int(self._first_trade_ids[index])))

    def traded(self, start_ms: int, end_ms: int) -> tuple[float, float, int]:
        """Volume, quote volume and number of trades of the bars that start in [start_ms, end_ms)."""
        bars = slice(self.index_from(start_ms), self.index_from(end_ms))
        volume, quote, trades = (self._columns[VALUES.index(name)][bars].sum() for name in ("volume", "quote_volume", "trade_count"))  # fmt: skip
        return float(volume), float(quote), int(trades)

    def rows(self, begin: int, end: int) -> list[str]:
        """The REST rows of the final bars at the indices [begin, end), as text."""
        columns = [column[begin:end].tolist() for column in self._columns]
        starts, ids = self.timestamps[begin:end].tolist(), self._first_trade_ids[begin:end].tolist()
        return [kline_row(Kline(*row), self.printed) for row in zip(starts, *columns, ids, strict=True)]


class MarketTape:
    """One market's symbols, by the exchange's name of each, and the text of the rows asked for last.

    Args:
        market: spot or futures.
        truth: its final bars, sorted by (symbol, timestamp).
    """

    def __init__(self, market: Market, truth: pl.DataFrame) -> None:
        self.market = market
        self.symbols: dict[str, SymbolTape] = {}
        for (symbol,), frame in truth.partition_by("symbol", as_dict=True, maintain_order=True).items():
            tape = SymbolTape(str(symbol), market, frame)
            self.symbols[tape.name] = tape
        self.by_stream = {tape.stream: tape for tape in self.symbols.values()}
        self.end_ms = int(truth["timestamp"].max()) + MINUTE_MS if truth.height else 0  # type: ignore[arg-type]
        self.start_ms = int(truth["timestamp"].min()) if truth.height else 0  # type: ignore[arg-type]
        self._blocks: OrderedDict[tuple[str, int], list[str]] = OrderedDict()

    def replace(self, tape: SymbolTape) -> None:
        """Play these bars of a symbol from now on, in place of those that were."""
        self.symbols[tape.name] = self.by_stream[tape.stream] = tape
        for key in [key for key in self._blocks if key[0] == tape.name]:
            del self._blocks[key]

    def rows(self, tape: SymbolTape, begin: int, end: int) -> list[str]:
        """The REST rows of a symbol's final bars at the indices [begin, end), as text."""
        rows: list[str] = []
        for block in range(begin // _BLOCK, -(-end // _BLOCK)):
            offset = block * _BLOCK
            rows += self._block(tape, block)[max(begin - offset, 0) : end - offset]
        return rows

    def _block(self, tape: SymbolTape, block: int) -> list[str]:
        key = (tape.name, block)
        if key not in self._blocks:
            self._blocks[key] = tape.rows(block * _BLOCK, (block + 1) * _BLOCK)
            if len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(key)
        return self._blocks[key]


_DECIMAL_GROUPS = (
    [VALUES.index(name) for name in ("open", "high", "low", "close")],
    [VALUES.index(name) for name in ("volume", "taker_buy_volume")],
    [VALUES.index(name) for name in ("quote_volume", "taker_buy_quote_volume")],
)
