"""The checks that both captures must pass: their names, what each one means, and what to do when it is red.

Lives here: the list of checks and how a verdict (quality/verdict.py) becomes an evaluation a partition. The ten-minute and
the daily QA have the same checks. Does not: the
comparison itself. The names are constants: they are the key of a check's history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl

from ohlcv_assets.orchestration import metadata
from ohlcv_assets.orchestration.preview import evaluation_of_partition
from ohlcv_assets.quality.completeness import Coverage, missing_ranges
from ohlcv_assets.quality.soundness import Soundness
from ohlcv_assets.quality.verdict import Verdict
from ohlcv_assets.timestamps import iso

STREAMED_EQUALS_FETCHED = "streamed_equals_fetched"
STREAMED_COMPLETE = "streamed_complete"
FETCHED_COMPLETE = "fetched_complete"
STREAMED_SOUND = "streamed_sound"
FETCHED_SOUND = "fetched_sound"


@dataclass(frozen=True)
class Outcome:
    """What one check found: the verdict, one sentence, and numbers."""

    passed: bool
    sentence: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Check:
    """A check of a verdict: its stable name, its meaning with the way out, and how it reads a verdict."""

    name: str
    meaning: str
    blocking: bool
    evaluate: Callable[[Verdict], Outcome]


def _match(verdict: Verdict) -> Outcome:
    report = verdict.match
    sentence = (
        f"all {report.equal:,} bars are equal"
        if report.is_match
        else f"{report.union - report.equal:,} of {report.union:,} bars are not the same on both sides"
    )
    numbers: dict[str, Any] = {
        key: value for key, value in verdict.summary().items() if key not in ("market", "interval")
    }
    if not report.differences.is_empty():
        sentence += f"; first {_difference(report.differences.row(0, named=True))}"
    if not report.differences.is_empty():
        numbers["first_differences"] = metadata.table(
            report.differences.rename({"left": "streamed", "right": "fetched"})
        )
    return Outcome(report.is_match, sentence, numbers)


def _difference(row: Mapping[str, Any]) -> str:
    bar = f"{row['symbol']} {iso(row['timestamp'])}"
    if row["column"] is None:
        return f"{bar}: {row['kind']}"
    return f"{bar}: {row['column']} streamed {row['left']!r}, fetched {row['right']!r}"


def _coverage(side: Callable[[Verdict], Coverage]) -> Callable[[Verdict], Outcome]:
    def evaluate(verdict: Verdict) -> Outcome:
        found = side(verdict)
        numbers: dict[str, Any] = {
            "bars_expected": found.expected,
            "bars_present": found.present,
            "bars_missing": found.missing.height,
            "bars_duplicate": found.duplicate,
            "bars_off_grid": found.off_grid,
            "bars_outside": found.outside,
            "coverage_pct": found.coverage_pct,
        }
        sentence = f"{found.present:,} of {found.expected:,} bars are there"
        if not found.missing.is_empty():
            ranges = missing_ranges(found.missing)
            numbers["missing_ranges"] = metadata.table(ranges)
            sentence += f"; missing: {_named(ranges)}"
        return Outcome(found.is_complete, sentence, numbers)

    return evaluate


def _named(ranges: pl.DataFrame) -> str:
    """The longest missing ranges in words; the table has the others, missing.parquet every minute."""
    first = [
        f"{iso(start)} to {iso(end)} of {example}" + (f" and {symbols - 1} more symbols" if symbols > 1 else "")
        for start, end, symbols, example, _ in ranges.head(3).iter_rows()
    ]
    return ", ".join(first) + (f", and {ranges.height - 3} more ranges" if ranges.height > 3 else "")


def _soundness(side: Callable[[Verdict], Soundness]) -> Callable[[Verdict], Outcome]:
    def evaluate(verdict: Verdict) -> Outcome:
        found = side(verdict)
        broken = found.violations.height
        numbers: dict[str, Any] = {"bars_checked": found.rows, "invariants_broken": broken}
        if broken:
            numbers["first_broken"] = metadata.table(found.violations)
        return Outcome(found.is_sound, f"{broken:,} broken invariants in {found.rows:,} bars", numbers)

    return evaluate


CHECKS: tuple[Check, ...] = (
    Check(
        STREAMED_EQUALS_FETCHED,
        "Every bar that was streamed and every bar that was fetched by REST are the same, in every value, with no "
        "tolerance. When red: the table names each differing bar; open the Parquet of differences, then fetch it "
        "a third time to see which side is right.",
        True,
        _match,
    ),
    Check(
        STREAMED_COMPLETE,
        "PostgreSQL holds every minute of every symbol, once. When red: materialize the hours of streamed_bars that "
        "hold the missing minutes; a past hour is completed by REST.",
        False,
        _coverage(lambda verdict: verdict.streamed_coverage),
    ),
    Check(
        FETCHED_COMPLETE,
        "The lake holds every minute of every symbol, once. When red: the exchange had no such bar in two fetches; "
        "materialize daily_bars again with `replace: true` to ask once more.",
        False,
        _coverage(lambda verdict: verdict.fetched_coverage),
    ),
    Check(
        STREAMED_SOUND,
        "Every streamed bar obeys every invariant of a bar. When red: the table names the bar and the invariant.",
        False,
        _soundness(lambda verdict: verdict.streamed_soundness),
    ),
    Check(
        FETCHED_SOUND,
        "Every fetched bar obeys every invariant of a bar. When red: the table names the bar and the invariant.",
        False,
        _soundness(lambda verdict: verdict.fetched_soundness),
    ),
)


def specs(asset: dg.AssetKey, partitions: dg.PartitionsDefinition) -> list[dg.AssetCheckSpec]:
    """The check specs of a QA asset, partitioned as the asset is."""
    return [
        dg.AssetCheckSpec(
            check.name, asset=asset, description=check.meaning, blocking=check.blocking, partitions_def=partitions
        )
        for check in CHECKS
    ]


def evaluations(
    context: dg.AssetExecutionContext, specs_of_asset: list[dg.AssetCheckSpec], partition_key: str, verdict: Verdict
) -> Iterator[dg.AssetCheckEvaluation]:
    """One evaluation a check for one partition; yield the asset's MaterializeResult before these."""
    for spec, check in zip(specs_of_asset, CHECKS, strict=True):
        outcome = check.evaluate(verdict)
        yield evaluation_of_partition(
            context,
            spec,
            partition_key,
            passed=outcome.passed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=outcome.sentence,
            metadata=outcome.numbers,
        )
