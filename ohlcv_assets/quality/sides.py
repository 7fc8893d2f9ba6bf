"""Where the fetched bars of a partition are: a day's file of the lake, or the ten-minute windows of an hour.

Lives here: reading either as one side of a comparison, and writing bars into it that a repair decided. Does not: the decision
(decisions.py), the files (storage/lake.py, recent.py), or the other side, which is the database.

Nothing is updated in place: what was there is kept beside the new version.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Protocol

import polars as pl

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY
from ohlcv_assets.errors import NoBars
from ohlcv_assets.quality.recent import WINDOW_MS, RecentBars
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import Interval

if TYPE_CHECKING:
    from ohlcv_assets.instruments import Market, Universe
    from ohlcv_assets.quality.verdict import Verdict


class FetchedSide(Protocol):
    """Where the fetched bars of a partition are: a day's file, or the windows of an hour."""

    @property
    def name(self) -> str:
        """The partition as a person writes it."""
        ...

    def read(self) -> tuple[pl.DataFrame, Interval]:
        """The bars, and the minutes that were fetched."""
        ...

    def absent(self, verdict: Verdict) -> pl.DataFrame:
        """Minutes that nothing can fill, as far as is known: rows with `symbol, timestamp`."""
        ...

    def rewrite(self, changed: pl.DataFrame) -> list[str]:
        """Put bars (`CAPTURED_SCHEMA`) in the place of their former values, or beside the others; what was there is kept.

        Returns:
            Where the former content is kept.
        """
        ...


@dataclass(frozen=True)
class DaySide:
    """A day's file in the lake."""

    lake: Lake
    market: Market
    universe: Universe
    day: date

    @property
    def name(self) -> str:
        """The UTC day."""
        return self.day.isoformat()

    def read(self) -> tuple[pl.DataFrame, Interval]:
        """The day's bars, and the whole day."""
        return self.lake.read_day(self._signature, self.day), Interval.of_day(self.day)

    def absent(self, verdict: Verdict) -> pl.DataFrame:
        """The minutes that the day's download found not to be there."""
        return self.lake.read_absent(self._signature, self.day)

    def rewrite(self, changed: pl.DataFrame) -> list[str]:
        """A new version of the day's file; the former one is kept under `replaced/`."""
        others = self.lake.read_day(self._signature, self.day).join(changed, on=KEY, how="anti")
        bars = pl.concat([frame.select(list(CAPTURED_SCHEMA)) for frame in (others, changed)])
        written = self.lake.write_day(
            self._signature, self.day, bars, replace=True, universe_hash=self.universe.content_hash
        )
        absent = self.lake.read_absent(self._signature, self.day)
        still = absent.join(changed, on=("symbol", "timestamp"), how="anti")
        if still.height < absent.height:
            self.lake.write_absent(self._signature, self.day, still)
        return [written.replaced_key] if written.replaced_key else []

    @property
    def _signature(self) -> Signature:
        return Signature.daily(self.market, self.universe)


@dataclass(frozen=True)
class HourSide:
    """The ten-minute windows of an hour, those that were fetched so far."""

    lake: Lake
    market: Market
    universe: Universe
    hour: Interval

    @property
    def name(self) -> str:
        """The hour, half-open."""
        return str(self.hour)

    def read(self) -> tuple[pl.DataFrame, Interval]:
        """The bars of the hour's windows, and the minutes from the first window to the last.

        Raises:
            NoBars: no window was fetched yet.
        """
        bars, windows = self._store.read(list(self.hour.split(WINDOW_MS)))
        if not windows:
            raise NoBars(
                f"no window of {self.hour} was fetched yet", hint="materialize recent_bars of this hour first"
            )
        return bars, Interval(windows[0].start_ms, windows[-1].end_ms)

    def absent(self, verdict: Verdict) -> pl.DataFrame:
        """Minutes in which the symbol was not listed, and those that no symbol has on either side.

        Then the exchange stood still, for each window was asked for twice; the day's download proves it.
        """
        lacking = verdict.both_lack().select("symbol", "timestamp")
        several = len(verdict.symbols) > 1
        in_all = pl.len().over("timestamp") == len(verdict.symbols)
        times = self.universe.listings
        unlisted = [name in times and not times[name].listed_at(minute) for name, minute in lacking.iter_rows()]
        return lacking.filter((in_all & several) | pl.Series(unlisted, dtype=pl.Boolean))

    def rewrite(self, changed: pl.DataFrame) -> list[str]:
        """A new version of each window concerned; the former ones are kept under `former/`."""
        kept = []
        for window in self.hour.split(WINDOW_MS):
            inside = changed.filter(pl.col("timestamp").is_between(window.start_ms, window.end_ms, closed="left"))
            if not inside.is_empty():
                kept.append(self._store.replace(window, inside))
        return kept

    @property
    def _store(self) -> RecentBars:
        return RecentBars(self.lake, self.market, self.universe)
