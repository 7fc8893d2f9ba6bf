"""Ranges of days through Dagster's own webserver and daemon: what fails is fetched again alone, a kill undoes nothing that was done.

One platform for all of them. Dagster's daemon looks after its backfills every thirty seconds: each test takes a minute or two.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator

import pytest

from ohlcv_assets.exchange.retrying import ATTEMPTS
from ohlcv_assets.instruments import Market
from ohlcv_assets.timestamps import from_ms
from ohlcv_assets_tests.fixtures.history import History, history_platform

pytestmark = pytest.mark.slow

_PATIENCE_S = 300.0
#: 120 a minute on futures, where eight days weigh 144: a backfill has to wait for the next minute.
_SHARE = 0.05
#: Pages of a day: three symbols, three pages each.
_A_DAY = 3 * 3


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    """Eight days of three symbols a market; this host may use a twentieth of the exchange's weight."""
    with history_platform(days=8, symbols=3, speed=600.0, weight_share=_SHARE) as running:
        yield running


def _asked(history: History, market: Market, since: int = 0) -> list[str]:
    """The days of a market that were asked for, a page an entry, from the page number `since` on."""
    return [
        from_ms(start_ms).date().isoformat()
        for asked, _, start_ms, _ in history.exchange.pages()[since:]
        if asked == market.value
    ]


def _in_lake(history: History, market: Market) -> list[str]:
    """The days of a market that the lake holds."""
    files = (history.settings.home / "lake").rglob(f"ohlcv/{market}/**/bars.parquet")
    return sorted(file.parent.name.partition("=")[2] for file in files)


def _empty_lake(history: History) -> None:
    shutil.rmtree(history.settings.home / "lake", ignore_errors=True)


def test_a_day_that_failed_is_fetched_again_alone(history: History) -> None:
    """The exchange stumbles over the first day: the others are stored, the page says which failed, its retry asks for that day only."""
    asset, keys = history.asset(Market.FUTURES, "daily_bars"), history.keys()
    # As many as there are attempts at the pages of a day: the first day gives up.
    history.exchange.inject(
        [{"fault": "rest_5xx", "market": "futures", "endpoints": ["klines"], "count": _A_DAY * ATTEMPTS}]
    )
    backfill = history.backfills.launch([asset], keys)
    (progress,) = history.backfills.wait(backfill, timeout_s=_PATIENCE_S)
    failed = history.backfills.partitions(asset, "FAILED")
    assert 1 <= len(failed) <= 2
    assert progress.status == "COMPLETED_FAILED"
    assert (progress.materialized, progress.failed) == (8 - len(failed), len(failed))
    assert history.backfills.partitions(asset) == [key for key in keys if key not in failed]
    (run,) = history.backfills.runs(backfill)
    assert run["status"] == "FAILURE"

    history.exchange.clear_faults()
    before = len(history.exchange.pages())
    again = history.backfills.retry_failed(backfill)
    (retried,) = history.backfills.wait(again, timeout_s=_PATIENCE_S)
    assert (retried.status, retried.targeted) == ("COMPLETED_SUCCESS", len(failed))
    asked = _asked(history, Market.FUTURES, before)
    assert set(asked) == set(failed)
    assert len(asked) == len(failed) * _A_DAY
    assert history.backfills.partitions(asset) == keys


def test_two_backfills_and_qa_windows_share_one_budget(history: History) -> None:
    """A backfill of each market and the QA's runs, each a process of its own: the exchange counts no minute above the share."""
    history.exchange.set_speed(10.0)
    hour = f"{history.keys()[-1]}-23:00"
    before = {market: dict(history.exchange.stats()["used_weight"][market]) for market in Market}
    _empty_lake(history)
    backfills = [history.backfills.launch([history.asset(market, "daily_bars")], history.keys()) for market in Market]
    qa = [history.platform.api.launch(f"{market}_recent", partition=hour) for market in Market]
    ended = history.backfills.wait(*backfills, timeout_s=_PATIENCE_S)
    assert {each.status for each in ended} == {"COMPLETED_SUCCESS"}
    history.platform.api.wait(qa, timeout_s=_PATIENCE_S)
    stats = history.exchange.stats()
    assert stats["refused"] == {"429": 0, "418": 0}
    for market in Market:
        spent = [used - before[market].get(minute, 0) for minute, used in stats["used_weight"][market].items()]
        assert max(spent) <= stats["weight_limit"][market] * _SHARE
    # There was something to share: all of it in one minute would have been too much.
    assert sum(spent) > stats["weight_limit"][Market.FUTURES] * _SHARE


def test_what_a_killed_run_had_done_is_not_fetched_again(history: History) -> None:
    """Kill -9 in the middle of a run of eight days: what was in the lake stays done, and the retry asks for the others only."""
    history.exchange.set_speed(10.0)
    _empty_lake(history)
    backfill = history.backfills.launch([history.asset(Market.FUTURES, "daily_bars")], history.keys())
    worker = history.backfills.worker(backfill)
    while len(done := _in_lake(history, Market.FUTURES)) < 2:
        time.sleep(0.02)
    os.kill(worker, signal.SIGKILL)
    (progress,) = history.backfills.wait(backfill, timeout_s=_PATIENCE_S)
    assert progress.status == "COMPLETED_FAILED"
    # The day in flight may be in the lake and not reported yet.
    assert progress.materialized >= len(done) - 1 >= 1
    assert progress.failed >= 1

    history.exchange.set_speed(600.0)
    before = len(history.exchange.pages())
    again = history.backfills.retry_failed(backfill)
    (retried,) = history.backfills.wait(again, timeout_s=_PATIENCE_S)
    assert (retried.status, retried.targeted) == ("COMPLETED_SUCCESS", progress.failed)
    asked = _asked(history, Market.FUTURES, before)
    assert set(asked) == set(history.keys()[progress.materialized :])
    assert len(asked) == progress.failed * _A_DAY
    assert _in_lake(history, Market.FUTURES) == history.keys()
