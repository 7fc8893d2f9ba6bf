"""What was told already: the memory that makes of a thousand evaluations one alert a finding.

Lives here: which evaluations and failed runs are news, and which green ones end a red. Does not: how they are told
(alerts.py), or where the memory is kept (orchestration/alerts.py keeps it in its sensor's cursor). Pure: a memory goes in,
another comes out.

A check that turns red on a partition begins an episode, which lasts until it is green again. In an episode the same
finding is told once. An alert's fingerprint holds its event, so that events that are read twice are recognised. Runs
have no green: the same failure of the same job and partition is told again after six hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from ohlcv_assets.quality.alerts import Alert, Level, Number, check_link, digest_of, fingerprint_of, run_link

#: How many red checks and failed jobs are remembered; beyond, the oldest are forgotten and may be told once more.
_MOST_REMEMBERED = 300
#: Of one red check; a finding that comes back after so many others is told again.
_MOST_FINDINGS = 10
_DIGITS = 12
_SAME_FAILURE_S = 6 * 3600.0

_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class CheckOutcome:
    """One evaluation of a check.

    Attributes:
        event: its place in the event log; later ones are higher.
        asset: the parts of the asset's key: region, market, name.
        check: its name.
        partition: that was evaluated, or None.
        passed: whether it is green.
        warns: whether red is a warning only.
        sentence: what was found.
        numbers: of its metadata.
        digest: of what was found, where the check says one: the same numbers of other bars are another finding.
    """

    event: int
    asset: tuple[str, ...]
    check: str
    partition: str | None
    passed: bool
    warns: bool
    sentence: str
    numbers: Mapping[str, Number]
    digest: str = ""

    @property
    def subject(self) -> str:
        """The check and its asset, as a person says it; the region is the deployment's."""
        return f"{' '.join(self.asset[1:] or self.asset)}: {self.check}"


@dataclass(frozen=True)
class FailedRun:
    """A run that failed.

    Attributes:
        run_id: of the run.
        job: its name.
        partition: that it was for, or None.
        sentence: what its failed step said.
        market: spot, futures or None.
        failed_s: when, in UNIX seconds.
    """

    run_id: str
    job: str
    partition: str | None
    sentence: str
    market: str | None
    failed_s: float


class _Episode(BaseModel):
    """A red check: the event that began it, and the findings that were told of it, oldest first."""

    model_config = ConfigDict(frozen=True)
    began: int
    told: tuple[str, ...] = ()


class _Failure(BaseModel):
    """A failure of a job: the run that was told, and when it failed (UNIX seconds)."""

    model_config = ConfigDict(frozen=True)
    run_id: str
    failed_s: float


class Memory(BaseModel):
    """Which checks are red and which failures were told, oldest first."""

    model_config = ConfigDict(frozen=True)
    red: dict[str, _Episode] = {}
    failures: dict[str, _Failure] = {}

    def after_checks(self, outcomes: Iterable[CheckOutcome], ui_url: str) -> tuple[Memory, list[Alert]]:
        """The memory after these evaluations (oldest first), and what is to be told of them."""
        red, alerts = dict(self.red), []
        for outcome in outcomes:
            key = "/".join((*outcome.asset, outcome.check, outcome.partition or ""))
            episode = red.pop(key, None)
            if outcome.passed:
                if episode is not None:
                    alerts.append(_of_check(outcome, Level.RECOVERED, key, episode, ui_url))
                continue
            level = Level.WARNING if outcome.warns else Level.ERROR
            episode = episode or _Episode(began=outcome.event)
            finding = fingerprint_of(level, digest_of(outcome.numbers), outcome.digest)[:_DIGITS]
            if finding not in episode.told:
                episode = _Episode(began=episode.began, told=(*episode.told, finding)[-_MOST_FINDINGS:])
                alerts.append(_of_check(outcome, level, key, episode, ui_url))
            red[key] = episode
        return self.model_copy(update={"red": _newest(red)}), alerts

    def after_runs(self, runs: Iterable[FailedRun], ui_url: str) -> tuple[Memory, list[Alert]]:
        """The memory after these failures (oldest first), and what is to be told of them."""
        failures, alerts = dict(self.failures), []
        for run in runs:
            key = fingerprint_of(run.job, run.partition or "", run.sentence)
            told = failures.get(key)
            if told is not None and run.failed_s - told.failed_s < _SAME_FAILURE_S:
                continue
            failures.pop(key, None)
            failures[key] = _Failure(run_id=run.run_id, failed_s=run.failed_s)
            alerts.append(_of_run(run, ui_url))
        return self.model_copy(update={"failures": _newest(failures)}), alerts


def _newest(entries: dict[str, _Entry]) -> dict[str, _Entry]:
    return dict(list(entries.items())[-_MOST_REMEMBERED:])


def _of_check(outcome: CheckOutcome, level: Level, key: str, episode: _Episode, ui_url: str) -> Alert:
    finding = "" if outcome.passed else episode.told[-1]
    return Alert(
        fingerprint=fingerprint_of("alert", level, key, str(episode.began), finding, str(outcome.event)),
        level=level,
        subject=outcome.subject,
        partition=outcome.partition,
        sentence=outcome.sentence,
        numbers=outcome.numbers,
        link=check_link(ui_url, outcome.asset, outcome.check),
        market=outcome.asset[1] if len(outcome.asset) > 1 else None,
    )


def _of_run(run: FailedRun, ui_url: str) -> Alert:
    return Alert(
        fingerprint=fingerprint_of("alert", "run", run.run_id),
        level=Level.ERROR,
        subject=f"run of {run.job} failed",
        partition=run.partition,
        sentence=run.sentence,
        numbers={},
        link=run_link(ui_url, run.run_id),
        market=run.market,
    )
