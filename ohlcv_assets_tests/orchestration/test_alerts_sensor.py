"""The sensor `notify` against Dagster's own event log, a real webhook and a real database."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ohlcv_assets.definitions import build_defs
from ohlcv_assets.errors import BadSetting, DatabaseUnavailable
from ohlcv_assets.orchestration import alerts as sensors
from ohlcv_assets.orchestration.alerts import Cursor, build_mail_sensor, build_notify_sensor
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.quality_store import QualityStore
from ohlcv_assets_tests.fixtures.webhook import Webhook

_KEY = dg.AssetKey(["stockholm", "futures", "daily_qa"])
_DAYS = dg.DailyPartitionsDefinition("2025-06-01", end_date="2025-08-01")


class _Database(dg.ConfigurableResource):
    url: str = ""

    def open(self) -> Database:
        if not self.url:
            raise DatabaseUnavailable("PostgreSQL is away")
        return Database(self.url, patience_s=5.0)


class _Red(dg.Config):
    missing: int = 0
    warns: bool = False


@dg.asset(
    key=_KEY,
    partitions_def=_DAYS,
    check_specs=[dg.AssetCheckSpec("streamed_complete", asset=_KEY, blocking=True, partitions_def=_DAYS)],
)
def _qa(config: _Red) -> dg.MaterializeResult:
    """An asset whose check finds as many missing bars as a test says."""
    result = dg.AssetCheckResult(
        passed=config.missing == 0,
        severity=dg.AssetCheckSeverity.WARN if config.warns else dg.AssetCheckSeverity.ERROR,
        description=f"{config.missing} bars are missing",
        metadata={"bars_missing": config.missing, "bars_expected": 4320, "taken_s": 1.5, "report": "a text"},
    )
    return dg.MaterializeResult(check_results=[result])


@dg.op
def _break() -> None:
    raise dg.Failure("the exchange cannot be reached", allow_retries=False)


@dg.job(tags={"ohlcv/market": "spot"})
def _breaking() -> None:
    _break()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as local:
        yield local


class _Platform:
    """A Dagster instance, a webhook, and the sensor between them, whose cursor is kept from tick to tick."""

    def __init__(self, instance: dg.DagsterInstance, webhook: Webhook, database_url: str) -> None:
        self.instance = instance
        self.webhook = webhook
        self.database_url = database_url
        self.cursor: str | None = None
        self.reason = ""

    def evaluate(self, missing: int, day: str = "2025-06-01", *, warns: bool = False) -> None:
        """Run the QA of a day."""
        config = {"ops": {"stockholm__futures__daily_qa": {"config": {"missing": missing, "warns": warns}}}}
        dg.materialize([_qa], partition_key=day, instance=self.instance, run_config=config, raise_on_error=False)

    def fail(self) -> str:
        """Let a run fail; its id."""
        return _breaking.execute_in_process(instance=self.instance, raise_on_error=False).run_id

    def tick(self, **settings: Any) -> list[str]:
        """One tick; what was posted by it, as the texts of the notifications."""
        before = len(self.webhook.posts)
        configured = Settings(**{"alert_webhook_url": self.webhook.address, **settings})
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            sensor_name="notify",
            resources={"database": _Database(url=self.database_url)},
        )
        result = build_notify_sensor(configured, settled_after_s=-1.0).evaluate_tick(context)
        self.cursor, self.reason = result.cursor, result.skip_message or ""
        return [post["text"] for post in self.webhook.posts[before:]]

    def told(self) -> list[str]:
        """The sentences of the alerts that PostgreSQL knows of."""
        with Database(self.database_url) as database:
            found = QualityStore(database).findings()
        return found["sentence"].to_list()


@pytest.fixture
def platform(instance: dg.DagsterInstance, webhook: Webhook, database_url: str) -> _Platform:
    return _Platform(instance, webhook, database_url)


_RED = "ERROR futures daily_qa: streamed_complete 2025-06-01: 2 bars are missing"


def test_a_red_check_is_told_once_and_so_is_its_recovery(platform: _Platform) -> None:
    """Red, red again, green: one error with its numbers and its page, then one recovery; the blocked run is no news."""
    platform.evaluate(2)
    assert platform.tick() == [_RED]
    (head, numbers) = platform.webhook.posts[0]["blocks"]
    assert (
        "http://127.0.0.1:3000/assets/stockholm/futures/daily_qa?view=checks&checkDetail=streamed_complete"
        in (head["text"]["text"])
    )
    assert numbers["elements"][0]["text"] == "bars_missing 2  ·  bars_expected 4,320  ·  taken_s 1.5"
    platform.evaluate(2)
    assert platform.tick() == []
    platform.evaluate(0)
    (recovered,) = platform.tick()
    assert recovered.startswith("RECOVERED futures daily_qa: streamed_complete 2025-06-01")
    assert platform.tick() == []
    assert platform.told() == [_RED.replace("ERROR", "error"), recovered.replace("RECOVERED", "recovered")]


def test_a_warning_is_told_as_one(platform: _Platform) -> None:
    """A check that only warns is no error."""
    platform.evaluate(1, warns=True)
    (told,) = platform.tick()
    assert told.startswith("WARNING ")


def test_a_failed_run_is_told_with_what_its_step_said(platform: _Platform) -> None:
    """Job, error and the run's page."""
    run_id = platform.fail()
    (told,) = platform.tick()
    assert told == "ERROR run of _breaking failed: the exchange cannot be reached"
    assert f"http://127.0.0.1:3000/runs/{run_id}" in platform.webhook.posts[0]["blocks"][0]["text"]["text"]
    platform.fail()
    assert platform.tick() == []


