"""The asset `ledger`: every expected minute of a UTC day in exactly one state, as numbers, a table of gaps, and two checks.

Lives here: the asset, its checks, and what the UI shows of a ledger. Does not: the states (quality/ledger.py), or where a ledger is
kept (quality/ledger_day.py).

It stands beside daily_qa and not below it: a red comparison there stops everything below, on exactly the days on which the ledger
says what is known. Annotations are not postponed in this module: Dagster reads them when an asset is defined.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl

from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.orchestration import metadata
from ohlcv_assets.orchestration.common import asset_key, failures
from ohlcv_assets.orchestration.partitions import DAYS_OF_A_RUN, daily_partitions, day_of, selected_keys
from ohlcv_assets.orchestration.preview import evaluation_of_partition, just_stored, outputs_of_checks
from ohlcv_assets.orchestration.ranges import Outcomes
from ohlcv_assets.orchestration.resources import DatabaseResource, LakeResource, UniverseResource
from ohlcv_assets.quality.ledger import Ledger, State
from ohlcv_assets.quality.ledger_day import keep_ledger, ledger_of_day
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.storage.quality_store import QualityStore
from ohlcv_assets.timestamps import MINUTE_MS, iso

LEDGER_SUMS_TO_GRID = "ledger_sums_to_grid"
NOTHING_UNEXPLAINED = "nothing_unexplained"
MEANINGS = {
    LEDGER_SUMS_TO_GRID: "The stored ledger has every expected minute of every symbol in exactly one state: the counts sum to "
    "symbols times minutes. When red: the tables were written past this program; materialize the ledger again.",
    NOTHING_UNEXPLAINED: "Two captures agree about every expected minute, or the ledger proves why it cannot be there. When red: "
    "the table names each range with its cause; run the repair of this day (ohlcv repair), or backfill what one side lacks. "
    "Bars that were traded outside of a listing mean that the universe's times are wrong: make the next version.",
}
_BLOCKING = (LEDGER_SUMS_TO_GRID,)


@dataclass(frozen=True)
class _Kept:
    """A day's ledger as it was made, how many minutes of each state the database says it has, and where it lies."""

    ledger: Ledger
    stored: dict[str, int]
    version: int
    file: str


def build_ledger(settings: Settings, market: Market) -> dg.AssetsDefinition:
    """The asset `ledger` of a market, a UTC day a partition."""
    key, partitions = asset_key(settings, market, "ledger"), daily_partitions(settings, market)
    specs = check_specs(key, partitions)

    @dg.asset(
        key=key,
        group_name=market.value,
        kinds={"postgres", "parquet"},
        tags={"market": market.value},
        partitions_def=partitions,
        # A repair comes first where both are asked for: the ledger then says what it led to.
        deps=[asset_key(settings, market, name) for name in ("streamed_bars", "daily_bars", "daily_repair")],
        backfill_policy=DAYS_OF_A_RUN,
        check_specs=specs,
        description=f"Every expected minute of {market} in exactly one state: confirmed, repaired, halted, not listed, on one "
        "side only, differing or missing, each gap with its cause and the proof.",
    )
    def ledger(
        context: dg.AssetExecutionContext,
        database: DatabaseResource,
        lake: LakeResource,
        universe: UniverseResource,
    ) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[Any] | dg.AssetCheckEvaluation | dg.Output[None]]:
        evaluated: dict[str, dict[str, tuple[bool, str, dict[str, Any]]]] = {}
        outcomes = Outcomes(context)
        with failures(), closing(database.open()) as store:
            opened, released = lake.open(), universe.load()
            for partition in outcomes.trying(selected_keys(context)):
                started_s = time.monotonic()
                with outcomes.of(partition) as facts:
                    kept = _keep(store, opened, released, market, partition, context.run.run_id)
                    evaluated[partition] = {LEDGER_SUMS_TO_GRID: _sums(kept), NOTHING_UNEXPLAINED: _unexplained(kept)}
                    facts |= {**_facts(kept), "taken_s": time.monotonic() - started_s}
        # The materialization has to be stored before a check can refer to it.
        yield from outcomes.materializations()
        for partition, each in evaluated.items():
            yield from _evaluations(context, specs, partition, each)
        outcomes.insist()
        yield from outputs_of_checks(specs)

    return ledger


