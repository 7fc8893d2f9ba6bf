"""The replay exchange's rules: its clock, request weights, which rows a request gets, and how late bars close."""

from __future__ import annotations

import json
import statistics
from datetime import date

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.errors import UsageError
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.clock import ReplayClock
from ohlcv_assets.replay.klines import ApiError, page, read_query
from ohlcv_assets.replay.script import Script
from ohlcv_assets.replay.server import ReplayExchange
from ohlcv_assets.replay.tape import MarketTape
from ohlcv_assets.replay.truth import generate_truth
from ohlcv_assets.replay.weights import FIRST_BAN_MS, PATIENCE, WeightPool, futures_klines_weight
from ohlcv_assets.timestamps import MINUTE_MS, parse_time

START_MS = parse_time("2025-06-01")
TRUTH = generate_truth(symbols=1, days=1, seed=7, first_day=date(2025, 6, 1))
TAPES = {market: MarketTape(market, frame) for market, frame in TRUTH.items()}
# The same with holes: spot leaves out minutes during a halt.
HOLED = MarketTape(Market.SPOT, TRUTH[Market.SPOT].filter((pl.col("timestamp") // MINUTE_MS) % 5 != 3))


class Watch:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Seconds, as set."""
        return self.now_s


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 60.0, 600.0]), st.floats(0, 1000)), max_size=8))
def test_the_clock_counts_at_each_speed_while_it_has_it(stretches: list[tuple[float, float]]) -> None:
    """The exchange's time is the sum of each stretch times its speed, and never steps back."""
    watch = Watch()
    clock, expected_ms = ReplayClock(START_MS, 1.0, watch), float(START_MS)
    for speed, wall_s in stretches:
        before_ms = clock.now_ms()
        clock.change_speed(speed)
        watch.now_s += wall_s
        expected_ms += speed * wall_s * 1000
        assert clock.now_ms() >= before_ms
    assert clock.now_ms() == pytest.approx(expected_ms, abs=2)


@settings(deadline=None)
@given(st.floats(1, 600), st.integers(0, 10**9))
def test_nothing_is_due_before_its_time(speed: float, ahead_ms: int) -> None:
    """At the monotonic time that the clock names for a moment, the clock shows that moment, to a millisecond."""
    watch = Watch()
    clock = ReplayClock(START_MS, speed, watch)
    watch.now_s = clock.monotonic_at(START_MS + ahead_ms) or 0.0
    assert clock.now_ms() == pytest.approx(START_MS + ahead_ms, abs=1)


def test_a_clock_that_stands_still_promises_nothing() -> None:
    """At speed 0 no moment will come and no delay ends; what waits is told when that changes."""
    clock, told = ReplayClock(START_MS, 0.0, Watch()), list[float]()
    clock.on_change(lambda: told.append(clock.speed))
    assert clock.monotonic_at(START_MS + 1) is None
    assert clock.wall_s(1) == float("inf")
    clock.change_speed(60)
    clock.restart()
    assert told == [60, 60]


@pytest.mark.parametrize("speed", [0, 0.5, 601, -1, float("nan")])
def test_a_speed_beyond_reason_is_refused(speed: float) -> None:
    """Only 1x to 600x can be played."""
    with pytest.raises(UsageError, match="speed"):
        ReplayExchange(TRUTH, speed=speed)


def test_a_start_after_the_data_is_refused() -> None:
    """A clock that starts when there are no bars left is an error; before them it is not."""
    with pytest.raises(UsageError, match="the data end at 2025-06-02T00:00Z"):
        ReplayExchange(TRUTH, start_ms=parse_time("2025-06-02"))
    assert ReplayExchange(TRUTH, start_ms=START_MS - MINUTE_MS).clock.now_ms() < START_MS


@pytest.mark.parametrize(
    ("limit", "weight"),
    [(1, 1), (99, 1), (100, 2), (499, 2), (500, 5), (1000, 5), (1001, 10), (1500, 10), (9999, 10)],
)
def test_a_futures_page_costs_what_the_table_says(limit: int, weight: int) -> None:
    """1 below 100 rows, 2 below 500, 5 to 1,000, 10 above."""
    assert futures_klines_weight(limit) == weight


def test_weight_is_counted_by_clock_minute() -> None:
    """The last request before :00 and the first after it draw from different budgets; a refused one counts."""
    pool = WeightPool(limit=10)
    assert pool.charge(10, START_MS + 59_999).used == 10
    assert pool.charge(10, START_MS + 60_000).used == 10
    refused = pool.charge(1, START_MS + 60_001)
    assert (refused.status, refused.used, refused.retry_after_s) == (429, 11, 60)
    assert pool.charge(10, START_MS + 120_000).status == 200


def test_abuse_is_banned_and_each_ban_is_longer() -> None:
    """Whoever ignores 429 gets 418 until the ban is over, then 200; the second ban is twice as long."""
    pool, now_ms = WeightPool(limit=1), START_MS
    for ban_ms in (FIRST_BAN_MS, 2 * FIRST_BAN_MS):
        statuses = [pool.charge(1, now_ms).status for _ in range(PATIENCE + 2)]
        assert statuses == [200] + [429] * PATIENCE + [418]
        refused = pool.charge(1, now_ms + ban_ms - 1)
        assert (refused.status, refused.retry_after_s, refused.banned_until_ms) == (418, 1, now_ms + ban_ms)
        now_ms += ban_ms + MINUTE_MS
    assert pool.refused == {429: 2 * PATIENCE, 418: 4}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50_000), st.integers(1, 10)), max_size=60))
