"""The weight budget: what is spent in a minute never exceeds the limit, however many processes spend."""

import asyncio
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ohlcv_assets.clock import ExchangeClock
from ohlcv_assets.errors import BadSetting
from ohlcv_assets.exchange.budget import Lane, WeightBudget, shared_folder
from ohlcv_assets.replay.weights import WeightPool
from ohlcv_assets.timestamps import MINUTE_MS, floor_to

START_MS = 1_748_736_000_000


def clock(speed: float = 60.0, at_ms: int = START_MS + 30_000) -> ExchangeClock:
    """An exchange's clock that shows `at_ms` now."""
    return ExchangeClock(at_ms, time.monotonic(), speed)


def budget(folder, limit=10, *, at=None) -> WeightBudget:
    return WeightBudget(folder, "exchange.test futures", limit, at or clock())


async def test_what_fits_is_spent_at_once_and_the_rest_in_the_next_minute(tmp_path):
    """A request that would go over the limit waits for the next minute of the exchange's clock."""
    at = clock()
    mine = budget(tmp_path, 10, at=at)
    for _ in range(5):
        await mine.spend(2)
    before = floor_to(at.now_ms(), MINUTE_MS)
    await mine.spend(2)
    assert before == START_MS
    assert at.now_ms() >= START_MS + MINUTE_MS
    assert mine.spent == 12


async def test_two_budgets_of_one_host_spend_from_one_pool(tmp_path):
    """What another process has spent this minute is gone for this one too."""
    at = clock(speed=1.0)
    await budget(tmp_path, 10, at=at).spend(8)
    assert budget(tmp_path, 10, at=at).used_now() == 8
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(budget(tmp_path, 10, at=at).spend(4), 0.2)


def test_many_at_once_never_overspend(tmp_path):
    """Four spenders that race for a hundred pieces of weight get exactly the limit within the minute."""
    at = clock(speed=1.0)

    def spend_eagerly(_: int) -> int:
        mine = budget(tmp_path, 50, at=at)
        return sum(mine._take(1) == 0 for _ in range(25))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(spend_eagerly, range(4))) == 50


async def test_near_the_full_minute_a_request_counts_for_both(tmp_path):
    """It is not known in which minute the exchange counts a request that is under way at the full minute."""
    mine = budget(tmp_path, 10, at=clock(speed=1.0, at_ms=START_MS - 100))
    await mine.spend(3)
    assert json.loads(mine.path.read_text())["minutes"] == {str(START_MS - MINUTE_MS): 3, str(START_MS): 3}


async def test_the_exchanges_own_count_corrects_upward_only(tmp_path):
    """Weight that others spent from this address counts, and a lower figure takes nothing back."""
    mine = budget(tmp_path, 100, at=clock(speed=1.0))
    await mine.spend(10)
    mine.observe(60)
    mine.observe(20)
    assert mine.used_now() == 60


async def test_a_stop_holds_for_every_process_until_it_is_over(tmp_path):
    """After a 429 or 418 nobody of this host spends anything before the exchange allows it again."""
    at = clock(speed=60.0)
    budget(tmp_path, 100, at=at).block(12.0)
    stopped_ms = at.now_ms()
    other = budget(tmp_path, 100, at=at)
    await other.spend(1)
    assert at.now_ms() - stopped_ms >= 11_000


async def test_a_count_of_an_earlier_replay_of_the_same_minute_is_forgotten(tmp_path):
    """A replay exchange that starts the same hour again begins with an empty count."""
    mine = budget(tmp_path, 10, at=clock(speed=600.0))
    await mine.spend(10)
    content = json.loads(mine.path.read_text())
    mine.path.write_text(json.dumps(content | {"written_s": content["written_s"] - 600}))
    assert budget(tmp_path, 10, at=clock(speed=600.0)).used_now() == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"minutes": 3}', "\x00" * 40])
async def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path, content):
    """A broken budget file never stops the capture."""
    mine = budget(tmp_path)
    mine.path.write_text(content)
    await mine.spend(4)
    assert mine.used_now() == 4


async def test_a_request_heavier_than_the_budget_is_an_error(tmp_path):
    """A limit below one request's weight is a setting that cannot be used, and no wait for ever."""
    with pytest.raises(BadSetting):
        await budget(tmp_path, 1).spend(2)


