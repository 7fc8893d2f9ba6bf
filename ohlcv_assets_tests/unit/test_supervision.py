"""The decision which streaming runs must be started."""

from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.orchestration.supervision import (
    LOOK_BACK_HOURS,
    STALLED_AFTER_S,
    Slot,
    StartedRun,
    hours_to_stream,
    missed_hours,
    pause_s,
    runs_to_start,
)
from ohlcv_assets.timestamps import HOUR_MS

_SLOT = Slot(10 * HOUR_MS)
_ALIVE = StartedRun("alive", alive=True, succeeded=False, started_s_ago=600.0)
_DONE = StartedRun("done", alive=False, succeeded=True, started_s_ago=600.0, ended_s_ago=1.0)
_DEAD = StartedRun("dead", alive=False, succeeded=False, started_s_ago=600.0, ended_s_ago=1.0)


def _started(*runs: StartedRun, stalled: bool = False) -> list[tuple[int, str | None]]:
    return [(start.attempt, start.instead_of) for start in runs_to_start([_SLOT], {_SLOT: runs}, {_SLOT: stalled})]


@given(now_ms=st.integers(0, 4_000_000_000_000), lead_s=st.floats(0, 3600))
def test_this_hour_always_has_a_run_and_the_next_one_when_it_is_near(now_ms: int, lead_s: float) -> None:
    """The hours are this one and those that begin within the lead, each once, in order."""
    hours = hours_to_stream(now_ms, lead_s)
    assert hours[0] <= now_ms < hours[0] + HOUR_MS
    assert hours == list(range(hours[0], hours[-1] + 1, HOUR_MS))
    assert all(hour % HOUR_MS == 0 and hour <= now_ms + lead_s * 1000 for hour in hours)
    assert hours[-1] + HOUR_MS > now_ms + int(lead_s * 1000)


@given(now_hour=st.integers(100, 500_000), known=st.lists(st.integers(0, 500_010)))
def test_missed_hours_are_the_past_ones_since_we_began_a_day_back_at_most(now_hour: int, known: list[int]) -> None:
    """Nothing before the first run that ever was, nothing older than a day, nothing that is not over."""
    hours = missed_hours(now_hour * HOUR_MS + 1, [hour * HOUR_MS for hour in known])
    begun = [hour for hour in known if hour < now_hour]
    assert all(hour < now_hour * HOUR_MS for hour in hours)
    assert len(hours) <= LOOK_BACK_HOURS
    assert hours == [] if not begun else hours[0] >= min(begun) * HOUR_MS
    assert not begun or hours[-1] == (now_hour - 1) * HOUR_MS


def test_a_slot_without_a_run_gets_one() -> None:
    """The first attempt of a slot is started at once."""
    assert _started() == [(0, None)]


def test_a_slot_with_a_run_that_lives_or_ended_well_gets_no_other() -> None:
    """An hour is started once, however often the sensor ticks."""
    assert _started(_ALIVE) == []
    assert _started(_DONE) == []
    assert _started(_DEAD, _DONE) == []


def test_a_run_that_died_is_replaced_at_once() -> None:
    """The second attempt follows the first failure without a pause, so that a minute is enough."""
    assert _started(_DEAD) == [(1, None)]
    assert pause_s(1) == 0.0


def test_a_slot_that_keeps_failing_is_tried_later_and_later() -> None:
    """After more failures there are pauses, bounded; the attempt number makes each request a new one."""
    assert _started(_DEAD, _DEAD) == []
    later = StartedRun("dead", alive=False, succeeded=False, started_s_ago=600.0, ended_s_ago=301.0)
    assert _started(*[later] * 9) == [(9, None)]
    assert all(pause_s(n) <= pause_s(n + 1) <= 300.0 for n in range(1, 40))


def test_a_run_whose_bars_stopped_arriving_is_replaced_and_named() -> None:
    """A run that says it is alive but brings nothing is replaced; one that has just begun is given its time."""
    assert _started(_ALIVE, stalled=True) == [(1, "alive")]
    young = StartedRun("young", alive=True, succeeded=False, started_s_ago=STALLED_AFTER_S / 2)
    assert _started(young, stalled=True) == []


def test_where_replacing_does_not_help_it_is_done_less_and_less_often() -> None:
    """While the exchange itself stands still, runs are not replaced every minute."""
    two = (_DEAD, StartedRun("second", alive=True, succeeded=False, started_s_ago=STALLED_AFTER_S * 1.5))
    assert _started(*two, stalled=True) == []
    patient = (_DEAD, StartedRun("second", alive=True, succeeded=False, started_s_ago=STALLED_AFTER_S * 2.5))
    assert _started(*patient, stalled=True) == [(2, "second")]


@given(shards=st.integers(1, 8), done=st.sets(st.integers(1, 8)))
def test_each_part_of_a_market_has_its_own_run(shards: int, done: set[int]) -> None:
    """Parts that have a run are left alone; each of the others gets one."""
    slots = [Slot(HOUR_MS, part, shards) for part in range(1, shards + 1)]
    runs = {slot: [_DONE] for slot in slots if slot.shard in done}
    started = {start.slot for start in runs_to_start(slots, runs, {})}
    assert started == set(slots) - set(runs)
