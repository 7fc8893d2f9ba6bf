"""The checks that both captures must pass: their names, what each one means, and what to do when it is red.

Lives here: the list of checks, and how what was found (quality/) becomes an evaluation a partition. The ten-minute and the
daily QA have the same checks. Does not: any comparison. The names are constants: they are the key of a check's history.

A check blocks where wrong data would flow on: what differs, stands twice or is no possible bar. A minute that is missing is
named, and what is there is right: it is red and blocks nothing. What is odd, and may yet be right, is a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import dagster as dg
import polars as pl

from ohlcv_assets.orchestration import metadata
from ohlcv_assets.orchestration.preview import evaluation_of_partition, just_stored
from ohlcv_assets.quality import sentences
from ohlcv_assets.quality.completeness import Coverage, missing_ranges
from ohlcv_assets.quality.diagnosis import diagnose, explained_kinds
from ohlcv_assets.quality.expectations import Validation
from ohlcv_assets.quality.explained import due_interval, never_listed, nothing_explained, unexplained
from ohlcv_assets.quality.flat_blocks import FLAT_BLOCKS_SCHEMA, flat_blocks
from ohlcv_assets.quality.freshness import absent_symbols, freshness, latency
from ohlcv_assets.quality.soundness import Soundness
from ohlcv_assets.quality.verdict import Verdict
from ohlcv_assets.timestamps import iso

STREAMED_EQUALS_FETCHED = "streamed_equals_fetched"
STREAMED_COMPLETE = "streamed_complete"
FETCHED_COMPLETE = "fetched_complete"
STREAMED_UNIQUE = "streamed_unique"
FETCHED_UNIQUE = "fetched_unique"
STREAMED_SOUND = "streamed_sound"
FETCHED_SOUND = "fetched_sound"
UNIVERSE_PRESENT = "universe_present"
STREAMED_FRESH = "streamed_fresh"
KNOWLEDGE_LATENCY = "knowledge_latency"
FLAT_BLOCKS = "flat_blocks"

Side = Literal["streamed", "fetched"]


@dataclass(frozen=True)
class Evidence:
    """What the checks of one partition look at.

    Attributes:
        verdict: both sides, compared.
        validations: what Great Expectations found, by side; empty where it was not asked.
        explained: `EXPLAINED_SCHEMA`: minutes that neither side has and that are proven not to be there.
        not_listed: symbols of the universe that were not expected at all: not listed in the interval.
        latency_limit_s: `Settings.latency_limit_s`.
        replayed: whether a replay exchange was captured, whose clock is not the database's.
        pages: where the pages of this partition are, by their name.
        heat_map: a picture (PNG) of the partition, where there is one.
    """

    verdict: Verdict
    validations: Mapping[str, Validation] = field(default_factory=dict)
    explained: pl.DataFrame = field(default_factory=nothing_explained)
    not_listed: frozenset[str] = frozenset()
    latency_limit_s: float = 5.0
    replayed: bool = False
    pages: Mapping[str, str] = field(default_factory=dict)
    heat_map: bytes | None = None

    def coverage(self, side: Side) -> Coverage:
        """The completeness of one side."""
        return self.verdict.streamed_coverage if side == "streamed" else self.verdict.fetched_coverage

    def soundness(self, side: Side) -> Soundness:
        """The soundness of one side, by polars."""
        return self.verdict.streamed_soundness if side == "streamed" else self.verdict.fetched_soundness


@dataclass(frozen=True)
class Outcome:
    """What one check found: the verdict, one sentence, and numbers."""

    passed: bool
    sentence: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Check:
    """A check: its stable name, its meaning with the way out, and how it reads the evidence.

    Attributes:
        blocking: whether nothing after it is materialized when it is red.
        warns: whether red is a warning: something odd, and no error.
    """

    name: str
    meaning: str
    evaluate: Callable[[Evidence], Outcome]
    blocking: bool = False
    warns: bool = False


def _match(evidence: Evidence) -> Outcome:
    report = evidence.verdict.match
    numbers: dict[str, Any] = {
        key: value for key, value in evidence.verdict.summary().items() if key not in ("market", "interval")
    }
    if not report.differences.is_empty():
        shown = report.differences.rename({"left": "streamed", "right": "fetched"})
        numbers["first_differences"] = metadata.table(shown)
        looks = unexplained(diagnose(evidence.verdict), evidence.explained)
        numbers["looks_like"] = metadata.table(explained_kinds(looks))
    if "report" in evidence.pages:
        numbers["report"] = dg.MetadataValue.path(evidence.pages["report"])
    if evidence.heat_map is not None:
        numbers["heat_map"] = metadata.picture(evidence.heat_map, "equal, missing and differing bars")
    return Outcome(report.is_match, sentences.of_match(report), numbers)


def _complete(side: Side) -> Callable[[Evidence], Outcome]:
    def evaluate(evidence: Evidence) -> Outcome:
        found = evidence.coverage(side)
        missing = unexplained(found.missing, evidence.explained)
        explained, strange = evidence.explained.height, found.off_grid + found.outside
        possible = found.expected - explained
        numbers: dict[str, Any] = {
            "bars_expected": found.expected,
            "bars_present": found.present,
            "bars_missing": missing.height,
            "bars_explained": explained,
            "bars_duplicate": found.duplicate,
            "bars_off_grid": found.off_grid,
            "bars_outside": found.outside,
            "coverage_pct": 100.0 * found.present / possible if possible else 0.0,
        }
        sentence = f"{found.present:,} of {found.expected:,} bars are there"
        if explained:
            sentence += f"; {explained:,} could not be: {sentences.of_explained(evidence.explained)}"
        if not missing.is_empty():
            ranges = missing_ranges(missing)
            numbers["missing_ranges"] = metadata.table(ranges)
            sentence += f"; missing: {sentences.of_ranges(ranges)}"
        if strange:
            sentence += f"; {strange:,} rows are of no expected minute"
        return Outcome(found.expected > 0 and missing.is_empty() and not strange, sentence, numbers)

    return evaluate


def _unique(side: Side) -> Callable[[Evidence], Outcome]:
    kind = "duplicate_left" if side == "streamed" else "duplicate_right"

    def evaluate(evidence: Evidence) -> Outcome:
        match = evidence.verdict.match
        duplicate = match.duplicate_left if side == "streamed" else match.duplicate_right
        rows = match.rows_left if side == "streamed" else match.rows_right
        numbers: dict[str, Any] = {"rows": rows, "bars_duplicate": duplicate}
        if not duplicate:
            return Outcome(True, f"{rows:,} rows, each of another bar", numbers)
        twice = match.differences.filter(pl.col("kind") == kind)
        numbers["first_duplicates"] = metadata.table(
            twice.select("symbol", "timestamp", rows="left" if side == "streamed" else "right")
        )
        first = sentences.of_difference(twice.row(0, named=True))
        return Outcome(False, f"{duplicate:,} of {rows:,} rows are one too many; first {first}", numbers)

    return evaluate


def _sound(side: Side) -> Callable[[Evidence], Outcome]:
    def evaluate(evidence: Evidence) -> Outcome:
        found, validation = evidence.soundness(side), evidence.validations.get(side)
        broken = found.violations.height
        numbers: dict[str, Any] = {"bars_checked": found.rows, "invariants_broken": broken}
        sentence = f"{broken:,} broken invariants in {found.rows:,} bars"
        if broken:
            sentence += f": {', '.join(found.broken_names)}"
            numbers["first_broken"] = metadata.table(found.violations)
        agree = True
        if validation is not None:
            agree = validation.broken == found.broken_names
            sentence += "; Great Expectations agrees" if agree else _disagreement(validation)
            numbers |= metadata.of_validation(validation)
        if "soundness" in evidence.pages:
            numbers["soundness_report"] = dg.MetadataValue.path(evidence.pages["soundness"])
        return Outcome(found.is_sound and agree, sentence, numbers)

    return evaluate


def _disagreement(validation: Validation) -> str:
    return f"; Great Expectations does not agree, it says: {', '.join(validation.broken) or 'nothing is broken'}"


def _universe(evidence: Evidence) -> Outcome:
    verdict = evidence.verdict
    not_listed = evidence.not_listed | never_listed(evidence.explained, verdict.interval)
    expected = sorted(set(verdict.symbols) - not_listed)
    absent = {
        side: absent_symbols(bars, expected)
        for side, bars in (("streamed", verdict.streamed), ("fetched", verdict.fetched))
    }
    numbers: dict[str, Any] = {
        "symbols_expected": len(expected),
        "symbols_not_listed": len(not_listed),
        **{f"symbols_absent_{side}": len(names) for side, names in absent.items()},
    }
    said = [f"not {side}: {sentences.of_names(names)}" for side, names in absent.items() if names]
    if said:
        rows = [{"side": side, "symbol": name} for side, names in absent.items() for name in names]
        numbers["absent_symbols"] = metadata.table(pl.DataFrame(rows))
        return Outcome(False, f"symbols without a bar: {'; '.join(said)}", numbers)
    unlisted = f", {len(not_listed):,} were not listed" if not_listed else ""
    return Outcome(bool(expected), f"all {len(expected):,} symbols are there{unlisted}", numbers)


def _fresh(evidence: Evidence) -> Outcome:
    verdict = evidence.verdict
    found = freshness(verdict.streamed, due_interval(verdict.interval, evidence.explained, len(verdict.symbols)))
    numbers: dict[str, Any] = {"due_timestamp": iso(found.due_ms), "symbols_behind": found.symbols_behind}
    if found.newest_ms is None or found.minutes_behind is None:
        return Outcome(False, f"nothing was streamed; due was {iso(found.due_ms)}", numbers)
    numbers |= {"newest_timestamp": iso(found.newest_ms), "minutes_behind": found.minutes_behind}
    said = f"the newest streamed bar is {iso(found.newest_ms)}"
    behind = f", {found.minutes_behind:,} minutes before the newest due" if found.minutes_behind else ", as is due"
    return Outcome(found.is_fresh, said + behind, numbers)


def _latency(evidence: Evidence) -> Outcome:
    found, limit_s = latency(evidence.verdict.streamed), evidence.latency_limit_s
    numbers: dict[str, Any] = {"latency_limit_s": limit_s}
    if evidence.replayed:
        return Outcome(True, "not measurable: the past is replayed, and the database's clock is of today", numbers)
    if found is None:
        return Outcome(True, "not measurable: no bar came by WebSocket", numbers)
    numbers |= metadata.of_latency(found)
    sentence = (
        f"99 % of {found.bars:,} bars were stored within {found.p99_s:.2f} s of their end; the limit is {limit_s:g} s"
    )
    if found.min_s < 0:
        sentence += f"; the earliest {-found.min_s:.2f} s before it: the database's clock is behind the exchange's"
    return Outcome(found.p99_s <= limit_s and found.min_s >= 0, sentence, numbers)


def _flat(evidence: Evidence) -> Outcome:
    verdict = evidence.verdict
    blocks = pl.concat(
        [
            flat_blocks(bars).with_columns(side=pl.lit(side))
            for side, bars in (("streamed", verdict.streamed), ("fetched", verdict.fetched))
        ]
    ).select("side", *FLAT_BLOCKS_SCHEMA)
    numbers: dict[str, Any] = {"suspicious_blocks": blocks.height, "suspicious_bars": int(blocks["minutes"].sum())}
    if blocks.is_empty():
        return Outcome(True, "no symbol stands still for longer than its own habit explains", numbers)
    numbers["blocks"] = metadata.table(blocks)
    longest = blocks.sort("minutes", descending=True).row(0, named=True)
    return Outcome(
        False,
        f"{blocks.height:,} suspicious flat blocks; the longest is {longest['symbol']} ({longest['side']}), "
        f"{iso(longest['start'])} to {iso(longest['end'])}, and the next bar opens {longest['jump_pct']:.2f} % off",
        numbers,
    )


CHECKS: tuple[Check, ...] = (
    Check(
        STREAMED_EQUALS_FETCHED,
        "Every bar that was streamed and every bar that was fetched by REST are the same, in every value, with no "
        "tolerance. When red: the table names the first differing bars, the report shows them among their neighbours; run the "
        "repair of this partition, which fetches them a third time and says which side is right.",
        _match,
        blocking=True,
    ),
    Check(
        STREAMED_COMPLETE,
        "PostgreSQL holds every minute of every symbol that could be had, and nothing that was not expected. When red: materialize the hours of "
        "streamed_bars that hold the missing minutes; a past hour is completed by REST.",
        _complete("streamed"),
    ),
    Check(
        FETCHED_COMPLETE,
        "The lake holds every minute of every symbol that could be had, and nothing that was not expected. When red: the exchange had no such bar in two "
        "fetches; materialize daily_bars again with `replace: true` to ask once more.",
        _complete("fetched"),
    ),
    Check(
        STREAMED_UNIQUE,
        "PostgreSQL holds no bar twice. When red: its primary key is broken, look at the table before anything else is written.",
        _unique("streamed"),
        blocking=True,
    ),
    Check(
        FETCHED_UNIQUE,
        "The lake holds no bar twice. When red: the file was not written by the platform; materialize daily_bars again with "
        "`replace: true`.",
        _unique("fetched"),
        blocking=True,
    ),
    Check(
        STREAMED_SOUND,
        "Every streamed bar obeys every invariant of a bar, and Great Expectations, where it was asked, says so too. When red: the "
        "table names the bar and the invariant; run the repair of this partition.",
        _sound("streamed"),
        blocking=True,
    ),
    Check(
        FETCHED_SOUND,
        "Every fetched bar obeys every invariant of a bar, and Great Expectations, where it was asked, says so too. When red: the "
        "table names the bar and the invariant; materialize daily_bars again with `replace: true`.",
        _sound("fetched"),
        blocking=True,
    ),
    Check(
        UNIVERSE_PRESENT,
        "Every symbol of the universe has at least one bar on each side, or is proven not to have been listed. When red: see whether "
        "the exchange delisted the symbol; if so, release a universe that says when.",
        _universe,
    ),
    Check(
        STREAMED_FRESH,
        "The newest streamed bar reaches the end of what was due. When red: see that the run of this hour of streamed_bars is alive and that "
        "the sensor keep_streaming is on.",
        _fresh,
    ),
    Check(
        KNOWLEDGE_LATENCY,
        "99 % of the bars that came by WebSocket were stored within OHLCV_LATENCY_LIMIT_S of their end. Not measurable in a replay. "
        "When red: look at the load and the clock of this host and of the database, and at the reconnects of streamed_bars.",
        _latency,
        warns=True,
    ),
    Check(
        FLAT_BLOCKS,
        "No symbol shows one price and no volume for much longer than it is its habit, and then opens at another price: trades that "
        "are not in the bars. Zero volume alone is no error. When red: compare the block with another source; if the exchange itself "
        "has it so, it stays as it is.",
        _flat,
        warns=True,
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


def outcomes(evidence: Evidence) -> list[Outcome]:
    """What each check finds, in the order of `CHECKS`; the bars of the evidence are needed no longer."""
    return [check.evaluate(evidence) for check in CHECKS]


def evaluations(
    context: dg.AssetExecutionContext,
    specs_of_asset: list[dg.AssetCheckSpec],
    partition_key: str,
    found: list[Outcome],
) -> Iterator[dg.AssetCheckEvaluation]:
    """One evaluation a check for one partition; yield the asset's MaterializeResult before these."""
    judged = just_stored(context, partition_key)
    for spec, check, outcome in zip(specs_of_asset, CHECKS, found, strict=True):
        yield evaluation_of_partition(
            context,
            spec,
            partition_key,
            judged,
            passed=outcome.passed,
            severity=dg.AssetCheckSeverity.WARN if check.warns else dg.AssetCheckSeverity.ERROR,
            description=outcome.sentence,
            metadata=outcome.numbers,
        )
