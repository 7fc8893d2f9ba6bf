"""The bookkeeping of a stream: every bar of the grid is in exactly one state."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.bars import Channel
from ohlcv_assets.exchange.tally import Tally
from ohlcv_assets.instruments import Symbol
from ohlcv_assets.timestamps import MINUTE_MS, Interval

START_MS = 1_748_736_000_000
BTC, ETH = Symbol("BTC/USDT"), Symbol("ETH/USDT")
FIVE = Interval(START_MS, START_MS + 5 * MINUTE_MS)


def minute(index: int) -> int:
    return START_MS + index * MINUTE_MS


def test_minutes_before_a_listing_are_not_expected():
    """A symbol listed in the third minute is awaited from then on."""
    tally = Tally(FIVE, {BTC: 0, ETH: minute(2)})
    assert tally.expected == 8
    assert not tally.awaits((ETH, minute(1)))
    assert tally.awaits((ETH, minute(2)))


def test_what_is_stored_already_is_neither_awaited_nor_counted_twice():
    """A bar of an earlier run is present from the start; storing it again changes nothing."""
    tally = Tally(FIVE, {BTC: 0}, {(BTC, minute(0)), (BTC, minute(9)), (ETH, minute(1))})
    assert tally.stored == {(BTC, minute(0)): None}
    assert tally.is_stored([(BTC, minute(0)), (BTC, minute(1)), (BTC, minute(7))], Channel.REST) == 1
    assert len(tally.stored) == 2


def test_a_bar_is_due_when_its_minute_ended_d_ago():
    """Nothing is asked for before T+d, and everything that is awaited then is."""
    tally = Tally(FIVE, {BTC: 0, ETH: 0})
    tally.arrived((ETH, minute(0)))
    assert tally.due(minute(1) + 3_499, 3.5) == []
    assert tally.next_due_ms(minute(1), 3.5) == minute(1) + 3_500
    assert tally.due(minute(1) + 3_500, 3.5) == [(BTC, minute(0))]


def test_a_bar_asked_for_in_vain_is_asked_for_again_ever_more_rarely():
    """The pause after each vain question doubles."""
    tally = Tally(FIVE, {BTC: 0})
    now_ms, pauses = float(minute(2)), []
    for _ in range(6):
        tally.asked_in_vain([(BTC, minute(0))], now_ms, answered=True)
        tally.arrived((BTC, minute(1)))
        following = tally.next_due_ms(now_ms, 0.0)
        pauses.append((following - now_ms) / 1000)
        now_ms = following
    assert pauses == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


@pytest.mark.parametrize(
    ("answers", "agreed"), [([True], 0), ([True, True], 1), ([True, False], 0), ([False] * 5, 0)]
)
def test_only_two_healthy_answers_make_a_bar_absent(answers, agreed):
    """An error is no evidence of absence, and one answer is not enough."""
    tally = Tally(FIVE, {BTC: 0})
    for number, answered in enumerate(answers):
        tally.asked_in_vain([(BTC, minute(0))], minute(3 + number), answered=answered)
    assert len(tally.agreed_absent([(BTC, minute(0))], minute(2))) == agreed
    assert tally.agreed_absent([(BTC, minute(0))], minute(0) + 59_999) == []


def test_two_answers_of_the_same_moment_are_one_witness():
    """Healthy answers within half a minute count once, however many there are."""
    tally = Tally(FIVE, {BTC: 0})
    for second in range(30):
        tally.asked_in_vain([(BTC, minute(0))], minute(3) + second * 1000, answered=True)
    assert tally.agreed_absent([(BTC, minute(0))], minute(2)) == []
    tally.asked_in_vain([(BTC, minute(0))], minute(3) + 30_000, answered=True)
    assert tally.agreed_absent([(BTC, minute(0))], minute(2)) == [(BTC, minute(0))]


def test_a_bar_named_missing_that_comes_after_all_is_taken():
    """Being named missing is no sentence: the late bar is stored and no longer missing."""
    tally = Tally(FIVE, {BTC: 0})
    tally.name_missing([(BTC, minute(0))])
    assert tally.missing == {(BTC, minute(0))}
    tally.arrived((BTC, minute(0)))
    assert tally.missing == set()


events = st.lists(
    st.tuples(st.sampled_from(["arrived", "missing", "stored"]), st.sampled_from([BTC, ETH]), st.integers(-1, 5))
)


@given(events)
@settings(max_examples=100)
def test_every_bar_is_awaited_or_arrived_or_missing(happened):
    """Whatever happens in whatever order, the states of the grid's bars sum to the grid."""
    tally = Tally(FIVE, {BTC: 0, ETH: minute(1)})
    arrived = set()
    for kind, symbol, index in happened:
        key = (symbol, minute(index))
        if kind == "missing":
            tally.name_missing([key] if tally.awaits(key) else [])
        elif index >= (symbol == ETH) and index < 5 and index >= 0:
            tally.arrived(key)
            arrived.add(key)
            if kind == "stored":
                tally.is_stored([key], Channel.WEBSOCKET)
    assert len(tally.open_keys()) + len(arrived) + len(tally.missing) == tally.expected == 9
    assert set(tally.stored) <= arrived
    assert tally.settled == (not tally.open_keys())


def test_what_waits_for_the_store_is_safe_and_not_stored():
    """A bar that is kept is neither awaited nor stored; once it is stored it counts by the channel that brought it."""
    tally = Tally(FIVE, {BTC: 0})
    key = (BTC, minute(0))
    tally.arrived(key)
    tally.is_kept([key], Channel.WEBSOCKET)
    assert (tally.is_safe(key), key in tally.stored, tally.awaits(key)) == (True, False, False)
    assert tally.is_stored([key], Channel.REST) == 1
    assert tally.stored == {key: Channel.WEBSOCKET}
    assert tally.kept == {}


def test_bars_that_were_lost_are_awaited_again_in_order_of_time():
    """A bar that could be kept nowhere is due again after its pause, before later ones, unless it is stored already."""
    tally = Tally(FIVE, {BTC: 0})
    for index in (0, 1):
        tally.arrived((BTC, minute(index)))
    tally.is_kept([(BTC, minute(0))], Channel.WEBSOCKET)
    tally.is_stored([(BTC, minute(1))], Channel.WEBSOCKET)
    tally.reopen([(BTC, minute(0)), (BTC, minute(1)), (BTC, minute(99))], ask_again_ms=minute(2) + 500)
    assert not tally.is_safe((BTC, minute(0)))
    assert tally.due(minute(2), 3.5) == []
    assert tally.next_due_ms(minute(2), 3.5) == minute(2) + 500
    assert tally.due(minute(4), 3.5)[0] == (BTC, minute(0))
    assert tally.open_keys() == [(BTC, minute(index)) for index in (0, 2, 3, 4)]


def test_an_interval_that_is_cut_short_expects_what_is_left():
    """After a stop only the minutes before it are expected, stored and awaited; a later bar belongs to somebody else."""
    tally = Tally(FIVE, {BTC: 0, ETH: minute(1)}, {(BTC, minute(0)), (BTC, minute(4))})
    tally.is_kept([(ETH, minute(3))], Channel.REST)
    tally.end_at(minute(3))
    assert tally.interval == Interval(START_MS, minute(3))
    assert tally.expected == 5
    assert tally.stored == {(BTC, minute(0)): None}
    assert tally.kept == {}
    assert sorted(tally.open_keys()) == [(BTC, minute(1)), (BTC, minute(2)), (ETH, minute(1)), (ETH, minute(2))]
