"""The verdict on an interval: what was streamed against what was fetched, each also on its own.

Lives here: which comparisons make a verdict, and where it is kept. The ten-minute and the daily QA are the same code over
different intervals. Does not: how two frames are compared (match.py), what is missing (completeness.py) or unsound
(soundness.py), and what a person is shown (orchestration/checks.py).
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.quality.completeness import Coverage, coverage
from ohlcv_assets.quality.decisions import digest_of
from ohlcv_assets.quality.match import MatchReport, match
from ohlcv_assets.quality.soundness import Soundness, soundness
from ohlcv_assets.timestamps import Interval

if TYPE_CHECKING:
    from ohlcv_assets.instruments import Market
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake


@dataclass(frozen=True)
class Verdict:
    """Both captures of one market and interval; "streamed" is the database's side, "fetched" the lake's."""

    market: Market
    interval: Interval
    match: MatchReport
    streamed_coverage: Coverage
    fetched_coverage: Coverage
    streamed_soundness: Soundness
    fetched_soundness: Soundness
    #: The bars themselves, as they were compared (the bar's columns; the streamed side also has `channel`).
    streamed: pl.DataFrame
    fetched: pl.DataFrame
    symbols: tuple[str, ...]

    def summary(self) -> dict[str, str | int | float]:
        """The counts under the names that metadata and reports use."""
        return {
            "market": self.market.value,
            "interval": str(self.interval),
            "bars_expected": self.streamed_coverage.expected,
            "bars_streamed": self.match.rows_left,
            "bars_fetched": self.match.rows_right,
            "bars_equal": self.match.equal,
            "bars_differing": self.match.differing,
            "bars_only_streamed": self.match.only_left,
            "bars_only_fetched": self.match.only_right,
            "bars_duplicate": self.match.duplicate_left + self.match.duplicate_right,
            "bars_missing_streamed": self.streamed_coverage.missing.height,
            "bars_missing_fetched": self.fetched_coverage.missing.height,
            "match_pct": self.match.match_pct,
            "differences_digest": digest_of(self.match.differences, self.both_lack()),
        }

    def both_lack(self) -> pl.DataFrame:
        """The key of every expected bar that neither side has: `market, symbol, timestamp`, sorted."""
        lacking = self.streamed_coverage.missing.join(
            self.fetched_coverage.missing, on=("symbol", "timestamp"), how="semi"
        )
        return lacking.select(pl.lit(self.market.value).alias("market"), "symbol", "timestamp").sort(
            "symbol", "timestamp"
        )

    def missing(self) -> pl.DataFrame:
        """Every minute that a side lacks: `side` (streamed, fetched), `symbol`, `timestamp`, one row each."""
        sides = {"streamed": self.streamed_coverage, "fetched": self.fetched_coverage}
        return pl.concat(
            [found.missing.select(pl.lit(side).alias("side"), "symbol", "timestamp") for side, found in sides.items()]
        )


def compare(
    database: Database, fetched: pl.DataFrame, symbols: Sequence[str], market: Market, interval: Interval
) -> Verdict:
    """Compare what the database holds of an interval with what was fetched of it, bar for bar.

    Args:
        database: the streamed side; its latest values count.
        fetched: the other capture, rows of a bar's columns.
        symbols: what was expected of both.
        market: the market of all of it.
        interval: the minutes that were expected.
    """
    return verdict_on(database.read(market, interval, symbols=symbols), fetched, symbols, market, interval)


def verdict_on(
    streamed: pl.DataFrame, fetched: pl.DataFrame, symbols: Sequence[str], market: Market, interval: Interval
) -> Verdict:
    """Compare two captures, wherever they come from (see `compare`)."""
    return Verdict(
        market=market,
        interval=interval,
        match=match(streamed, fetched),
        streamed_coverage=coverage(streamed, symbols, interval),
        fetched_coverage=coverage(fetched, symbols, interval),
        streamed_soundness=soundness(streamed),
        fetched_soundness=soundness(fetched),
        streamed=streamed,
        fetched=fetched,
        symbols=tuple(symbols),
    )


def store_verdict(lake: Lake, verdict: Verdict, folder: str) -> str:
    """Keep a verdict in a folder of the lake: its counts (JSON), the differing bars and the missing minutes (Parquet).

    Returns:
        Where the Parquet of differing bars is: `kind, column, left, right` of every bar that differs; left is the
        streamed value, right the fetched one.
    """
    lake.put(f"{folder}/summary.json", json.dumps(verdict.summary(), indent=2).encode())
    lake.put(f"{folder}/missing.parquet", _parquet(verdict.missing()))
    return lake.put(f"{folder}/differences.parquet", _parquet(verdict.match.differences))


def _parquet(frame: pl.DataFrame) -> bytes:
    content = io.BytesIO()
    frame.write_parquet(content)
    return content.getvalue()
