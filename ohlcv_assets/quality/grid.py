"""The grid symbols x minutes as a flat array: one place for each expected bar, and the way from a row to its place.

Lives here: the arithmetic of places. Does not: what stands there (ledger.py, causes.py). Rows that belong to no place
(another symbol, another time, between two minutes, without a key) have the place -1.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ohlcv_assets.timestamps import MINUTE_MS, Interval

_Value = TypeVar("_Value", bound=np.generic)
Places = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """Every minute of every symbol; the place of a bar is `symbol * minutes + minute`.

    Attributes:
        symbols: sorted, each once.
        interval: whose minutes are meant.
    """

    symbols: tuple[str, ...]
    interval: Interval

    @classmethod
    def of(cls, symbols: Collection[str], interval: Interval) -> Grid:
        """The grid of these symbols; copies count once."""
        return cls(tuple(sorted(set(symbols))), interval)

    @property
    def minutes(self) -> int:
        """How many minutes."""
        return len(self.interval.minutes)

    @property
    def size(self) -> int:
        """How many bars are expected."""
        return len(self.symbols) * self.minutes

    @property
    def starts_ms(self) -> Places:
        """The start of each minute, UNIX milliseconds."""
        return np.asarray(self.interval.minutes, dtype=np.int64)

    def places(self, rows: pl.DataFrame) -> Places:
        """The place of each row, -1 for what belongs to none.

        Args:
            rows: with `symbol` (text) and `timestamp` (int64 ms, the bar's start).
        """
        if not self.size or rows.is_empty():
            return np.full(rows.height, -1, dtype=np.int64)
        names = pl.Series(self.symbols, dtype=pl.String)
        symbol = rows["symbol"].cast(pl.Enum(names), strict=False).to_physical().cast(pl.Int64).fill_null(-1)
        offset_ms = rows["timestamp"].fill_null(-1).to_numpy() - self.interval.minutes.start
        minute = offset_ms // MINUTE_MS
        number = symbol.to_numpy()
        on_grid = (number >= 0) & (offset_ms % MINUTE_MS == 0) & (minute >= 0) & (minute < self.minutes)
        return np.where(on_grid, number * self.minutes + minute, -1)

    def mask(self, rows: pl.DataFrame) -> Mask:
        """Whether a row stands at each place."""
        found = np.zeros(self.size, dtype=np.bool_)
        places = self.places(rows)
        found[places[places >= 0]] = True
        return found

    def table(self, flat: NDArray[_Value]) -> NDArray[_Value]:
        """A view of a flat array as `[symbols, minutes]`."""
        return flat.reshape(len(self.symbols), self.minutes)

    def keys(self, places: Places) -> pl.DataFrame:
        """`symbol, timestamp` of these places, in their order."""
        symbol, minute = np.divmod(places, max(self.minutes, 1))
        names = pl.Series("symbol", self.symbols, dtype=pl.String).gather(symbol)
        return pl.DataFrame(
            [names, pl.Series("timestamp", self.interval.minutes.start + minute * MINUTE_MS, pl.Int64)]
        )