def check_specs(key: dg.AssetKey, partitions: dg.PartitionsDefinition) -> list[dg.AssetCheckSpec]:
    """The two checks of a ledger, one evaluation a day each."""
    return [
        dg.AssetCheckSpec(name, asset=key, description=meaning, blocking=name in _BLOCKING, partitions_def=partitions)
        for name, meaning in MEANINGS.items()
    ]


def _keep(store: Database, lake: Lake, universe: Universe, market: Market, partition: str, run_id: str) -> _Kept:
    found = ledger_of_day(store, lake, universe, market, day_of(partition))
    version, file = keep_ledger(store, lake, universe, found, run_id=run_id)
    # Asked of the database and not of what was just made: the check is about what is stored.
    counted = QualityStore(store).ledger_counts(market, found.interval).select("state", "bars")
    return _Kept(found, dict(counted.iter_rows()), version, file)


def _facts(kept: _Kept) -> dict[str, Any]:
    """What the asset's page shows of a day: a number for each state, and the gaps."""
    found, counts = kept.ledger, kept.ledger.counts()
    agreed = counts[State.CONFIRMED] + counts[State.REPAIRED] + counts[State.HALTED]
    expected = found.expected - counts[State.NOT_LISTED]
    facts: dict[str, Any] = {
        "symbols": len(found.symbols),
        "bars_expected": found.expected,
        **{f"bars_{state.value}": bars for state, bars in counts.items()},
        "bars_unexplained": found.unexplained(),
        "verified_pct": 100.0 * agreed / expected if expected else 0.0,
        "version": kept.version,
        "file": dg.MetadataValue.path(kept.file),
    }
    gaps = found.gaps()
    return facts if gaps.is_empty() else {**facts, "gaps": metadata.table(_readable(gaps))}


def _readable(ranges: pl.DataFrame) -> pl.DataFrame:
    minutes = ((pl.col("end") - pl.col("start")) // MINUTE_MS).alias("minutes")
    return ranges.select("symbol", "start", "end", minutes, "state", "cause", "proof")


def _sums(kept: _Kept) -> tuple[bool, str, dict[str, Any]]:
    expected, stored = kept.ledger.expected, sum(kept.stored.values())
    made = {state.value: bars for state, bars in kept.ledger.counts().items() if bars}
    numbers = {"bars_expected": expected, "bars_in_ledger": stored}
    sentence = f"{stored:,} minutes are in the ledger, {expected:,} are expected"
    return (
        stored == expected and {state: bars for state, bars in kept.stored.items() if bars} == made,
        sentence,
        numbers,
    )


def _unexplained(kept: _Kept) -> tuple[bool, str, dict[str, Any]]:
    found, contradicted = kept.ledger, kept.ledger.unlisted_trades.height
    left, gaps = found.unexplained(), found.gaps()
    numbers: dict[str, Any] = {
        "bars_expected": found.expected,
        "bars_unexplained": left,
        "bars_unlisted": contradicted,
    }
    if not gaps.is_empty():
        numbers["gaps"] = metadata.table(_readable(gaps))
    sentence = f"{left:,} of {found.expected:,} minutes are unexplained"
    if left:
        first = gaps.row(0, named=True)
        where = f"{first['symbol']} [{iso(first['start'])}, {iso(first['end'])})"
        sentence += f"; first {where}: {first['state']}" + (f", {first['cause']}" if first["cause"] else "")
    if contradicted:
        sentence += f"; {contradicted:,} bars were traded outside of a listing"
    return left == 0 and contradicted == 0, sentence, numbers


def _evaluations(
    context: dg.AssetExecutionContext,
    specs: list[dg.AssetCheckSpec],
    partition: str,
    outcomes: dict[str, tuple[bool, str, dict[str, Any]]],
) -> Iterator[dg.AssetCheckEvaluation]:
    judged = just_stored(context, partition)
    for spec in specs:
        passed, sentence, numbers = outcomes[spec.name]
        yield evaluation_of_partition(
            context,
            spec,
            partition,
            judged,
            passed=passed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=sentence,
            metadata=numbers,
        )
