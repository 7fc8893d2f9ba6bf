"""The backfill of PostgreSQL, as Dagster's job and as a command: every expected bar is there, or named; nothing is overwritten."""

import json

import dagster as dg
import polars as pl
import psycopg
import pytest
from typer.testing import CliRunner

from ohlcv_assets.bars import KEY, VALUES
from ohlcv_assets.cli import app
from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration.backfill_db import BACKFILL_COMPLETE, MEANING
from ohlcv_assets.orchestration.common import asset_key
from ohlcv_assets.settings import settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.timestamps import Interval
from ohlcv_assets_tests.docs.test_reference import table
from ohlcv_assets_tests.fixtures.deployment import DAY, Deployment

_START, _END = f"{DAY}T05:30Z", f"{DAY}T07:10Z"
_INTERVAL = Interval.parse(_START, _END)
_EXPECTED = 3 * 100


@pytest.fixture(autouse=True)
def fresh_settings(deployment: Deployment):
    """A command in this process reads the deployment's variables, and not those of the test before."""
    settings.cache_clear()
    yield
    settings.cache_clear()


def run_job(deployment: Deployment, market: Market = Market.FUTURES, **config: object) -> dg.ExecuteInProcessResult:
    op = "__".join(asset_key(deployment.settings, market, "backfilled_bars").path)
    return deployment.run(f"{market}_backfill_db", run_config={"ops": {op: {"config": config}}})


def check_of(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def held(deployment: Deployment, market: Market) -> pl.DataFrame:
    with Database(deployment.settings.database_url.get_secret_value()) as database:
        return database.read(market, _INTERVAL)


def truth(deployment: Deployment, market: Market) -> pl.DataFrame:
    inside = pl.col("timestamp").is_between(_INTERVAL.start_ms, _INTERVAL.end_ms, closed="left")
    return deployment.exchange.truth(market).filter(inside).select(*KEY, *VALUES).sort("symbol", "timestamp")


def corrupt(deployment: Deployment, statement: str) -> None:
    """Change the database behind the platform's back."""
    with psycopg.connect(deployment.settings.database_url.get_secret_value()) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(statement)


def command(*arguments: str):
    return CliRunner().invoke(app, ["backfill-db", "--start", _START, "--end", _END, *arguments])


@pytest.mark.parametrize("market", list(Market), ids=str)
def test_the_job_stores_every_bar_of_the_interval_and_says_so(deployment: Deployment, market: Market) -> None:
    """Bit for bit what the exchange has, by REST, traced to the run, and the check green with its counts."""
    result = run_job(deployment, market, start=_START, end=_END)
    assert result.success
    stored = held(deployment, market)
    assert stored.select(*KEY, *VALUES).equals(truth(deployment, market))
    assert stored["channel"].unique().to_list() == ["rest"]
    check = check_of(result)
    assert (check.check_name, check.passed) == (BACKFILL_COMPLETE, True)
    numbers = {name: value.value for name, value in check.metadata.items()}
    assert (numbers["bars_expected"], numbers["bars_present"], numbers["bars_inserted"]) == (_EXPECTED,) * 3
    assert (numbers["bars_missing"], numbers["bars_revised"], numbers["coverage_pct"]) == (0, 0, 100.0)


def test_what_differs_from_a_stored_bar_is_a_revision_and_replaces_nothing(deployment: Deployment) -> None:
    """The first value stays in the table; the exchange's own is beside it, counted and told."""
    assert run_job(deployment, start=_START, end=_END).success
    corrupt(
        deployment,
        "update bars set volume = volume * 2 where ctid = (select ctid from bars where volume > 0 limit 1)",
    )
    result = run_job(deployment, start=_START, end=_END)
    numbers = {name: value.value for name, value in check_of(result).metadata.items()}
    assert (numbers["bars_revised"], numbers["bars_same"], numbers["bars_inserted"]) == (1, _EXPECTED - 1, 0)
    assert "1 differed from what was stored" in check_of(result).description
    with Database(deployment.settings.database_url.get_secret_value()) as database:
        (reason,) = database.revisions(Market.FUTURES, _INTERVAL)["reason"].to_list()
    assert reason == "backfill"
    with psycopg.connect(deployment.settings.database_url.get_secret_value()) as connection:
        volumes = {row[0] for row in connection.execute("select volume from bars").fetchall()}
    assert volumes - set(truth(deployment, Market.FUTURES)["volume"].to_list())


def test_only_missing_asks_for_the_hole_alone(deployment: Deployment) -> None:
    """A minute that is gone costs one question a symbol that lacks it, and nothing else is fetched."""
    assert run_job(deployment, start=_START, end=_END).success
    corrupt(deployment, f"delete from bars where timestamp = {_INTERVAL.start_ms + 600_000}")
    result = run_job(deployment, start=_START, end=_END, only_missing=True)
    numbers = {name: value.value for name, value in check_of(result).metadata.items()}
    assert (numbers["bars_fetched"], numbers["bars_inserted"], numbers["requests"]) == (3, 3, 3)
    assert check_of(result).passed


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (_END, _START, "give a start before the end"),
        (f"{DAY}T05:30", _END, "has no time zone"),
        ("yesterday", _END, "is not a time"),
        ("", _END, "is not a time"),
        (_START, _START, "give a start before the end"),
        ("2025-06-05", "2025-06-06", "choose an earlier time"),
    ],
)
def test_what_cannot_be_meant_fails_with_what_to_do(deployment: Deployment, start: str, end: str, said: str) -> None:
    """Reversed, naive, empty and unreadable times, and a future, are one clear failure of the run, without a stack of causes or a retry."""
    result = run_job(deployment, start=start, end=end)
    assert not result.success
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert said in event.step_failure_data.user_failure_data.description
    error = event.step_failure_data.error
    assert error.cls_name == "Failure"
    assert (error.cause, error.context) == (None, None)
    assert not [each for each in result.all_events if each.event_type_value == "STEP_UP_FOR_RETRY"]


