"""The assets that compare: recent_qa every ten minutes over the hour so far, daily_qa over a whole day.

Lives here: which two captures each compares, over which interval; the checks on both are the same list (checks.py).
Does not: the comparison (quality/verdict.py).

The hour so far is compared as a whole each time, so that a later green cannot hide an earlier red. Annotations are not
postponed in this module: Dagster reads them when an asset is defined.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import dagster as dg
import polars as pl

from ohlcv_assets.errors import NoBars
from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.orchestration import checks, metadata
from ohlcv_assets.orchestration.common import asset_key, failures
from ohlcv_assets.orchestration.partitions import (
    DAYS_OF_A_RUN,
    daily_partitions,
    day_of,
    hour_of,
    recent_partitions,
    selected_keys,
)
from ohlcv_assets.orchestration.preview import outputs_of_checks
from ohlcv_assets.orchestration.ranges import Outcomes
from ohlcv_assets.orchestration.resources import DatabaseResource, LakeResource, UniverseResource
from ohlcv_assets.quality.causes import Evidence
from ohlcv_assets.quality.evidence import evidence_of_day
from ohlcv_assets.quality.expectations import validate_sides
from ohlcv_assets.quality.explained import explained_gaps
from ohlcv_assets.quality.freshness import latency
from ohlcv_assets.quality.publish import Stored, store_result
from ohlcv_assets.quality.recent import WINDOW_MS, RecentBars
from ohlcv_assets.quality.results import Flow, partition_folder
from ohlcv_assets.quality.verdict import Verdict, compare
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import Interval


class _Stores(NamedTuple):
    """What a run has opened."""

    database: Database
    lake: Lake
    universe: Universe


class _Judged(NamedTuple):
    """What was found in one partition: the verdict, and the gaps that are explained (`EXPLAINED_SCHEMA`)."""

    verdict: Verdict
    explained: pl.DataFrame


_Judge = Callable[[_Stores, str], _Judged]


def build_qa_assets(settings: Settings, market: Market) -> list[dg.AssetsDefinition]:
    """The two assets of a market that compare its captures."""
    return [build_recent_qa(settings, market), build_daily_qa(settings, market)]


def build_recent_qa(settings: Settings, market: Market) -> dg.AssetsDefinition:
    """The hour so far: what was streamed against what was fetched meanwhile."""

    def judge(stores: _Stores, key: str) -> _Judged:
        hour, universe = hour_of(key), stores.universe
        fetched, windows = RecentBars(stores.lake, market, universe).read(list(hour.split(WINDOW_MS)))
        if not windows:
            raise NoBars(f"no window of {hour} was fetched yet", hint="materialize recent_bars of this hour first")
        # Windows are fetched in order: what is there begins with the hour.
        so_far = Interval(windows[0].start_ms, windows[-1].end_ms)
        verdict = compare(stores.database, fetched, universe.listed_in(market, so_far), market, so_far)
        # Whether the exchange stood still is known when the day was downloaded; until then such a gap is red.
        return _Judged(verdict, explained_gaps(verdict, lambda: Evidence(listing=universe.listings)))

    return _build(
        settings,
        market,
        "recent_qa",
        recent_partitions(settings),
        "recent_bars",
        f"Streamed and freshly fetched bars of {market} compared, the hour so far, again every ten minutes.",
        judge,
    )


def build_daily_qa(settings: Settings, market: Market) -> dg.AssetsDefinition:
    """A whole day: what was streamed against the day's file. Dagster maps the day to its 24 hours by their time."""

    def judge(stores: _Stores, key: str) -> _Judged:
        day, (database, lake, universe) = day_of(key), stores
        fetched = lake.read_day(Signature.daily(market, universe), day)
        symbols = universe.listed_in(market, Interval.of_day(day))
        verdict = compare(database, fetched, symbols, market, Interval.of_day(day))
        return _Judged(verdict, explained_gaps(verdict, partial(evidence_of_day, *stores, market, day)))

    return _build(
        settings,
        market,
        "daily_qa",
        daily_partitions(settings, market),
        "daily_bars",
        f"Streamed and fetched bars of {market} compared, bar for bar and value for value, a UTC day at a time.",
        judge,
    )