def test_a_storm_is_one_message(platform: _Platform) -> None:
    """Twelve red days in one tick are one summary."""
    for day in range(1, 13):
        platform.evaluate(2, f"2025-06-{day:02}")
    assert platform.tick() == ["12 findings: 12 error"]
    assert len(platform.webhook.posts[0]["blocks"]) == 2
    assert len(platform.told()) == 12


def test_what_could_not_be_delivered_is_tried_again(platform: _Platform) -> None:
    """While the webhook stumbles nothing is forgotten: the next tick that gets through tells all of it, once."""
    platform.evaluate(2)
    platform.webhook.answers = [500, 502, 503]
    assert platform.tick() == []
    assert "does not" in platform.reason or "answers 503" in platform.reason
    platform.evaluate(0, "2025-06-02")
    assert platform.tick() == [_RED]
    assert platform.tick() == []


def test_a_refusal_is_tried_some_ticks_and_then_only_logged(
    platform: _Platform, capfd: pytest.CaptureFixture[str]
) -> None:
    """An address that is gone does not hold up what comes later, and what was not told stands in the log."""
    platform.evaluate(2)
    platform.webhook.answers = [410] * 5
    for _ in range(5):
        assert platform.tick() == []
    assert platform.webhook.asked == 5
    logged = capfd.readouterr().err
    assert "an alert that the webhook refuses: error futures daily_qa: streamed_complete 2025-06-01" in logged
    assert platform.webhook.secret not in logged + platform.reason + str(platform.cursor)
    assert platform.tick() == []
    platform.evaluate(3)
    assert platform.tick() == [_RED.replace("2 bars", "3 bars")]


def test_people_are_told_while_postgresql_is_away(platform: _Platform) -> None:
    """The findings' table is no condition: the alert goes out, and the cursor remembers it."""
    platform.database_url = ""
    platform.evaluate(2)
    assert platform.tick() == [_RED]
    platform.evaluate(2)
    assert platform.tick() == []


def test_a_tick_that_died_after_telling_does_not_tell_twice(platform: _Platform) -> None:
    """Where the cursor was lost with the process, PostgreSQL knows what was told."""
    platform.evaluate(2)
    assert platform.tick() == [_RED]
    platform.cursor = None
    assert platform.tick() == []
    platform.cursor = "a cursor of another program"
    assert platform.tick() == []


def test_without_a_webhook_nothing_is_told_and_the_tick_says_so(platform: _Platform) -> None:
    """A deployment without the setting has an idle sensor; switched on later, it begins with the last hour."""
    platform.evaluate(2)
    assert platform.tick(alert_webhook_url=None) == []
    assert "OHLCV_ALERT_WEBHOOK_URL is not set" in platform.reason
    assert platform.cursor is None
    assert platform.tick() == [_RED]


