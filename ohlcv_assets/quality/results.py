"""What a QA run leaves in the lake: where it lies, under which names, and how it is read again.

Lives here: the same for both flows. Does not: writing it (publish.py), a verdict (verdict.py), or how a page looks (report/).
Each run has a folder of its own, so that a result never changes; `latest.json` beside the folders names the
newest, and is written last, so that whoever follows it finds a whole result.

    qa/daily_qa/futures/v7_3/date=2025-06-01/
        latest.json
        run=f1c4.../summary.json, differences.parquet, missing.parquet, neighbours.parquet, report.html,
                    and, where Great Expectations was asked, soundness.json, soundness.html
    qa/recent_qa/futures/v7_3/date=2025-06-01/hour=05/...
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from ohlcv_assets.errors import NoBars, ObjectMissing
from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.timestamps import Interval, from_ms

Flow = Literal["recent_qa", "daily_qa"]

#: Names the newest run of a partition.
LATEST = "latest.json"


@dataclass(frozen=True)
class QaResult:
    """A stored result: how far the two captures of a day or an hour agree, and where they do not.

    Attributes:
        folder: of the run, inside the lake.
        summary: the counts (`Verdict.summary`).
        differences: `match.DIFFERENCES_SCHEMA`: every bar and column that differs; left is streamed, right is fetched.
        missing: `side, symbol, timestamp`: every expected minute that a side lacks.
        neighbours: `findings.NEIGHBOURS_SCHEMA`: the first differing bars and those around them, of both sides.
        report: where the page for people is, a path or URL.
    """

    folder: str
    summary: Mapping[str, Any]
    differences: pl.DataFrame
    missing: pl.DataFrame
    neighbours: pl.DataFrame
    report: str

    @property
    def is_match(self) -> bool:
        """Whether every bar was equal on both sides."""
        return bool(self.summary["match_pct"] == 100.0)


def partition_folder(flow: Flow, market: Market, universe: Universe, interval: Interval) -> str:
    """Where the results on a day or an hour lie, in the lake.

    Args:
        flow: which of the two, a day's or an hour's.
        market: of the bars.
        universe: whose symbols were compared.
        interval: any part of the day or hour.
    """
    start = from_ms(interval.start_ms)
    hour = f"/hour={start:%H}" if flow == "recent_qa" else ""
    return f"qa/{flow}/{market}/{universe.path_form}/date={start:%Y-%m-%d}{hour}"


def newest_result(lake: Lake, folder: str) -> QaResult:
    """The newest result in a partition's folder.

    Raises:
        NoBars: nothing was compared there yet.
    """
    try:
        here = json.loads(lake.get(f"{folder}/{LATEST}"))["folder"]
    except ObjectMissing as error:
        raise NoBars(
            f"there is no QA result in {lake.location(folder)}", hint="materialize the QA of this partition first"
        ) from error
    return QaResult(
        folder=here,
        summary=json.loads(lake.get(f"{here}/summary.json")),
        differences=_frame(lake, f"{here}/differences.parquet"),
        missing=_frame(lake, f"{here}/missing.parquet"),
        neighbours=_frame(lake, f"{here}/neighbours.parquet"),
        report=lake.location(f"{here}/report.html"),
    )


def _frame(lake: Lake, key: str) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(lake.get(key)))