def _build(
    settings: Settings,
    market: Market,
    name: Flow,
    partitions: dg.TimeWindowPartitionsDefinition,
    fetched: str,
    description: str,
    judge: _Judge,
) -> dg.AssetsDefinition:
    key = asset_key(settings, market, name)
    specs = checks.specs(key, partitions)

    @dg.asset(
        key=key,
        group_name=market.value,
        kinds={"polars"},
        tags={"market": market.value},
        partitions_def=partitions,
        # A repair comes first where both are asked for: the comparison then says what it led to.
        deps=[
            asset_key(settings, market, each) for each in ("streamed_bars", fetched, name.replace("_qa", "_repair"))
        ],
        backfill_policy=DAYS_OF_A_RUN if name == "daily_qa" else None,
        check_specs=specs,
        description=description,
    )
    def qa(
        context: dg.AssetExecutionContext,
        database: DatabaseResource,
        lake: LakeResource,
        universe: UniverseResource,
    ) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[Any] | dg.AssetCheckEvaluation | dg.Output[None]]:
        # What was found, and not the bars: a run over a month would hold all of them at once.
        found: dict[str, list[checks.Outcome]] = {}
        outcomes = Outcomes(context)
        with failures(), closing(database.open()) as store:
            stores = _Stores(store, lake.open(), universe.load())
            for partition in outcomes.trying(selected_keys(context)):
                started_s = time.monotonic()
                with outcomes.of(partition) as facts:
                    judged = judge(stores, partition)
                    evidence, stored = _look(settings, market, name, stores, judged, context.run.run_id)
                    found[partition] = checks.outcomes(evidence)
                    facts |= {**_facts(evidence, stored), "taken_s": time.monotonic() - started_s}
        # The materialization has to be stored before a check can refer to it.
        yield from outcomes.materializations()
        for partition, each in found.items():
            yield from checks.evaluations(context, specs, partition, each)
        outcomes.insist()
        yield from outputs_of_checks(specs)

    return qa


def _look(
    settings: Settings, market: Market, flow: Flow, stores: _Stores, judged: _Judged, run_id: str
) -> tuple[checks.Evidence, Stored]:
    """Ask Great Expectations where it is due, and store the result; what the checks look at."""
    verdict, thorough = judged.verdict, _is_thorough(flow, judged.verdict)
    validations = validate_sides(verdict) if thorough else {}
    folder = partition_folder(flow, market, stores.universe, verdict.interval)
    stored = store_result(stores.lake, verdict, validations, folder, run_id, explained=judged.explained)
    evidence = checks.Evidence(
        verdict,
        validations,
        explained=judged.explained,
        not_listed=frozenset(stores.universe.symbols[market]).difference(verdict.symbols),
        latency_limit_s=settings.latency_limit_s,
        replayed=settings.exchange_url is not None,
        pages=stored.pages,
        heat_map=stored.heat_map if thorough else None,
    )
    return evidence, stored


def _is_thorough(flow: Flow, verdict: Verdict) -> bool:
    """Whether Great Expectations is asked and the picture kept with the evaluation: not every ten minutes for nothing.

    The library takes seconds to import, and Dagster keeps each picture: an hour that runs and is green so far needs neither.
    """
    clean = verdict.match.is_match and verdict.streamed_coverage.is_complete and verdict.fetched_coverage.is_complete
    sound = verdict.streamed_soundness.is_sound and verdict.fetched_soundness.is_sound
    is_whole = flow == "daily_qa" or len(verdict.interval.minutes) == 60
    return is_whole or not (clean and sound)


def _facts(found: checks.Evidence, stored: Stored) -> dict[str, Any]:
    """What the asset's page shows of a partition."""
    late = None if found.replayed else latency(found.verdict.streamed)
    return {
        **metadata.of_verdict(found.verdict, found.explained),
        **(metadata.of_latency(late) if late else {}),
        "differences": dg.MetadataValue.path(stored.differences),
        **{name: dg.MetadataValue.path(location) for name, location in stored.pages.items()},
        **(
            {"heat_map": metadata.picture(found.heat_map, "equal, missing and differing bars")}
            if found.heat_map
            else {}
        ),
    }
