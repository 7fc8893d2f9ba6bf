"""The sensors that tell people: `notify` by a webhook, `mail_failed_runs` by e-mail.

Lives here: reading Dagster's events since the last tick, and what happens when the webhook, or PostgreSQL, is away. Does
not: which of the events are news (quality/alert_memory.py), the words (quality/alerts.py), the POST (quality/webhook.py).

The cursor holds where the tick stopped reading and what it remembers. It moves on only when the message was taken, so that
an alert that could not be delivered is read, and tried, again: at least once rather than never. What was told is
also kept in PostgreSQL, where a tick that died between the two finds it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError

from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import BadSetting, Refused, WebhookUnavailable
from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration.preview import check_events
from ohlcv_assets.orchestration.resources import DatabaseResource
from ohlcv_assets.quality.alert_memory import CheckOutcome, FailedRun, Memory
from ohlcv_assets.quality.alerts import Alert, message
from ohlcv_assets.quality.webhook import deliver
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.quality_store import QualityStore

#: Of each kind, in one tick; what is left over is read by the next.
_EVENTS_A_TICK = 500
_FAILED_RUNS_A_TICK = 50
#: A sensor that is switched on begins with what happened in the last hour.
_LOOK_BACK_S = 3600.0
#: PostgreSQL gives out a storage id before the event can be read: a younger event may still come in before this one.
_SETTLED_AFTER_S = 1.0
#: So many ticks with a refusal, and the alerts are written to the log instead.
_MOST_REFUSALS = 5
#: How long PostgreSQL is waited for: an alert does not wait for the server whose loss it may tell.
_DATABASE_S = 5.0
_KNOWN_FOR = timedelta(days=7)
_KIND = "alert"

_Answer = TypeVar("_Answer")


class Cursor(BaseModel):
    """Where the last tick stopped reading, what it remembers, and how often in a row the webhook refused."""

    model_config = ConfigDict(frozen=True)
    checks: int | None = None
    runs: int | None = None
    memory: Memory = Memory()
    refusals: int = 0

    @classmethod
    def of(cls, text: str | None) -> Cursor:
        """The cursor that a tick left; a new one where there is none, or none that can be read."""
        try:
            return cls.model_validate_json(text or "{}")
        except ValidationError:
            return cls()


class _News(NamedTuple):
    """What is to be told, and the cursor once it was."""

    alerts: list[Alert]
    cursor: Cursor


def build_alert_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """`notify`, and `mail_failed_runs` where the settings of e-mail are there.

    Raises:
        BadSetting: some of the settings of e-mail are there, and some are not.
    """
    mail = build_mail_sensor(settings)
    return [build_notify_sensor(settings), *([mail] if mail else [])]


def build_notify_sensor(settings: Settings, *, settled_after_s: float = _SETTLED_AFTER_S) -> dg.SensorDefinition:
    """Failed checks, checks that are green again, and failed runs, told once a finding by a webhook.

    Args:
        settings: of the deployment; without a webhook every tick says so and does nothing.
        settled_after_s: younger events wait for the next tick.
    """

    @dg.sensor(
        name="notify",
        minimum_interval_seconds=settings.sensor_interval_s,
        default_status=_status(settings),
        description="Tells failed checks, checks that are green again and failed runs to the webhook of "
        "OHLCV_ALERT_WEBHOOK_URL, once a finding; tries again at the next tick what could not be delivered.",
    )
    def notify(context: dg.SensorEvaluationContext, database: DatabaseResource) -> dg.SensorResult:
        if settings.alert_webhook_url is None:
            return dg.SensorResult(skip_reason="OHLCV_ALERT_WEBHOOK_URL is not set: nobody is told")
        before = Cursor.of(context.cursor)
        alerts, after = _news(context.instance, settings, before, utc_now().timestamp() - settled_after_s)
        return _told(context, settings, database, alerts, before, after)

    return notify


def build_mail_sensor(settings: Settings) -> dg.SensorDefinition | None:
    """Dagster's own mail for each failed run; None where no setting of it is there.

    Raises:
        BadSetting: some are there, and some are not.
    """
    needed = ("alert_email_from", "alert_email_to", "alert_email_password", "alert_smtp_host")
    lacking = [f"OHLCV_{name.upper()}" for name in needed if getattr(settings, name) is None]
    if len(lacking) == len(needed):
        return None
    if (
        settings.alert_email_from is None
        or settings.alert_email_to is None
        or settings.alert_email_password is None
        or settings.alert_smtp_host is None
    ):
        raise BadSetting(f"mails cannot be sent without {', '.join(lacking)}", hint="set all four, or none")
    host, _, port = settings.alert_smtp_host.partition(":")
    return dg.make_email_on_run_failure_sensor(
        email_from=settings.alert_email_from,
        email_password=settings.alert_email_password.get_secret_value(),
        email_to=[address.strip() for address in settings.alert_email_to.split(",")],
        smtp_host=host,
        smtp_port=int(port or 465),
        smtp_type="SSL" if int(port or 465) == 465 else "STARTTLS",
        name="mail_failed_runs",
        webserver_base_url=settings.ui_url.rstrip("/"),
        default_status=_status(settings),
    )


def _status(settings: Settings) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if settings.autostart else dg.DefaultSensorStatus.STOPPED


# Reading ------------------------------------------------------------------------------------------------------------


def _news(instance: dg.DagsterInstance, settings: Settings, before: Cursor, until_s: float) -> _News:
    """What happened since the cursor, up to a moment (UNIX seconds)."""
    evaluations, checks = _settled(
        lambda **asked: check_events(instance, **asked), before.checks, _EVENTS_A_TICK, until_s
    )
    failures, runs = _settled(lambda **asked: _failures(instance, **asked), before.runs, _FAILED_RUNS_A_TICK, until_s)
    memory, red = before.memory.after_checks(map(_outcome, evaluations), settings.ui_url)
    failed = [run for record in failures if (run := _failed_run(instance, record)) is not None]
    memory, broken = memory.after_runs(failed, settings.ui_url)
    return _News([*red, *broken], Cursor(checks=checks, runs=runs, memory=memory))


def _settled(
    read: Callable[..., Sequence[dg.EventLogRecord]], after: int | None, limit: int, until_s: float
) -> tuple[list[dg.EventLogRecord], int]:
    """The next events up to a moment, in order, and the storage id after which the next tick reads on."""
    since_s = until_s - _LOOK_BACK_S if after is None else None
    records = read(after=after, since_s=since_s, limit=limit, newest_first=False)
    if not records and after is not None:
        return [], after
    if not records:
        newest = read(after=None, since_s=None, limit=1, newest_first=True)
        return [], newest[0].storage_id if newest else 0
    # Only from the front: what comes after the first young one is read by the next tick.
    young = next((i for i, record in enumerate(records) if record.timestamp > until_s), len(records))
    return list(records[:young]), records[young - 1].storage_id if young else records[0].storage_id - 1


def _failures(
    instance: dg.DagsterInstance, *, after: int | None, since_s: float | None, limit: int, newest_first: bool
) -> Sequence[dg.EventLogRecord]:
    wanted = dg.RunStatusChangeRecordsFilter(
        dg.DagsterEventType.RUN_FAILURE, after_storage_id=after, after_timestamp=since_s
    )
    return instance.fetch_run_status_changes(wanted, limit=limit, ascending=not newest_first).records


def _outcome(record: dg.EventLogRecord) -> CheckOutcome:
    evaluation = _data(record)
    assert isinstance(evaluation, dg.AssetCheckEvaluation)  # noqa: S101  what the filter asks for
    return CheckOutcome(
        event=record.storage_id,
        asset=tuple(evaluation.asset_key.path),
        check=evaluation.check_name,
        partition=evaluation.partition,
        passed=evaluation.passed,
        warns=evaluation.severity is dg.AssetCheckSeverity.WARN,
        sentence=evaluation.description or ("passed" if evaluation.passed else "failed"),
        numbers={
            name: value.value
            for name, value in evaluation.metadata.items()
            if isinstance(value, dg.IntMetadataValue | dg.FloatMetadataValue) and value.value is not None
        },
        digest=" ".join(
            str(value.value) for name, value in sorted(evaluation.metadata.items()) if name.endswith("_digest")
        ),
    )


def _failed_run(instance: dg.DagsterInstance, record: dg.EventLogRecord) -> FailedRun | None:
    """The failed run of an event; None when only a blocking check failed it, which is told by itself."""
    run = instance.get_run_by_id(record.run_id)
    steps = instance.all_logs(record.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    errors = [step.dagster_event.step_failure_data for step in steps if step.dagster_event]
    if errors and all(error.error and error.error.cls_name == "DagsterAssetCheckFailedError" for error in errors):
        return None
    said = [error.user_failure_data.description for error in errors if error.user_failure_data]
    said += [error.error.message for error in errors if error.error]
    market = run.tags.get("ohlcv/market") if run else None
    return FailedRun(
        run_id=record.run_id,
        job=run.job_name if run else "a job",
        partition=run.tags.get("dagster/partition") if run else None,
        sentence=next((text.strip() for text in said if text), record.event_log_entry.user_message or "it failed"),
        market=market if market in list(Market) else None,
        failed_s=record.timestamp,
    )


def _data(record: dg.EventLogRecord) -> Any:
    event = record.event_log_entry.dagster_event
    return event.event_specific_data if event else None


# Telling ------------------------------------------------------------------------------------------------------------


def _told(
    context: dg.SensorEvaluationContext,
    settings: Settings,
    database: DatabaseResource,
    alerts: list[Alert],
    before: Cursor,
    after: Cursor,
) -> dg.SensorResult:
    """Send what nobody was told yet, remember it, and move on; stay where it cannot be sent."""
    known = _known(context, database) if alerts else set()
    new = [alert for alert in alerts if alert.fingerprint not in known]
    if not new:
        return _skip("nothing new to tell", after)
    try:
        _send(settings, new)
    except WebhookUnavailable as error:
        context.log.warning(f"alerts that wait for the next tick: {len(new)}; {error.message}")
        return _skip(f"{error.message}; the next tick tries again", before)
    except Refused as error:
        if before.refusals + 1 < _MOST_REFUSALS:
            context.log.error(f"alerts that wait for the next tick: {len(new)}; {error.message}")
            return _skip(error.message, before.model_copy(update={"refusals": before.refusals + 1}))
        for alert in new:
            context.log.error(f"an alert that the webhook refuses: {alert.level} {alert.title}: {alert.sentence}")
        return _skip(f"{error.message}; what was to be told is in this tick's log only", after)
    _remember(context, database, new)
    return _skip(f"told: {', '.join(alert.title for alert in new[:10])}", after)


def _send(settings: Settings, alerts: Sequence[Alert]) -> None:
    if settings.alert_webhook_url is not None:
        deliver(settings.alert_webhook_url, message(alerts))


def _skip(reason: str, cursor: Cursor) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=cursor.model_dump_json())


def _known(context: dg.SensorEvaluationContext, database: DatabaseResource) -> set[str]:
    """The fingerprints of what was told in the last days; none while PostgreSQL is away."""

    def asked(store: QualityStore) -> set[str]:
        return set(store.findings(utc_now() - _KNOWN_FOR)["fingerprint"].to_list())

    return _within(context, database, asked) or set()


def _remember(context: dg.SensorEvaluationContext, database: DatabaseResource, alerts: Sequence[Alert]) -> None:
    def record(store: QualityStore) -> None:
        for alert in alerts:
            store.record_finding(
                alert.fingerprint,
                market=alert.market,
                kind=_KIND,
                sentence=f"{alert.level} {alert.title}: {alert.sentence}",
                detail={"numbers": dict(alert.numbers), "link": alert.link},
                run_id=f"notify-{context.sensor_name}",
            )

    _within(context, database, record)


def _within(
    context: dg.SensorEvaluationContext, database: DatabaseResource, action: Callable[[QualityStore], _Answer]
) -> _Answer | None:
    """What PostgreSQL says within seconds; None when it is away, which is logged."""
    answers: list[_Answer] = []
    errors: list[str] = []

    def ask() -> None:
        try:
            opened: Database = database.open()
            with closing(opened):
                answers.append(action(QualityStore(opened)))
        except Exception as error:  # noqa: BLE001  whatever it is, people are told all the same
            errors.append(f"{type(error).__name__}: {error}")

    # A daemon: one that waits for a server does not hold up the tick.
    asking = threading.Thread(target=ask, name="findings", daemon=True)
    asking.start()
    asking.join(_DATABASE_S)
    if not answers:
        context.log.warning(f"what was told is not known from PostgreSQL: {errors[0] if errors else 'no answer yet'}")
    return answers[0] if answers else None
