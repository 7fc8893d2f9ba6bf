"""The asset `history` through Dagster: a real exchange that changes its history, PostgreSQL, a lake, and the alert of it."""

import asyncio
import json
import subprocess
import sys
from datetime import date, timedelta

import dagster as dg
import pytest

from ohlcv_assets.capture import download_day
from ohlcv_assets.exchange.binance import open_exchange
from ohlcv_assets.instruments import Market, load_universe
from ohlcv_assets.orchestration.alerts import build_notify_sensor
from ohlcv_assets.orchestration.history import HISTORY_UNCHANGED, MEANING
from ohlcv_assets.orchestration.resources import DatabaseResource
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets_tests.docs.test_reference import table
from ohlcv_assets_tests.fixtures.deployment import DAY, Deployment
from ohlcv_assets_tests.fixtures.replay import ReplayFactory, ReplayHandle
from ohlcv_assets_tests.fixtures.webhook import Webhook


@pytest.fixture
def finished_exchange(replay_factory: ReplayFactory) -> ReplayHandle:
    """An exchange of this test's own, for it will change its history; at sixty times the speed."""
    return replay_factory(symbols=3, days=2, start="2025-06-02T00:30Z", speed=60)


@pytest.fixture
def downloaded(deployment: Deployment) -> Deployment:
    """A deployment whose lake holds the first day of futures."""

    async def download() -> None:
        universe = load_universe(deployment.settings.universe, deployment.settings.universes)
        async with open_exchange(Market.FUTURES, deployment.settings) as exchange:
            signature, symbols = Signature.daily(Market.FUTURES, universe), universe.symbols[Market.FUTURES]
            lake = Lake(deployment.settings.lake_url)
            await download_day(exchange, lake, signature, symbols, date.fromisoformat(DAY))

    asyncio.run(download())
    return deployment


def _restate(deployment: Deployment, minute: str = "10:00", until: str = "10:03") -> None:
    rule = {"fault": "correct", "market": "futures", "symbols": ["BTCUSDT"]}
    deployment.exchange.inject([{**rule, "from": f"{DAY}T{minute}Z", "until": f"{DAY}T{until}Z"}])


def _verify(deployment: Deployment, **config: object) -> dg.ExecuteInProcessResult:
    options = {"ops": {"stockholm__futures__history": {"config": {"days": [DAY], **config}}}}
    return deployment.run("futures_verify_history", run_config=options)