def test_the_shared_folder_is_this_users_alone(tmp_path, monkeypatch):
    """The folder that all processes of a user share can be entered by nobody else."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert shared_folder() == shared_folder()
    assert shared_folder().stat().st_mode & 0o777 == 0o700


def at_second(second: float) -> ExchangeClock:
    """A clock at its real speed that shows so many seconds into a minute."""
    return clock(speed=1.0, at_ms=START_MS + round(second * 1000))


@pytest.mark.parametrize(("second", "bulk_may_use"), [(10, 80), (40, 98)])
def test_bulk_work_leaves_a_reserve_that_realtime_repairs_may_spend(tmp_path, second, bulk_may_use):
    """A fifth in the half minute in which the stream's gaps are repaired, a fiftieth afterwards."""
    mine = budget(tmp_path, 100, at=at_second(second))
    assert sum(mine._take(1, Lane.BULK) == 0 for _ in range(120)) == bulk_may_use
    assert sum(mine._take(1, Lane.REALTIME) == 0 for _ in range(120)) == 100 - bulk_may_use


def test_bulk_work_that_finds_the_early_reserve_goes_on_at_the_half_minute(tmp_path):
    """It waits until more of this minute is free, and for the next minute only when all of it is spent."""
    mine = budget(tmp_path, 100, at=at_second(10))
    mine._take(80, Lane.BULK)
    assert mine._take(2, Lane.BULK) == pytest.approx(20, abs=5)
    assert mine._take(20, Lane.BULK) == pytest.approx(50, abs=5)


async def test_while_a_realtime_request_waits_other_processes_keep_its_weight_back(tmp_path):
    """When the minute turns, the repair finds its room: bulk work of another process did not take it."""
    at = clock(speed=1.0, at_ms=START_MS + 50_000)
    stream = budget(tmp_path, 100, at=at)
    assert stream._take(100) == 0
    repair = asyncio.create_task(stream.spend(60))
    await asyncio.sleep(0)
    turned = budget(tmp_path, 100, at=ExchangeClock(START_MS + MINUTE_MS + 5_000, time.monotonic(), 1.0))
    assert sum(turned._take(1, Lane.BULK) == 0 for _ in range(100)) == 40
    repair.cancel()


def test_the_claim_of_a_process_that_died_ends_by_itself(tmp_path):
    """Nobody keeps weight back for a process that does not wait any more."""
    mine = budget(tmp_path, 100, at=at_second(40))
    mine._take(1)
    content = json.loads(mine.path.read_text())
    mine.path.write_text(json.dumps(content | {"claims": {"dead": [90, time.time() - 1]}}))
    assert mine._take(90, Lane.BULK) == 0


async def test_a_request_under_way_at_the_full_minute_counts_in_both(tmp_path):
    """It was sent before, and nobody knows when it will arrive: the next minute's count has it as well."""
    at = clock(speed=60.0, at_ms=START_MS + 30_000)
    mine = budget(tmp_path, 100, at=at)
    async with mine.spending(7, Lane.BULK):
        await at.sleep(50)
        mine._take(1)
    assert mine.used_now() == 8
    mine._take(1)
    assert mine.used_now() == 9


async def test_a_request_answered_before_the_full_minute_is_given_back_to_the_next(tmp_path):
    """It was counted for both minutes when it was sent; its answer proves which of them the exchange counted it in."""
    mine = budget(tmp_path, 100, at=clock(speed=1.0, at_ms=START_MS - 200))
    async with mine.spending(7, Lane.BULK):
        assert json.loads(mine.path.read_text())["minutes"] == {str(START_MS - MINUTE_MS): 7, str(START_MS): 7}
    assert json.loads(mine.path.read_text())["minutes"] == {str(START_MS - MINUTE_MS): 7, str(START_MS): 0}


async def test_a_request_that_failed_is_not_given_back(tmp_path):
    """Without an answer nobody knows when the exchange will count it."""
    mine = budget(tmp_path, 100, at=clock(speed=1.0, at_ms=START_MS - 200))
    with pytest.raises(TimeoutError):
        async with mine.spending(7, Lane.BULK):
            raise TimeoutError
    assert json.loads(mine.path.read_text())["minutes"] == {str(START_MS - MINUTE_MS): 7, str(START_MS): 7}


async def test_the_exchanges_own_counter_never_passes_the_limit_however_long_requests_take(tmp_path):
    """Two processes, sixteen requests at once, each up to five exchange seconds on the wire: the exchange's count judges."""
    at = clock(speed=20.0, at_ms=START_MS + 40_000)
    chance, judge = random.Random(7), WeightPool(200)

    async def ask(mine: WeightBudget) -> None:
        while at.now_ms() < START_MS + 3 * MINUTE_MS:
            async with mine.spending(2, Lane.BULK):
                await at.sleep(chance.uniform(0, 5))
                judge.charge(2, at.now_ms())
                await at.sleep(chance.uniform(0, 5))

    spenders = [budget(tmp_path, 200, at=at) for _ in range(2)]
    await asyncio.gather(*(ask(mine) for mine in spenders for _ in range(8)))
    assert not judge.refused
    assert max(judge.by_minute.values()) <= 200
    assert judge.requests > 100
