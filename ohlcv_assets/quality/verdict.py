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
            "match_pct": self.match.match_pct,
        }


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
    streamed = database.read(market, interval, symbols=symbols)
    return Verdict(
        market=market,
        interval=interval,
        match=match(streamed, fetched),
        streamed_coverage=coverage(streamed, symbols, interval),
        fetched_coverage=coverage(fetched, symbols, interval),
        streamed_soundness=soundness(streamed),
        fetched_soundness=soundness(fetched),
    )


def store_verdict(lake: Lake, verdict: Verdict, folder: str) -> str:
    """Keep the differing bars (Parquet) and the counts (JSON) of a verdict in a folder of the lake.

    Returns:
        Where the Parquet of differing bars is: `kind, column, left, right` of every bar that differs; left is the
        streamed value, right the fetched one.
    """
    differences = io.BytesIO()
    verdict.match.differences.write_parquet(differences)
    lake.put(f"{folder}/summary.json", json.dumps(verdict.summary(), indent=2).encode())
    return lake.put(f"{folder}/differences.parquet", differences.getvalue())
