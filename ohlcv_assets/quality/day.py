"""One day's verdict: what was streamed against what was fetched, each also on its own.

Lives here: which comparisons make a day's QA, and where its result is kept. Does not: how two frames are compared
(match.py), what is missing (completeness.py) or unsound (soundness.py), and what a person is shown
(orchestration/checks.py).
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.quality.completeness import Coverage, coverage
from ohlcv_assets.quality.match import MatchReport, match
from ohlcv_assets.quality.soundness import Soundness, soundness
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import Interval

if TYPE_CHECKING:
    from ohlcv_assets.instruments import Market, Universe
    from ohlcv_assets.storage.database import Database


@dataclass(frozen=True)
class DayQa:
    """The verdict on one market and UTC day; "streamed" is the database's side, "daily" the lake's."""

    market: Market
    day: date
    match: MatchReport
    streamed_coverage: Coverage
    daily_coverage: Coverage
    streamed_soundness: Soundness
    daily_soundness: Soundness


def compare_day(database: Database, lake: Lake, universe: Universe, market: Market, day: date) -> DayQa:
    """Compare both captures of a day, bar for bar.

    Raises:
        DayMissing: the lake has no such day.
        CorruptFile: the lake's file is not what was written.
    """
    interval, symbols = Interval.of_day(day), universe.symbols[market]
    streamed = database.read(market, interval, symbols=symbols)
    daily = lake.read_day(Signature.daily(market, universe), day)
    return DayQa(
        market=market,
        day=day,
        match=match(streamed, daily),
        streamed_coverage=coverage(streamed, symbols, interval),
        daily_coverage=coverage(daily, symbols, interval),
        streamed_soundness=soundness(streamed),
        daily_soundness=soundness(daily),
    )


def store_result(lake: Lake, universe: Universe, qa: DayQa, run_id: str) -> str:
    """Keep the differing bars (Parquet) and the counts (JSON) of a verdict in the lake, one folder a run.

    Returns:
        Where the Parquet of differing bars is: `kind, column, left, right` of every bar that differs; left is the
        streamed value, right the daily one.
    """
    folder = f"qa/daily_qa/{qa.market}/{universe.path_form}/date={qa.day}/run={run_id}"
    differences = io.BytesIO()
    qa.match.differences.write_parquet(differences)
    lake.put(f"{folder}/summary.json", json.dumps(summary(qa), indent=2).encode())
    return lake.put(f"{folder}/differences.parquet", differences.getvalue())


def summary(qa: DayQa) -> dict[str, str | int | float]:
    """The counts of a verdict under the names that metadata and reports use."""
    return {
        "market": qa.market.value,
        "day": qa.day.isoformat(),
        "bars_expected": qa.streamed_coverage.expected,
        "bars_streamed": qa.match.rows_left,
        "bars_fetched": qa.match.rows_right,
        "bars_equal": qa.match.equal,
        "bars_differing": qa.match.differing,
        "bars_only_streamed": qa.match.only_left,
        "bars_only_fetched": qa.match.only_right,
        "bars_duplicate": qa.match.duplicate_left + qa.match.duplicate_right,
        "match_pct": qa.match.match_pct,
    }


def missing_minutes(coverage_of_side: Coverage) -> pl.DataFrame:
    """The minutes that one side lacks, `symbol, timestamp`, named one by one."""
    return coverage_of_side.missing.select("symbol", "timestamp").sort("symbol", "timestamp")
