"""What the platform asks of Dagster's webserver, over GraphQL, as the UI does.

Lives here: launching a run, waiting for it, and reading a materialization's or check's numbers. Does not: any
import of dagster: the webserver is a program that speaks HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from ohlcv_assets.errors import Refused

_REPOSITORY = "__repository__"
_TIMEOUT_S = 60
_POLL_S = 0.5
_LOOK = "read the logs beside the data: logs/webserver.log, logs/daemon.log"
_FINISHED = ("SUCCESS", "FAILURE", "CANCELED")

_LAUNCH = """
mutation Launch($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
_RUN = "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status startTime endTime } } }"
_LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries {
    name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }
"""
_CHECKS = """
query Checks($key: AssetKeyInput!, $check: String!, $limit: Int!) {
  assetCheckExecutions(assetKey: $key, checkName: $check, limit: $limit) {
    runId status evaluation { success partition description metadataEntries {
      label ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue }
      ... on TextMetadataEntry { text } ... on TableMetadataEntry { table { records } } } } } }
"""
_MATERIALIZATIONS = """
query Materializations($key: AssetKeyInput!, $partitions: [String!]) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode { assetMaterializations(partitions: $partitions) {
    partition runId metadataEntries { label ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue }
      ... on TextMetadataEntry { text } ... on PathMetadataEntry { path } } } } } }
"""


@dataclass(frozen=True)
class Run:
    """A finished run: its id, its status and how long its code ran, in seconds."""

    run_id: str
    status: str
    taken_s: float


class DagsterApi:
    """Dagster's webserver at `url`, for one code location."""

    def __init__(self, url: str, location_name: str) -> None:
        self.url = url
        self.location_name = location_name

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a GraphQL query.

        Raises:
            Refused: the webserver answered with an error.
        """
        try:
            answer = self._post(query, variables)
        except (requests.RequestException, ValueError) as error:
            raise Refused(f"Dagster's webserver does not answer: {type(error).__name__}", hint=_LOOK) from error
        if answer.get("errors"):
            # Behind an error of its storage Dagster sends the whole statement: the first line says what happened.
            first_line = str(answer["errors"][0]["message"]).strip().splitlines()[0][:300]
            raise Refused(f"Dagster refused a query: {first_line}", hint=_LOOK)
        data: dict[str, Any] = answer["data"]
        return data

    def _post(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        asked = {"query": query, "variables": variables}
        answer: dict[str, Any] = requests.post(f"{self.url}/graphql", json=asked, timeout=_TIMEOUT_S).json()
        return answer

    def ready(self) -> bool:
        """Whether the webserver answers and has loaded the code location.

        Raises:
            Refused: the code location failed to load, with its error.
        """
        try:
            entries = self._post(_LOCATIONS, {})["data"]["workspaceOrError"]["locationEntries"]
        except (requests.RequestException, ValueError, TypeError, KeyError):
            return False
        for entry in entries:
            if entry["locationOrLoadError"] and entry["locationOrLoadError"]["__typename"] == "PythonError":
                raise Refused(f"the code location does not load: {entry['locationOrLoadError']['message']}")
        return any(entry["name"] == self.location_name and entry["loadStatus"] == "LOADED" for entry in entries)

    def launch(self, job: str, *, partition: str | None = None, partitions: tuple[str, str] | None = None) -> str:
        """Start a run of a job for one partition, or for all from the first to the last, and return its id."""
        tags = {"dagster/partition": partition} if partition else {}
        if partitions:
            tags = dict(zip(_RANGE_TAGS, partitions, strict=True))
        selector = {"repositoryName": _REPOSITORY, "repositoryLocationName": self.location_name, "jobName": job}
        parameters = {
            "selector": selector,
            "runConfigData": {},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        answer = self.ask(_LAUNCH, parameters=parameters)["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise Refused(f"Dagster did not start {job}: {answer}")
        run_id: str = answer["run"]["runId"]
        return run_id

    def wait(self, run_ids: list[str], *, timeout_s: float, on_poll: Callable[[], None] = lambda: None) -> list[Run]:
        """Wait for runs to end; calls `on_poll` twice a second.

        Raises:
            Refused: one of them has not ended in time.
        """
        deadline_s, finished = time.monotonic() + timeout_s, dict[str, Run]()
        while len(finished) < len(run_ids):
            if time.monotonic() > deadline_s:
                raise Refused(f"a run did not end within {timeout_s:.0f} s", hint="make ui, and open Runs")
            for run_id in (run_id for run_id in run_ids if run_id not in finished):
                run = self.ask(_RUN, id=run_id)["runOrError"]
                if run["status"] in _FINISHED:
                    finished[run_id] = Run(run_id, run["status"], (run["endTime"] or 0) - (run["startTime"] or 0))
            on_poll()
            time.sleep(_POLL_S)
        return [finished[run_id] for run_id in run_ids]

    def has_ended(self, run_id: str) -> bool:
        """Whether a run has ended, well or not."""
        return self.ask(_RUN, id=run_id)["runOrError"]["status"] in _FINISHED

    def last_check(self, asset: list[str], check: str) -> dict[str, Any]:
        """The newest evaluation of a check: `passed`, `description`, `run_id`, and its numbers by name."""
        found = self.ask(_CHECKS, key={"path": asset}, check=check, limit=1)["assetCheckExecutions"]
        if not found or not found[0]["evaluation"]:
            raise Refused(f"the check {check} of {'/'.join(asset)} was never evaluated")
        evaluation = found[0]["evaluation"]
        numbers = _by_label(evaluation["metadataEntries"])
        head = {
            "passed": evaluation["success"],
            "description": evaluation["description"],
            "run_id": found[0]["runId"],
        }
        return {**head, **numbers}

    def materializations(self, asset: list[str], partitions: list[str]) -> dict[str, dict[str, Any]]:
        """The newest materialization's numbers of each partition that has one."""
        answer = self.ask(_MATERIALIZATIONS, key={"path": asset}, partitions=partitions)["assetNodeOrError"]
        newest_last = reversed(answer["assetMaterializations"])
        return {found["partition"]: _by_label(found["metadataEntries"]) for found in newest_last}


_RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


def _by_label(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {entry["label"]: _value(entry) for entry in entries}


def _value(entry: dict[str, Any]) -> Any:
    return next(
        (entry[key] for key in ("intValue", "floatValue", "text", "path", "table") if entry.get(key) is not None),
        None,
    )