def test_the_launchpad_asks_for_start_and_end(deployment: Deployment) -> None:
    """A run without them does not begin: the error names the field."""
    with pytest.raises(dg.DagsterInvalidConfigError, match="start"):
        deployment.defs.resolve_job_def("spot_backfill_db").execute_in_process(instance=deployment.instance)


@pytest.mark.parametrize("market", list(Market), ids=str)
def test_the_command_does_the_same(deployment: Deployment, market: Market) -> None:
    """`ohlcv backfill-db` stores the same bars and reports the same numbers."""
    result = command("--market", str(market), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["bars_expected"], report["bars_present"], report["bars_inserted"]) == (_EXPECTED,) * 3
    assert report["missing"] == {}
    assert held(deployment, market).select(*KEY, *VALUES).equals(truth(deployment, market))


def test_a_bar_that_the_exchange_does_not_have_is_named_and_the_exit_code_is_1(
    replay_factory, deployment, monkeypatch
):
    """The ranges are listed a symbol, and it is said that the exchange itself lacks them."""
    halt = {
        "fault": "halt",
        "market": "spot",
        "from": f"{DAY}T06:00Z",
        "until": f"{DAY}T06:03Z",
        "symbols": ["BTCUSDT"],
    }
    exchange = replay_factory(symbols=3, days=2, start="2025-06-02T00:30Z", speed=60, faults=[halt])
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", exchange.url)
    settings.cache_clear()
    result = command("--market", "spot")
    assert result.exit_code == 1, result.output
    assert f"missing: BTC/USDT [{DAY}T06:00Z, {DAY}T06:03Z)" in result.stdout
    assert "3 are missing, 3 of them on the exchange itself" in result.stdout


def test_the_check_is_on_the_checks_page() -> None:
    """The page has its name, when it passes, and what to do when it is red, in the words of the UI."""
    (row,) = table("checks", "check of a backfill")
    means, red = MEANING.split(" When red: ")
    assert row == [BACKFILL_COMPLETE, means, red[0].upper() + red[1:]]
