"""`ohlcv repair` as people type it: the same repair without Dagster, its exit codes, and the audit trail it shows."""

import json
import subprocess
import sys

import psycopg
import pytest

from ohlcv_assets_tests.fixtures.deployment import DAY, Deployment

_HOUR = ("--market", "spot", "--day", DAY, "--hour", "05")


def _repair(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ohlcv_assets.cli", "repair", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def _corrupt(deployment: Deployment, minute: int, count: int = 1) -> None:
    with psycopg.connect(deployment.settings.database_url.get_secret_value()) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "update bars set high = high + 1 where market = 'spot' and symbol = 'BTC/USDT' and timestamp in "
            "(select distinct timestamp from bars order by timestamp offset %s limit %s)",
            (minute, count),
        )


@pytest.fixture
def captured(deployment: Deployment) -> Deployment:
    """An hour of spot on both sides."""
    assert deployment.run("spot_stream_hour", partition_key=f"{DAY}-05:00").success
    assert deployment.run("spot_recent", partition_key=f"{DAY}-05:00").success
    return deployment


def test_an_hour_is_repaired_and_the_trail_shows_it(captured: Deployment) -> None:
    """Dry: what would be done, and nothing is. Then repaired, exit code 0; a second time there is nothing; the list has one row."""
    assert _repair("--list", *_HOUR[:4]).stdout.strip().endswith("nothing was ever repaired or left undecided")
    _corrupt(captured, 7)
    dry = _repair(*_HOUR, "--dry-run", "--json")
    told = json.loads(dry.stdout)
    assert (dry.returncode, told["bars_concerned"], told["bars_repaired"], told["dry_run"]) == (0, 1, 1, True)
    done = _repair(*_HOUR)
    assert done.returncode == 0, done.stderr
    assert "1 bars in doubt, 1 repaired, 0 undecided" in done.stdout
    assert "0 bars in doubt" in _repair(*_HOUR).stdout
    listed = _repair(*_HOUR, "--list", "--json")
    (row,) = json.loads(listed.stdout)
    assert (row["symbol"], row["decision"]) == ("BTC/USDT", "streamed_was_wrong")
    assert row["before"]["high"] == row["after"]["high"] + 1
    assert "streamed_was_wrong" in _repair(*_HOUR, "--list").stdout


def test_beyond_the_limit_a_person_confirms(captured: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 and how to go on; with --confirm all of it is repaired."""
    monkeypatch.setenv("OHLCV_REPAIR_LIMIT_BARS", "2")
    _corrupt(captured, 7, count=3)
    refused = _repair(*_HOUR)
    assert (refused.returncode, "--confirm" in refused.stdout) == (1, True)
    confirmed = _repair(*_HOUR, "--confirm", "--json")
    assert (confirmed.returncode, json.loads(confirmed.stdout)["bars_repaired"]) == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("--market", "spot", "--day", "yesterday"), 2, "'yesterday' is no day"),
        (("--market", "margin", "--day", DAY), 2, "margin"),
        (("--market", "spot", "--day", DAY), 1, "materialize daily_bars"),
        (_HOUR, 1, "no window of"),
    ],
)
def test_what_cannot_be_repaired_is_one_clear_error(
    deployment: Deployment, arguments: tuple[str, ...], exit_code: int, said: str
) -> None:
    """A day that is none, a market that is none, and bars that were never fetched: what happened, and what to do."""
    answer = _repair(*arguments)
    assert (answer.returncode, said in answer.stderr) == (exit_code, True), answer.stderr
    assert "try: " in answer.stderr


def test_an_exchange_that_is_away_is_exit_code_three(captured: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stores are as they were, and the error says that the exchange does not answer."""
    _corrupt(captured, 7)
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", "http://127.0.0.1:9")
    answer = _repair(*_HOUR)
    assert answer.returncode == 3, answer.stderr
    assert "nothing was ever repaired" in _repair(*_HOUR, "--list").stdout
