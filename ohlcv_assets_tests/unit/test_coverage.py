"""Counting what there is of the expected bars by runs of minutes: the same as counting minute by minute."""

from datetime import date, timedelta
from itertools import pairwise

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.client import coverage as counting
from ohlcv_assets.client.minutes import days_at_once, expected_runs, runs
from ohlcv_assets.client.question import Question
from ohlcv_assets.client.verified import RANGES, STATES, with_states
from ohlcv_assets.instruments import Market, Symbol, Universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, parse_time

NAMES = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
#: The middle of the times below: half an hour on both sides of a midnight.
MIDNIGHT_MS = parse_time("2025-06-02")
_SPREAD_MS = 30 * MINUTE_MS
_KEYS = {"symbol": pl.String(), "timestamp": pl.Int64()}
_moments = st.integers(MIDNIGHT_MS - _SPREAD_MS, MIDNIGHT_MS + _SPREAD_MS)
_minutes = st.integers(-_SPREAD_MS // MINUTE_MS, _SPREAD_MS // MINUTE_MS).map(lambda n: MIDNIGHT_MS + n * MINUTE_MS)


@st.composite
def _listings(draw):
    """No times, or one or two spans, to the millisecond, open at either end or not."""
    if not (moments := sorted(draw(st.sets(_moments, max_size=4)))):
        return None
    ends = list(moments)
    if draw(st.booleans()):
        ends.insert(0, None)
    if len(ends) % 2:
        ends.append(None)
    spans = [Span(*pair, "drawn") for pair in zip(ends[::2], ends[1::2], strict=True)]
    return ListingTimes("DRAWN", tuple(spans))


@st.composite
def _ledger(draw):
    """Ranges in a row for some symbols, cut at midnight, with holes between them."""
    rows = []
    for name in NAMES:
        bounds = sorted(draw(st.sets(_minutes, max_size=6)) | {MIDNIGHT_MS})
        for start, end in pairwise(bounds):
            said = draw(st.sampled_from([None, *STATES]))
            if said is not None:
                cause = draw(st.sampled_from([None, "exchange_halt"]))
                rows.append((name, start, end, said, cause, None))
    return pl.DataFrame(rows, schema=RANGES, orient="row").sort("symbol", "start")


@st.composite
def _keys(draw):
    """The keys of what a store holds, sorted: some minutes alone, or all but some."""
    some = draw(st.sets(st.tuples(st.sampled_from(NAMES), _minutes), max_size=20))
    around = range(MIDNIGHT_MS - _SPREAD_MS, MIDNIGHT_MS + _SPREAD_MS + MINUTE_MS, MINUTE_MS)
    held = {(name, at) for name in NAMES for at in around} - some if draw(st.booleans()) else some
    return pl.DataFrame(sorted(held), schema=_KEYS, orient="row")


@st.composite
def _questions(draw):
    """Some symbols, an interval that cuts minutes, and the listings of the universe."""
    start_ms, end_ms = sorted(draw(st.sets(_moments, min_size=2, max_size=2)))
    names = draw(st.sets(st.sampled_from(NAMES), min_size=1))
    times = {Symbol(name): listing for name in NAMES if (listing := draw(_listings())) is not None}
    universe = Universe.of("v1.0", {Market.SPOT: list(NAMES)}, listings=times)
    return Question(Market.SPOT, tuple(map(Symbol, sorted(names))), Interval(start_ms, end_ms)), universe


def grid(question: Question, universe: Universe, now_ms: int) -> pl.DataFrame:
    """Every expected minute, one by one, as the words say it."""
    rows = [
        (str(symbol), minute_ms)
        for symbol in question.symbols
        for minute_ms in question.interval.minutes
        if minute_ms + MINUTE_MS <= now_ms
        and (symbol not in universe.listings or universe.listings[symbol].listed_at(minute_ms))
    ]
    return pl.DataFrame(rows, schema=_KEYS, orient="row")


def counted(of: pl.DataFrame) -> dict[tuple[str, int], int]:
    """How many there are of each symbol and day."""
    days = of.group_by("symbol", (pl.col("timestamp") // DAY_MS).alias("day")).len()
    return {(symbol, day): count for symbol, day, count in days.rows()}


@settings(max_examples=60)
@given(_questions(), _keys(), _keys(), _ledger(), _moments)
def test_counts_are_those_of_the_grid(asked, daily, streamed, ledger, now_ms):
    """Expected, stored and missing minutes of each symbol and day are what counting them one by one gives."""
    question, universe = asked
    expected = expected_runs(question, universe, now_ms)
    told = counting.coverage(expected, {"daily": runs(daily), "streamed": runs(streamed)}, ledger)
    minutes = grid(question, universe, now_ms)
    missing = minutes.join(pl.concat([daily, streamed]), on=["symbol", "timestamp"], how="anti")
    counts = [counted(frame) for frame in (minutes, daily, streamed, missing)]
    keys = sorted(counts[0])
    assert told.select("symbol", pl.col("day").cast(pl.Int64)).sort("symbol", "day").rows() == [
        (symbol, day) for symbol, day in keys
    ]
    columns = ("expected", "daily", "streamed", "missing")
    assert told.select(columns).rows() == [tuple(count.get(key, 0) for count in counts) for key in keys]
    said = ledger.with_columns(day=pl.col("start") // DAY_MS, minutes=(pl.col("end") - pl.col("start")) // MINUTE_MS)
    for key, row in zip(keys, told.select(counting.STATE_COLUMNS.values()).iter_rows(), strict=True):
        here = said.filter((pl.col("symbol") == key[0]) & (pl.col("day") == key[1]))
        by_state = [here.filter(pl.col("state") == state)["minutes"].sum() for state in STATES]
        assert list(row) == ([None] * len(STATES) if here.is_empty() else by_state)


@settings(max_examples=60)
@given(_questions(), _keys(), _keys(), _ledger(), _moments)
def test_missing_ranges_are_those_of_the_grid(asked, daily, streamed, ledger, now_ms):
    """The missing minutes one by one, with what the ledger says of each, joined where they are on end and it says the same."""
    question, universe = asked
    there = pl.concat([runs(daily), runs(streamed)])
    told = counting.missing_ranges(expected_runs(question, universe, now_ms), there, ledger)
    lacking = grid(question, universe, now_ms).join(
        pl.concat([daily, streamed]), on=["symbol", "timestamp"], how="anti", maintain_order="left"
    )
    joined: list[list] = []
    for symbol, at, state, cause in with_states(lacking, ledger, ("state", "cause")).iter_rows():
        if joined and joined[-1][0] == symbol and joined[-1][2] == at and joined[-1][4:] == [state, cause]:
            joined[-1][2] += MINUTE_MS
            joined[-1][3] += 1
        else:
            joined.append([symbol, at, at + MINUTE_MS, 1, state, cause])
    assert told.rows() == [tuple(row) for row in joined]
    assert told.columns == ["symbol", "start", "end", "minutes", "state", "cause"]


def test_days_are_taken_in_parts_in_order():
    """Every day comes once, in order, at least one at a time, and more of them the fewer symbols there are."""
    days = [date(2025, 1, 1) + timedelta(days=number) for number in range(365)]
    for symbols in (1, 20, 400, 100_000):
        parts = list(days_at_once(days, symbols))
        assert [day for part in parts for day in part] == days
        assert {len(part) for part in parts[:-1]} <= {max(1, 2_000_000 // (1_440 * symbols))}
    assert list(days_at_once([], 5)) == []


def test_a_part_of_days_has_no_gap():
    """What lies between two days that are not on end is in no part, so that nobody reads it."""
    first, last = date(2020, 1, 1), date(2025, 1, 1)
    assert [list(part) for part in days_at_once([first, first + timedelta(days=1), last], 1)] == [
        [first, first + timedelta(days=1)],
        [last],
    ]
