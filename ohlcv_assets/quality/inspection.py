"""A look at a day or an hour from outside of Dagster: the comparison that the QA assets make, stored as they store it.

Lives here: the verdict of one side against the other with its gaps explained, and whether all of it is green: what the checks
that are no warnings say together. Does not: the comparison (verdict.py), explaining (explained.py), or publishing (publish.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from ohlcv_assets.quality.causes import Evidence
from ohlcv_assets.quality.completeness import Coverage, missing_ranges
from ohlcv_assets.quality.diagnosis import counted, diagnose
from ohlcv_assets.quality.evidence import evidence_of_day
from ohlcv_assets.quality.expectations import validate_sides
from ohlcv_assets.quality.explained import explained_gaps, unexplained
from ohlcv_assets.quality.publish import Stored, store_result
from ohlcv_assets.quality.results import Flow, partition_folder
from ohlcv_assets.quality.sides import DaySide, HourSide
from ohlcv_assets.quality.verdict import Verdict, compare

if TYPE_CHECKING:
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.timestamps import Interval

#: Missing minutes as ranges of a side (`completeness.missing_ranges`).
GAPS_SCHEMA: dict[str, pl.DataType] = {
    "side": pl.String(),
    "start": pl.Int64(),
    "end": pl.Int64(),
    "symbols": pl.Int64(),
    "example": pl.String(),
    "bars": pl.Int64(),
}


@dataclass(frozen=True)
class Inspection:
    """What was found, and where it is stored.

    Attributes:
        verdict: both sides, compared.
        explained: `explained.EXPLAINED_SCHEMA`: minutes that neither side has and that are proven not to be there.
        stored: where the differing bars and the pages are.
    """

    verdict: Verdict
    explained: pl.DataFrame
    stored: Stored

    @property
    def is_green(self) -> bool:
        """Whether both sides have the same sound bars, all that could be had, and nothing else."""
        verdict = self.verdict
        sound = verdict.streamed_soundness.is_sound and verdict.fetched_soundness.is_sound
        return verdict.match.is_match and sound and all(map(self._is_complete, self._sides().values()))

    def diagnosis(self) -> dict[str, int]:
        """How many bars that are not right look like what (`diagnosis.Kind`); what is explained is right."""
        return counted(unexplained(diagnose(self.verdict), self.explained))

    def gaps(self) -> pl.DataFrame:
        """The minutes that a side lacks and nothing explains, as ranges: `GAPS_SCHEMA`, the largest of each side first."""
        sides = [
            missing_ranges(unexplained(found.missing, self.explained)).select(pl.lit(side).alias("side"), pl.all())
            for side, found in self._sides().items()
        ]
        return pl.concat(sides)

    def facts(self) -> dict[str, Any]:
        """The verdict, the counts, the diagnosis and the places, for machines; all counts are of bars."""
        explained = dict(self.explained.group_by("state").len().sort("state").iter_rows())
        broken = {
            name: [*found.broken_names]
            for name, found in (
                ("streamed", self.verdict.streamed_soundness),
                ("fetched", self.verdict.fetched_soundness),
            )
        }
        return {
            "verdict": "green" if self.is_green else "red",
            **self.verdict.summary(),
            "bars_explained": explained,
            "invariants_broken": broken,
            "diagnosis": self.diagnosis(),
            "differences": self.stored.differences,
            **self.stored.pages,
        }

    def _sides(self) -> dict[str, Coverage]:
        return {"streamed": self.verdict.streamed_coverage, "fetched": self.verdict.fetched_coverage}

    def _is_complete(self, found: Coverage) -> bool:
        lacks = unexplained(found.missing, self.explained)
        return found.expected > 0 and lacks.is_empty() and not found.off_grid + found.outside


def inspect(
    database: Database,
    side: DaySide | HourSide,
    fetched: pl.DataFrame,
    interval: Interval,
    *,
    run_id: str,
    expectations: bool = False,
) -> Inspection:
    """Compare what is stored now, and store the result beside those of the QA assets, as the newest.

    Args:
        database: the streamed side.
        side: the fetched one: a day's file, or the windows of an hour.
        fetched: its bars, and
        interval: the minutes that were fetched, both as `side.read()` gives them.
        run_id: names the result.
        expectations: also have Great Expectations look at both sides (seconds), and keep its page.
    """
    symbols = side.universe.listed_in(side.market, interval)
    verdict = compare(database, fetched, symbols, side.market, interval)
    flow: Flow = "daily_qa" if isinstance(side, DaySide) else "recent_qa"
    explained = explained_gaps(verdict, partial(_evidence, database, side))
    validations = validate_sides(verdict) if expectations else {}
    folder = partition_folder(flow, side.market, side.universe, verdict.interval)
    stored = store_result(side.lake, verdict, validations, folder, run_id, explained=explained)
    return Inspection(verdict, explained, stored)


def _evidence(database: Database, side: DaySide | HourSide) -> Evidence:
    if isinstance(side, DaySide):
        return evidence_of_day(database, side.lake, side.universe, side.market, side.day)
    # Whether the exchange stood still is known when the day was downloaded.
    return Evidence(listing=side.universe.listings)