def test_whoever_waits_as_told_is_served_again(requests: list[tuple[int, int]]) -> None:
    """After Retry-After seconds the next request is answered, whatever came before."""
    pool, now_ms = WeightPool(limit=20), START_MS
    for pause_ms, weight in requests:
        verdict = pool.charge(weight, now_ms)
        now_ms += pause_ms
        if verdict.status != 200:
            now_ms += verdict.retry_after_s * 1000
            assert pool.charge(1, now_ms).status == 200


def expected_starts(tape: MarketTape, start_ms: int | None, end_ms: int | None, limit: int, now_ms: int) -> list[int]:
    """Binance's documented meaning, said as plainly as can be."""
    starts = [int(t) for t in tape.symbols["BTCUSDT"].timestamps if t <= now_ms]
    chosen = [t for t in starts if (start_ms is None or t >= start_ms) and (end_ms is None or t <= end_ms)]
    return chosen[-limit:] if start_ms is None else chosen[:limit]


offsets = st.one_of(st.none(), st.integers(-3 * MINUTE_MS, 90 * MINUTE_MS))


@settings(max_examples=200, deadline=None)
@given(
    offsets,
    offsets,
    st.integers(1, 30),
    st.integers(-MINUTE_MS, 70 * MINUTE_MS),
    st.sampled_from([TAPES[Market.FUTURES], HOLED]),
)
def test_a_page_is_what_binance_documents(
    start: int | None, end: int | None, limit: int, now: int, tape: MarketTape
) -> None:
    """Any start, end and limit at any time give the documented rows, of which only a bar of now is unfinished."""
    now_ms = START_MS + now
    parameters = {"symbol": "BTCUSDT", "interval": "1m", "limit": str(limit)}
    times = {"startTime": start, "endTime": end}
    parameters |= {name: str(START_MS + offset) for name, offset in times.items() if offset is not None}
    start_ms, end_ms = (None if offset is None else START_MS + offset for offset in (start, end))
    if tape.market is Market.FUTURES and start_ms is not None and end_ms is not None and start_ms > end_ms:
        with pytest.raises(ApiError) as refused:
            read_query(parameters, tape)
        assert refused.value.code == -1023
        return
    rows = [json.loads(row) for row in page(read_query(parameters, tape), tape, Script(0), now_ms)]
    assert [row[0] for row in rows] == expected_starts(tape, start_ms, end_ms, limit, now_ms)
    for row in rows:
        final = tape.symbols["BTCUSDT"].at(row[0])
        assert final is not None
        assert row[6] >= now_ms or float(row[5]) == final.volume


@pytest.mark.parametrize(
    ("market", "changed", "code"),
    [
        (Market.FUTURES, {"symbol": None}, -1102),
        (Market.FUTURES, {"symbol": ""}, -1102),
        (Market.FUTURES, {"symbol": "btcusdt"}, -1100),
        (Market.FUTURES, {"symbol": "../../etc"}, -1100),
        (Market.FUTURES, {"symbol": "NOSUCHUSDT"}, -1121),
        (Market.FUTURES, {"interval": None}, -1102),
        (Market.FUTURES, {"interval": "7m"}, -1120),
        (Market.FUTURES, {"interval": "1s"}, -1120),
        (Market.FUTURES, {"limit": "1501"}, -1130),
        (Market.FUTURES, {"limit": "0"}, -1130),
        (Market.SPOT, {"limit": "0"}, -1130),
        (Market.SPOT, {"limit": "ten"}, -1100),
        (Market.SPOT, {"startTime": "yesterday"}, -1100),
        (Market.SPOT, {"startTime": "-5"}, -1100),
        (Market.FUTURES, {"endTime": "1.5"}, -1100),
    ],
)
def test_a_wrong_request_has_binances_code(market: Market, changed: dict[str, str | None], code: int) -> None:
    """Each mistake is refused with the code that Binance gives it."""
    parameters = {"symbol": "BTCUSDT", "interval": "1m"} | changed
    with pytest.raises(ApiError) as refused:
        read_query({name: value for name, value in parameters.items() if value is not None}, TAPES[market])
    assert refused.value.code == code


def test_spot_cuts_a_limit_and_takes_microseconds() -> None:
    """Spot serves 1,000 rows whatever more is asked for, and reads times in microseconds as well."""
    parameters = {"symbol": "BTCUSDT", "interval": "1m", "limit": "5000", "startTime": str(START_MS * 1000)}
    query = read_query(parameters, TAPES[Market.SPOT])
    assert (query.limit, query.start_ms) == (1000, START_MS)


def test_the_scripts_lags_are_seeded_and_realistic() -> None:
    """Closing events come after the end, half of them within 0.2 s, the same for the same seed only."""
    lags = [Script(7).close_lags_ms(Market.SPOT, "BTC/USDT", minute * MINUTE_MS)[0] for minute in range(2000)]
    assert lags == [Script(7).close_lags_ms(Market.SPOT, "BTC/USDT", minute * MINUTE_MS)[0] for minute in range(2000)]
    assert lags[0] != Script(8).close_lags_ms(Market.SPOT, "BTC/USDT", 0)[0]
    assert min(lags) > 0
    assert 180 < statistics.median(lags) < 220
    assert max(lags) < 2000