def _evaluation(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def test_the_check_is_green_then_red_with_what_changed_then_green(downloaded: Deployment) -> None:
    """Unchanged days are green; a restated one is red with its numbers and its bars; the new version is green again."""
    before = _evaluation(_verify(downloaded))
    assert before.passed
    assert before.metadata["days_verified"].value == 1
    _restate(downloaded)
    result = _verify(downloaded)
    red = _evaluation(result)
    assert result.success  # nothing flows on from here that must be stopped
    assert not red.passed
    assert red.severity is dg.AssetCheckSeverity.ERROR
    assert red.description == f"the exchange changed history on {DAY}: 3 bars changed"
    numbers = {name: red.metadata[name].value for name in ("days_verified", "days_changed", "bars_changed")}
    assert numbers == {"days_verified": 1, "days_changed": 1, "bars_changed": 3}
    rows = [record.data for record in red.metadata["first_changes"].value.records]
    assert {row["day"] for row in rows} == {DAY}
    assert {row["timestamp"] for row in rows} == {f"{DAY}T10:0{minute}Z" for minute in range(3)}
    assert all(row["before"] != row["after"] for row in rows)
    assert _evaluation(_verify(downloaded)).passed


def test_a_changed_day_is_told_by_the_alert(downloaded: Deployment, webhook: Webhook) -> None:
    """Two weeks in a row another bar is restated: the same numbers, two findings, two messages that name the day."""
    settings = Settings(**{**downloaded.settings.model_dump(), "alert_webhook_url": webhook.address})
    cursor = None
    for hour in (10, 11):
        _restate(downloaded, f"{hour}:00", f"{hour}:01")
        _verify(downloaded)
        context = dg.build_sensor_context(
            instance=downloaded.instance,
            cursor=cursor,
            sensor_name="notify",
            resources={"database": DatabaseResource()},
        )
        cursor = build_notify_sensor(settings, settled_after_s=-1.0).evaluate_tick(context).cursor
    sentence = f"ERROR futures history: history_unchanged: the exchange changed history on {DAY}: 1 bar changed"
    assert [post["text"] for post in webhook.posts] == [sentence] * 2


def test_an_outage_fails_the_run_and_the_check_keeps_what_was_found(downloaded: Deployment) -> None:
    """The evaluation of a verification that could not go on is stored before its run fails."""
    downloaded.exchange.inject([{"fault": "rest_5xx", "market": "futures", "endpoints": ["klines"]}])
    result = _verify(downloaded)
    assert not result.success
    stored = _evaluation(result)
    assert not stored.passed
    assert f"stopped at {DAY}" in str(stored.description)


def test_a_lake_without_these_days_proves_nothing(deployment: Deployment) -> None:
    """Nothing to compare is a warning that names the days, and no green."""
    evaluation = _evaluation(_verify(deployment))
    assert not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    assert f"not in the lake: {DAY}" in str(evaluation.description)


def test_without_days_the_last_thirty_are_verified(downloaded: Deployment) -> None:
    """The weekly run's config: thirty days by the exchange's clock, of which the lake holds one."""
    evaluation = _evaluation(downloaded.run("futures_verify_history"))
    assert evaluation.passed
    assert evaluation.metadata["days_not_in_lake"].value == 29


def test_a_day_that_is_none_is_a_clear_failure(deployment: Deployment) -> None:
    """What a person types into the launchpad is checked."""
    result = _verify(deployment, days=["1st of June"])
    assert not result.success


def test_it_runs_every_sunday_morning(deployment: Deployment) -> None:
    """Both markets are verified once a week, an hour apart, early on Sunday, UTC."""
    repository = deployment.defs.get_repository_def()
    weekly = {market: repository.get_schedule_def(f"{market}_every_week") for market in Market}
    assert {schedule.execution_timezone for schedule in weekly.values()} == {"UTC"}
    starts = [schedule.cron_schedule.split() for schedule in weekly.values()]
    assert {start[4] for start in starts} == {"0"}
    hours = sorted(timedelta(hours=int(start[1]), minutes=int(start[0])) for start in starts)
    assert hours[1] - hours[0] >= timedelta(hours=1)


def test_the_check_is_on_its_page() -> None:
    """The page tells the check in the words that the UI shows."""
    means, red = MEANING.split(" When red: ")
    assert [HISTORY_UNCHANGED, means, "no", f"{red[0].upper()}{red[1:]}"] in table("checks", "check of `history`")


def _command(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ohlcv_assets.cli", "verify", "--market", "futures", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_says_what_changed_by_its_exit_code(downloaded: Deployment) -> None:
    """0 and nothing changed; 1 and every value before and after; 0 again with the new version; 2 for nonsense."""
    unchanged = _command("--since", "2d")
    assert (unchanged.returncode, unchanged.stderr) == (0, "")
    assert unchanged.stdout == "futures: nothing changed; days compared: 1; not in the lake: 2025-05-31\n"
    _restate(downloaded)
    changed = _command("--day", DAY)
    assert changed.returncode == 1
    assert f"futures: the exchange changed history on {DAY}: 3 bars changed" in changed.stdout
    assert f"BTC/USDT:USDT {DAY}T10:00Z: trade_count was " in changed.stdout
    again = _command("--day", DAY, "--json")
    assert again.returncode == 0
    day, summary = (json.loads(line) for line in again.stdout.splitlines())
    assert (day["outcome"], day["hash_before"] == day["hash_after"], summary["days_changed"]) == (
        "unchanged",
        True,
        0,
    )
    for wrong in (["--since", "soon"], ["--day", "2025-06-02"]):
        assert _command(*wrong).returncode == 2


def test_the_command_says_when_the_exchange_is_away(downloaded: Deployment) -> None:
    """3, with the reason, when nothing could be verified."""
    downloaded.exchange.inject([{"fault": "rest_5xx", "market": "futures", "endpoints": ["klines"]}])
    away = _command("--day", DAY)
    assert away.returncode == 3
    assert f"stopped at {DAY}" in away.stdout
