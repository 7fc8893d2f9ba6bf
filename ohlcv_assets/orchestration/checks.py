"""The checks that a day's QA must pass: their names, what each one means, and what to do when it is red.

Lives here: the list of checks and how a verdict (quality/day.py) becomes an evaluation a partition. Does not: the
comparison itself. The names are constants: they are the key of a check's history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ohlcv_assets.orchestration import metadata
from ohlcv_assets.orchestration.preview import evaluation_of_partition
from ohlcv_assets.quality.completeness import Coverage
from ohlcv_assets.quality.day import DayQa, missing_minutes, summary
from ohlcv_assets.quality.soundness import Soundness

STREAMED_EQUALS_DAILY = "streamed_equals_daily"
STREAMED_COMPLETE = "streamed_complete"
DAILY_COMPLETE = "daily_complete"
STREAMED_SOUND = "streamed_sound"
DAILY_SOUND = "daily_sound"


@dataclass(frozen=True)
class Outcome:
    """What one check found: the verdict, one sentence, and numbers."""

    passed: bool
    sentence: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class DayCheck:
    """A check of a day: its stable name, its meaning with the way out, and how it reads a verdict."""

    name: str
    meaning: str
    blocking: bool
    evaluate: Callable[[DayQa], Outcome]


def _match(qa: DayQa) -> Outcome:
    report = qa.match
    sentence = (
        f"all {report.equal:,} bars are equal"
        if report.is_match
        else f"{report.union - report.equal:,} of {report.union:,} bars are not the same on both sides"
    )
    numbers: dict[str, Any] = {key: value for key, value in summary(qa).items() if key not in ("market", "day")}
    if not report.differences.is_empty():
        numbers["first_differences"] = metadata.table(
            report.differences.rename({"left": "streamed", "right": "daily"})
        )
    return Outcome(report.is_match, sentence, numbers)


def _coverage(side: Callable[[DayQa], Coverage]) -> Callable[[DayQa], Outcome]:
    def evaluate(qa: DayQa) -> Outcome:
        found = side(qa)
        numbers: dict[str, Any] = {
            "bars_expected": found.expected,
            "bars_present": found.present,
            "bars_missing": found.missing.height,
            "bars_duplicate": found.duplicate,
            "bars_off_grid": found.off_grid,
            "bars_outside": found.outside,
            "coverage_pct": found.coverage_pct,
        }
        if not found.missing.is_empty():
            numbers["first_missing"] = metadata.table(missing_minutes(found))
        return Outcome(found.is_complete, f"{found.present:,} of {found.expected:,} bars are there", numbers)

    return evaluate


def _soundness(side: Callable[[DayQa], Soundness]) -> Callable[[DayQa], Outcome]:
    def evaluate(qa: DayQa) -> Outcome:
        found = side(qa)
        broken = found.violations.height
        numbers: dict[str, Any] = {"bars_checked": found.rows, "invariants_broken": broken}
        if broken:
            numbers["first_broken"] = metadata.table(found.violations)
        return Outcome(found.is_sound, f"{broken:,} broken invariants in {found.rows:,} bars", numbers)

    return evaluate


DAY_CHECKS: tuple[DayCheck, ...] = (
    DayCheck(
        STREAMED_EQUALS_DAILY,
        "Every bar that was streamed and every bar that was fetched by REST are the same, in every value, with no "
        "tolerance. When red: the table names each differing bar; open the Parquet of differences, then fetch the day "
        "a third time to see which side is right.",
        True,
        _match,
    ),
    DayCheck(
        STREAMED_COMPLETE,
        "PostgreSQL holds every minute of every symbol, once. When red: materialize the hours of streamed_bars that "
        "hold the missing minutes; a past hour is completed by REST.",
        False,
        _coverage(lambda qa: qa.streamed_coverage),
    ),
    DayCheck(
        DAILY_COMPLETE,
        "The lake's file holds every minute of every symbol, once. When red: the exchange had no such bar in two "
        "fetches; materialize daily_bars again with `replace: true` to ask once more.",
        False,
        _coverage(lambda qa: qa.daily_coverage),
    ),
    DayCheck(
        STREAMED_SOUND,
        "Every streamed bar obeys every invariant of a bar. When red: the table names the bar and the invariant.",
        False,
        _soundness(lambda qa: qa.streamed_soundness),
    ),
    DayCheck(
        DAILY_SOUND,
        "Every fetched bar obeys every invariant of a bar. When red: the table names the bar and the invariant.",
        False,
        _soundness(lambda qa: qa.daily_soundness),
    ),
)


def specs(asset: dg.AssetKey, partitions: dg.PartitionsDefinition) -> list[dg.AssetCheckSpec]:
    """The check specs of a day's QA asset, partitioned as the asset is."""
    return [
        dg.AssetCheckSpec(
            check.name, asset=asset, description=check.meaning, blocking=check.blocking, partitions_def=partitions
        )
        for check in DAY_CHECKS
    ]


def evaluations(
    context: dg.AssetExecutionContext, specs_of_asset: list[dg.AssetCheckSpec], partition_key: str, qa: DayQa
) -> Iterator[dg.AssetCheckEvaluation]:
    """One evaluation a check for one day; yield the asset's MaterializeResult before these."""
    for spec, check in zip(specs_of_asset, DAY_CHECKS, strict=True):
        outcome = check.evaluate(qa)
        yield evaluation_of_partition(
            context,
            spec,
            partition_key,
            passed=outcome.passed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=outcome.sentence,
            metadata=outcome.numbers,
        )