def test_what_happened_long_before_the_sensor_was_switched_on_is_not_told(
    platform: _Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first tick looks back an hour; what is older is history, and the next red is told."""
    platform.evaluate(2)
    platform.fail()
    monkeypatch.setattr(sensors, "_LOOK_BACK_S", 0.0)
    assert platform.tick() == []
    cursor = Cursor.of(platform.cursor)
    assert cursor.checks
    assert cursor.runs
    platform.evaluate(2, "2025-06-02")
    assert platform.tick() == [_RED.replace("06-01", "06-02")]


def test_a_tick_reads_a_bounded_number_of_events_and_the_next_one_the_rest(
    platform: _Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven red days, three a tick: three messages that together tell each of them once."""
    monkeypatch.setattr(sensors, "_EVENTS_A_TICK", 3)
    for day in range(1, 8):
        platform.evaluate(2, f"2025-06-{day:02}")
    texts = [text for _ in range(4) for text in platform.tick()]
    assert texts == ["3 findings: 3 error", "3 findings: 3 error", _RED.replace("06-01", "06-07")]


def test_an_event_of_this_second_waits_for_the_next_tick(platform: _Platform) -> None:
    """An older event may still be on its way into the log: what is young is read when that is settled."""
    context = dg.build_sensor_context(
        instance=platform.instance, sensor_name="notify", resources={"database": _Database(url=platform.database_url)}
    )
    platform.evaluate(2)
    settings = Settings(alert_webhook_url=platform.webhook.address)
    result = build_notify_sensor(settings, settled_after_s=3600.0).evaluate_tick(context)
    assert platform.webhook.posts == []
    platform.cursor = result.cursor
    assert platform.tick() == [_RED]


def test_the_address_stands_in_no_definition(webhook: Webhook) -> None:
    """Nothing that Dagster loads and shows holds the webhook's address or the mail's password."""
    settings = Settings(
        alert_webhook_url=webhook.address,
        alert_email_from="a@example.com",
        alert_email_to="b@example.com",
        alert_email_password="hunter2-of-mail",  # noqa: S106
        alert_smtp_host="smtp.example.com",
    )
    defs = build_defs(settings=settings)
    repository = defs.get_repository_def()
    shown = repr(settings) + repr(defs) + "".join(repr(vars(sensor)) for sensor in repository.sensor_defs)
    assert webhook.secret not in shown
    assert "hunter2-of-mail" not in shown
    assert "mail_failed_runs" in {sensor.name for sensor in repository.sensor_defs}


def test_mail_needs_all_of_its_settings() -> None:
    """None of them: no mail. Some of them: one error that names the others, and not a mail that never comes."""
    assert build_mail_sensor(Settings()) is None
    with pytest.raises(BadSetting, match="OHLCV_ALERT_EMAIL_TO, OHLCV_ALERT_EMAIL_PASSWORD, OHLCV_ALERT_SMTP_HOST"):
        build_mail_sensor(Settings(alert_email_from="a@example.com"))


@pytest.mark.parametrize(
    ("host", "way", "port"), [("smtp.example.com", "SMTP_SSL", 465), ("mail.lan:587", "SMTP", 587)]
)
def test_a_failed_run_is_mailed(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, host: str, way: str, port: int
) -> None:
    """Dagster's own mail goes to everybody named, by TLS from the start or by STARTTLS, with a link to the run."""
    connections: list[tuple[Any, ...]] = []
    mails: list[tuple[str, list[str], str]] = []

    class Server:
        def __init__(self, *address: Any, **_: Any) -> None:
            connections.append(address)

        def __enter__(self) -> "Server":
            return self

        def __exit__(self, *_: object) -> None:
            connections.append(("closed",))

        def starttls(self, **_: Any) -> None:
            connections.append(("starttls",))

        def login(self, user: str, password: str) -> None:
            connections.append((user, password))

        def sendmail(self, sender: str, receivers: list[str], text: str) -> None:
            mails.append((sender, receivers, text))

    monkeypatch.setattr(f"smtplib.{way}", Server)
    settings = Settings(
        alert_email_from="a@example.com",
        alert_email_to="b@example.com, c@example.com",
        alert_email_password="pw",  # noqa: S106
        alert_smtp_host=host,
    )
    sensor = build_mail_sensor(settings)
    assert sensor is not None
    result = _breaking.execute_in_process(instance=instance, raise_on_error=False)
    context = dg.build_run_status_sensor_context(
        "mail_failed_runs",
        dagster_instance=instance,
        dagster_run=result.dagster_run,
        dagster_event=result.get_run_failure_event(),
    ).for_run_failure()
    sensor(context)
    ((sender, receivers, text),) = mails
    assert (sender, receivers) == ("a@example.com", ["b@example.com", "c@example.com"])
    assert f"http://127.0.0.1:3000/runs/{result.run_id}" in text
    assert connections[0] == (host.partition(":")[0], port)
    assert (("starttls",) in connections) == (port != 465)
    assert ("a@example.com", "pw") in connections
