"""What is asked of Dagster's webserver about backfills, over GraphQL, as the UI's dialog and backfill page do.

Lives here: launching a range of partitions, starting again what failed, and reading how far it is. Does not: any import of
dagster, or runs of jobs (dagster_api.py). The tests and the measurements of backfills ask through this.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ohlcv_assets.errors import Refused
from ohlcv_assets.platform.dagster_api import DagsterApi

_POLL_S = 0.5
_OVER = ("COMPLETED_SUCCESS", "COMPLETED_FAILED", "COMPLETED", "FAILED", "CANCELED")

_LAUNCH = """
mutation Launch($parameters: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $parameters) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""
_RETRY = """
mutation Retry($parameters: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $parameters) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""
_STATUS = """
query Status($id: String!) { partitionBackfillOrError(backfillId: $id) { __typename ... on PartitionBackfill {
  status assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts {
    assetKey { path } numPartitionsTargeted numPartitionsInProgress numPartitionsMaterialized numPartitionsFailed } } } } } }
"""
_RUNS = """
query Runs($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}, limit: 1000) {
  ... on Runs { results { runId status startTime endTime tags { key value } } } } }
"""
_EVENTS = """
query Events($id: ID!) { logsForRun(runId: $id, limit: 100) { ... on EventConnection { events {
  ... on MessageEvent { message } } } } }
"""
_PID = re.compile(r"\(pid: (\d+)\)")
_PARTITIONS = """
query Partitions($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  partitionKeys assetPartitionStatuses { ... on TimePartitionStatuses { ranges { status startKey endKey } } } } } }
"""


@dataclass(frozen=True)
class Progress:
    """How far a backfill is: Dagster's word for it, and numbers of partitions of all its assets."""

    status: str
    targeted: int = 0
    in_progress: int = 0
    materialized: int = 0
    failed: int = 0

    @property
    def is_over(self) -> bool:
        """Whether no further run follows."""
        return self.status in _OVER


@dataclass(frozen=True)
class Backfills:
    """The backfills of a webserver."""

    api: DagsterApi

    def launch(self, assets: Sequence[list[str]], partitions: Sequence[str]) -> str:
        """Start a backfill of these partitions of these assets, and return its id."""
        parameters = {"assetSelection": [{"path": path} for path in assets], "partitionNames": list(partitions)}
        return self._started(self.api.ask(_LAUNCH, parameters=parameters)["launchPartitionBackfill"])

    def retry_failed(self, backfill_id: str) -> str:
        """The UI's *Re-execute from failure*: another backfill, of the partitions that this one did not bring about."""
        parameters = {"parentRunId": backfill_id, "strategy": "FROM_FAILURE"}
        return self._started(self.api.ask(_RETRY, parameters=parameters)["reexecutePartitionBackfill"])

    def progress(self, backfill_id: str) -> Progress:
        """How far it is."""
        found = self.api.ask(_STATUS, id=backfill_id)["partitionBackfillOrError"]
        counts = (found.get("assetBackfillData") or {}).get("assetBackfillStatuses", [])
        names = ("Targeted", "InProgress", "Materialized", "Failed")
        return Progress(found["status"], *(sum(each[f"numPartitions{name}"] for each in counts) for name in names))

    def runs(self, backfill_id: str) -> list[dict[str, Any]]:
        """Its runs: `runId`, `status`, `startTime`, `endTime`, and `tags` by name."""
        found: list[dict[str, Any]] = self.api.ask(_RUNS, id=backfill_id)["runsOrError"]["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def worker(self, backfill_id: str, *, timeout_s: float = 60.0) -> int:
        """The number of the process of one of its runs that is under way, on this machine; waited for.

        Raises:
            Refused: no run of it is under way in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for run in self.runs(backfill_id):
                if run["status"] == "STARTED":
                    events = self.api.ask(_EVENTS, id=run["runId"])["logsForRun"].get("events", [])
                    pids = [int(found[1]) for event in events if (found := _PID.search(event.get("message") or ""))]
                    if pids and b"multiprocessing" in Path(f"/proc/{pids[-1]}/cmdline").read_bytes():
                        return pids[-1]
            time.sleep(0.1)
        raise Refused(f"no run of the backfill {backfill_id} is under way", hint="look at its page")

    def wait(
        self, *backfill_ids: str, timeout_s: float, on_poll: Callable[[], None] = lambda: None
    ) -> list[Progress]:
        """Wait until backfills are over; calls `on_poll` twice a second.

        Raises:
            Refused: one of them is not over in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            found = [self.progress(each) for each in backfill_ids]
            if all(each.is_over for each in found):
                return found
            if time.monotonic() > deadline_s:
                raise Refused(f"a backfill was not over within {timeout_s:.0f} s: {found}", hint="look at its page")
            on_poll()
            time.sleep(_POLL_S)

    def partitions(self, asset: list[str], status: str = "MATERIALIZED") -> list[str]:
        """The partitions of an asset that have this status: MATERIALIZED, FAILED or MATERIALIZING."""
        found = self.api.ask(_PARTITIONS, key={"path": asset})["assetNodeOrError"]
        ranges = [each for each in found["assetPartitionStatuses"]["ranges"] if each["status"] == status]
        return [
            key for key in found["partitionKeys"] if any(each["startKey"] <= key <= each["endKey"] for each in ranges)
        ]

    def _started(self, answer: dict[str, Any]) -> str:
        if answer["__typename"] != "LaunchBackfillSuccess":
            raise Refused(f"Dagster did not start the backfill: {answer}")
        backfill_id: str = answer["backfillId"]
        return backfill_id
