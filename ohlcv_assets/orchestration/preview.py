"""What Dagster does not promise to keep: preview features and private imports, all in this one module.

Lives here: everything that a new release of Dagster may move. The version is pinned, and
`ohlcv_assets_tests/orchestration/test_assets.py` says what a bump must still do: partitions of checks, over one day and over several.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.metadata import normalize_metadata
from dagster._core.definitions.partitions.partitioned_schedule import UnresolvedPartitionedAssetScheduleDefinition
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.event_api import EventRecordsFilter
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

__all__ = [
    "Judged",
    "UnresolvedAssetJobDefinition",
    "UnresolvedPartitionedAssetScheduleDefinition",
    "check_events",
    "evaluation_of_partition",
    "just_stored",
    "outputs_of_checks",
    "silence_preview_warnings",
]


def silence_preview_warnings() -> None:
    """Keep the warnings about partitioned checks and backfill policies out of people's terminals: we know."""
    for category in (dg.PreviewWarning, dg.BetaWarning, dg.SupersessionWarning):
        warnings.filterwarnings("ignore", category=category)


#: What says of which materialization a check speaks.
Judged = AssetCheckEvaluationTargetMaterializationData


def just_stored(context: dg.AssetExecutionContext, partition_key: str) -> Judged:
    """The materialization of a partition that this run has just stored; asked for once, whatever the number of its checks.

    Yield the asset's `MaterializeResult` first.
    """
    record = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=[partition_key]), limit=1
    ).records[0]
    return Judged(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)


def evaluation_of_partition(
    context: dg.AssetExecutionContext,
    spec: dg.AssetCheckSpec,
    partition_key: str,
    judged: Judged,
    *,
    passed: bool,
    severity: dg.AssetCheckSeverity,
    description: str,
    metadata: Mapping[str, Any],
) -> dg.AssetCheckEvaluation:
    """The outcome of one check on one partition, tied to the materialization that it judges (`just_stored`).

    A plain `AssetCheckResult` cannot name a partition: in a run over several, all of them would end up "skipped".
    Without the materialization's data the partition's status would stay "missing".
    """
    return dg.AssetCheckEvaluation(
        asset_key=context.asset_key,
        check_name=spec.name,
        partition=partition_key,
        passed=passed,
        severity=severity,
        blocking=spec.blocking,
        description=description,
        metadata=dict(normalize_metadata(metadata)),
        target_materialization_data=judged,
    )


def outputs_of_checks(specs: list[dg.AssetCheckSpec]) -> Iterator[dg.Output[None]]:
    """The empty outputs that Dagster expects for checks whose evaluations were yielded by hand."""
    for spec in specs:
        yield dg.Output(None, output_name=spec.get_python_identifier())


def check_events(
    instance: dg.DagsterInstance, *, after: int | None, since_s: float | None, limit: int, newest_first: bool = False
) -> list[dg.EventLogRecord]:
    """The evaluations of every check, of all runs: what Dagster offers only for one check at a time.

    Args:
        instance: whose events.
        after: only those with a higher storage id.
        since_s: only those after this time, UNIX seconds.
        limit: how many at most.
        newest_first: otherwise in the order of their storage ids.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise dg.DagsterInvariantViolationError(
            f"{type(storage).__name__} cannot be asked for the events of all runs"
        )
    wanted = EventRecordsFilter(
        dg.DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=after, after_timestamp=since_s
    )
    # Not its public sister: on SQLite that one opens the file of every run, and the evaluations are in the index as well.
    return list(storage._get_event_records(wanted, limit=limit, ascending=not newest_first))
