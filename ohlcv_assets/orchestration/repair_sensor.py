"""The sensor that asks for repairs: a red check of a partition leads to one repair run of it, and that to the check again.

Lives here: reading Dagster's evaluations since the last tick, and which of the red partitions need a run now. Does not: the
repair (repairs.py, quality/repair.py), which compares again by itself.

A red partition is looked at until it is green, left to a person, or was tried three times in vain. The same differences are
repaired once: what a repair left behind is known by its digest, and asking again would give the same answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError

from ohlcv_assets.clock import utc_now
from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration.common import asset_key
from ohlcv_assets.orchestration.preview import UnresolvedAssetJobDefinition, check_events
from ohlcv_assets.settings import Settings

#: The tag of a repair run that holds the digest of what it was asked to repair.
DIFFERENCES_TAG = "ohlcv/differences"
#: Which asset repairs what which asset finds.
REPAIRED_BY = {"recent_qa": "recent_repair", "daily_qa": "daily_repair"}
MOST_ATTEMPTS = 3
#: Repair runs of one job under way at once: many red days are repaired one after the other.
_AT_ONCE = 2
_PAUSES_S = (0.0, 20.0, 60.0)
_TICK_S = 10
_EVENTS_A_TICK = 500
_RUNS_LOOKED_AT = 200
#: A sensor that is switched on begins with what happened in the last day.
_LOOK_BACK_S = 86_400.0
#: PostgreSQL gives out a storage id before the event can be read: the cursor waits for the young ones.
_SETTLED_AFTER_S = 2.0
_MAX_RUNTIME_S = 900
#: Behind the streams, before whatever else waits for a place.
_PRIORITY = "5"

RepairJobs = Mapping[tuple[Market, str], UnresolvedAssetJobDefinition]


class Red(NamedTuple):
    """A partition of a QA asset with a red check."""

    market: Market
    asset: str
    partition: str


class Cursor(BaseModel):
    """Up to where evaluations were read, and the red partitions that are not settled yet."""

    model_config = ConfigDict(frozen=True)
    after: int | None = None
    red: tuple[Red, ...] = ()

    @classmethod
    def of(cls, text: str | None) -> Cursor:
        """The cursor that a tick left; a new one where there is none, or none that can be read."""
        try:
            return cls.model_validate_json(text or "{}")
        except ValidationError:
            return cls()


class _Answer(NamedTuple):
    """What becomes of a red partition in this tick: whether it is looked at again, the run, and why, for the log."""

    stays: bool
    request: dg.RunRequest | None = None
    why: str | None = None


def build_repair_sensor(settings: Settings, jobs: RepairJobs) -> dg.SensorDefinition:
    """The sensor `keep_repairing`.

    Args:
        settings: of the deployment.
        jobs: the repair job of each market and QA asset (`REPAIRED_BY`).
    """

    @dg.sensor(
        name="keep_repairing",
        jobs=list(jobs.values()),
        minimum_interval_seconds=min(_TICK_S, settings.sensor_interval_s),
        default_status=dg.DefaultSensorStatus.RUNNING if settings.autostart else dg.DefaultSensorStatus.STOPPED,
        description="A red check of daily_qa or recent_qa leads to one repair run of its partition, which ends with the "
        "check again. The same differences are repaired once; what cannot be decided is left to a person.",
    )
    def keep_repairing(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        before = Cursor.of(context.cursor)
        fresh, after = _red_since(context.instance, settings, before.after)
        desk = _Desk(context.instance, settings, {key: job.name for key, job in jobs.items()})
        answers = {red: desk.answer(red) for red in dict.fromkeys([*before.red, *fresh])}
        for answer in answers.values():
            if answer.why:
                context.log.warning(answer.why)
        cursor = Cursor(after=after, red=tuple(red for red, answer in answers.items() if answer.stays))
        requests = [answer.request for answer in answers.values() if answer.request]
        skip = (
            None
            if requests
            else f"{len(cursor.red)} red partitions are being repaired"
            if cursor.red
            else "no new red"
        )
        return dg.SensorResult(run_requests=requests, cursor=cursor.model_dump_json(), skip_reason=skip)

    return keep_repairing


class _Desk:
    """Answers what a red partition needs, from what Dagster knows at this moment."""

    def __init__(
        self, instance: dg.DagsterInstance, settings: Settings, jobs: Mapping[tuple[Market, str], str]
    ) -> None:
        self._instance = instance
        self._settings = settings
        self._jobs = jobs
        self._records: dict[str, Sequence[dg.RunRecord]] = {}
        self._asked: Counter[str] = Counter()

    def answer(self, red: Red) -> _Answer:
        """Whether it needs a run now, later or never."""
        digest = self._told(red, red.asset, "differences_digest")
        if not digest or digest == self._told(red, REPAIRED_BY[red.asset], "left_digest"):
            return _Answer(stays=False)
        job = self._jobs[red.market, red.asset]
        records = self._runs(job)
        alive = [record.dagster_run for record in records if not record.dagster_run.is_finished]
        if any(run.tags.get("dagster/partition") == red.partition for run in alive):
            return _Answer(stays=True)
        tried = [record for record in records if _is_for(record, red, digest)]
        if len(tried) >= MOST_ATTEMPTS:
            why = f"{red.market} {red.asset} {red.partition}: {len(tried)} repair runs died; repair it by hand"
            return _Answer(stays=False, why=why)
        if _ended_s_ago(tried) < _PAUSES_S[len(tried)] or len(alive) + self._asked[job] >= _AT_ONCE:
            return _Answer(stays=True)
        self._asked[job] += 1
        return _Answer(stays=True, request=self._request(red, job, digest, len(tried)))

    def _told(self, red: Red, asset: str, name: str) -> str | None:
        """What the newest materialization of the partition says under a name."""
        wanted = dg.AssetRecordsFilter(
            asset_key=asset_key(self._settings, red.market, asset), asset_partitions=[red.partition]
        )
        records = self._instance.fetch_materializations(wanted, limit=1).records
        found = records[0].asset_materialization if records else None
        value = found.metadata.get(name) if found else None
        return str(value.value) if value else None

    def _runs(self, job: str) -> Sequence[dg.RunRecord]:
        if job not in self._records:
            self._records[job] = self._instance.get_run_records(dg.RunsFilter(job_name=job), limit=_RUNS_LOOKED_AT)
        return self._records[job]

    def _request(self, red: Red, job: str, digest: str, attempt: int) -> dg.RunRequest:
        return dg.RunRequest(
            run_key=f"{self._settings.region}/{red.market}/{red.asset}/{red.partition}/{digest}/{attempt}",
            job_name=job,
            partition_key=red.partition,
            tags={
                "ohlcv/market": red.market.value,
                DIFFERENCES_TAG: digest,
                "dagster/priority": _PRIORITY,
                "dagster/max_runtime": str(_MAX_RUNTIME_S),
            },
        )


def _is_for(record: dg.RunRecord, red: Red, digest: str) -> bool:
    tags = record.dagster_run.tags
    return tags.get("dagster/partition") == red.partition and tags.get(DIFFERENCES_TAG) == digest


def _ended_s_ago(records: Sequence[dg.RunRecord]) -> float:
    ends = [record.end_time for record in records if record.end_time is not None]
    return utc_now().timestamp() - max(ends) if ends else float("inf")


def _red_since(instance: dg.DagsterInstance, settings: Settings, after: int | None) -> tuple[list[Red], int | None]:
    """The partitions with a red check since the cursor, and the new cursor.

    Young events are seen at once, and again by the next tick.
    """
    now_s = utc_now().timestamp()
    since_s = now_s - _LOOK_BACK_S if after is None else None
    records = check_events(instance, after=after, since_s=since_s, limit=_EVENTS_A_TICK)
    red = list(_red(records, settings))
    for record in records:
        if record.timestamp > now_s - _SETTLED_AFTER_S:
            break
        after = record.storage_id
    return red, after


def _red(records: Sequence[dg.EventLogRecord], settings: Settings) -> Iterator[Red]:
    for record in records:
        event = record.event_log_entry.dagster_event
        evaluation = event.event_specific_data if event else None
        if not isinstance(evaluation, dg.AssetCheckEvaluation) or evaluation.passed or evaluation.partition is None:
            continue
        region, market, asset = (*evaluation.asset_key.path, "", "")[:3]
        if region == settings.region and asset in REPAIRED_BY:
            yield Red(Market(market), asset, evaluation.partition)
