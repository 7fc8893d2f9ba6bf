"""The ledger: every expected minute is in exactly one state, whatever frames come in."""

import math
from collections import Counter
from datetime import date

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.bars import KEY, SCHEMA, VALUES
from ohlcv_assets.errors import InvalidBars
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.quality.causes import REPAIRED_SCHEMA, Evidence
from ohlcv_assets.quality.ledger import MINUTES_SCHEMA, UNEXPLAINED, Ledger, State, ledger
from ohlcv_assets.storage.lake import ABSENT_SCHEMA
from ohlcv_assets.storage.quality_store import RANGES_SCHEMA, STREAM_MINUTES_SCHEMA
from ohlcv_assets.timestamps import MINUTE_MS, Interval, parse_time
from ohlcv_assets_tests.builders import bars, corrupted, recorded, shuffled

_START_MS = parse_time("2025-06-01")
_SYMBOLS = ("BTC/USDT", "ETH/USDT")
_INTERVAL = Interval(_START_MS, _START_MS + 10 * MINUTE_MS)
_VALUE = st.sampled_from([1.0, math.nextafter(1.0, 2.0), 0.0, -0.0, math.nan, None])
_TIMES = st.sampled_from(
    [_START_MS - MINUTE_MS, _START_MS, _START_MS + 1, _START_MS + MINUTE_MS, _START_MS + 2 * MINUTE_MS, None]
)
_NAMES = st.sampled_from(["A/USDT", "B/USDT", "C/USDT", None])


@st.composite
def messy(draw: st.DrawFn) -> pl.DataFrame:
    """Rows that no store would hold: repeated, off the grid, of another market, without a key, with null and NaN."""
    row = st.fixed_dictionaries(
        {
            "market": st.sampled_from(["spot", "spot", "spot", "futures", None]),
            "symbol": _NAMES,
            "timestamp": _TIMES,
            "close": _VALUE,
            "volume": _VALUE,
        }
    )
    return pl.DataFrame(draw(st.lists(row, max_size=10)), schema={name: SCHEMA[name] for name in (*KEY, *VALUES)})


@st.composite
def messy_evidence(draw: st.DrawFn) -> Evidence:
    """Whatever anybody may have said, of any symbol and time."""
    key = {"symbol": _NAMES, "timestamp": _TIMES}
    causes = st.sampled_from(["exchange_halt", "not_listed_yet", "delisted", "unknown", "nonsense"])
    absent = st.fixed_dictionaries(
        {**key, "cause": causes, "proof": st.sampled_from(['{"answers": 2}', "no JSON", None])}
    )
    log = st.fixed_dictionaries(
        {
            "market": st.sampled_from(["spot", "futures"]),
            "minute_ms": _TIMES,
            "run_id": st.just("r"),
            "shard": st.sampled_from(["1/1", "1/2", "2/2"]),
            "connected_s": st.sampled_from([0.0, 12.5, 60.0]),
            "bars_expected": st.just(1),
            "bars_present": st.just(1),
        }
    )
    repaired = st.fixed_dictionaries({**key, "repair": st.sampled_from([1, 7, None])})
    spans = st.sampled_from([(None, None), (_START_MS + MINUTE_MS, None), (None, _START_MS + MINUTE_MS)])
    listing = {
        Symbol(name): ListingTimes(name[0], (Span(*draw(spans), "test"),))
        for name in draw(st.sets(st.sampled_from(["A/USDT", "B/USDT"])))
    }
    frames = [
        pl.DataFrame(draw(st.lists(rows, max_size=6)), schema=schema)
        for rows, schema in ((absent, ABSENT_SCHEMA), (log, STREAM_MINUTES_SCHEMA), (repaired, REPAIRED_SCHEMA))
    ]
    return Evidence(listing, *frames)


def _count(side: pl.DataFrame, market: str, symbol: str, timestamp: int) -> list[tuple[object, ...]]:
    here = [row for row in side.select(*KEY, *VALUES).rows() if row[:3] == (market, symbol, timestamp)]
    return [row[3:] for row in here]


def _same(left: tuple[object, ...], right: tuple[object, ...]) -> bool:
    return all(a == b or (a != a and b != b) for a, b in zip(left, right, strict=True))


def _by_hand(streamed: pl.DataFrame, fetched: pl.DataFrame, market: str, symbol: str, minute: int) -> set[State]:
    """The states that what is seen of a minute allows, by the plainest means."""
    here, there = (_count(side, market, symbol, minute) for side in (streamed, fetched))
    if here and there:
        same = len(here) == len(there) == 1 and _same(here[0], there[0])
        return {State.CONFIRMED, State.REPAIRED, State.HALTED} if same else {State.DIFFERING}
    if here or there:
        return {State.STREAMED_ONLY if here else State.FETCHED_ONLY}
    return {State.HALTED, State.NOT_LISTED, State.MISSING}


@settings(max_examples=200, deadline=None)
@given(
    streamed=messy(),
    fetched=messy(),
    evidence=messy_evidence(),
    symbols=st.sets(st.sampled_from(["A/USDT", "B/USDT", "D/USDT"])),
    market=st.sampled_from(Market),
)
def test_the_states_partition_the_grid_whatever_comes_in(
    streamed: pl.DataFrame, fetched: pl.DataFrame, evidence: Evidence, symbols: set[str], market: Market
) -> None:
    """On any frames and evidence every expected minute stands exactly once, in a state that what is seen allows."""
    interval = Interval(_START_MS, _START_MS + 3 * MINUTE_MS)
    made = ledger(streamed, fetched, symbols, market, interval, evidence)
    minutes = made.minutes()
    assert dict(minutes.schema) == MINUTES_SCHEMA
    assert dict(made.ranges.schema) == RANGES_SCHEMA
    expected = [(symbol, minute) for symbol in sorted(symbols) for minute in interval.minutes]
    assert minutes.select("symbol", "timestamp").rows() == expected
    assert sum(made.counts().values()) == made.expected == len(expected)
    assert made.counts() == {**dict.fromkeys(State, 0), **Counter(State(state) for state in minutes["state"])}
    for symbol, minute, state in minutes.select("symbol", "timestamp", "state").iter_rows():
        assert state in _by_hand(streamed, fetched, market.value, symbol, minute)


@settings(max_examples=60, deadline=None)
@given(streamed=messy(), fetched=messy(), evidence=messy_evidence(), seed=st.integers(0, 1000))
def test_order_does_not_matter(streamed: pl.DataFrame, fetched: pl.DataFrame, evidence: Evidence, seed: int) -> None:
    """Bars, symbols and evidence in another order make the same ledger, to the letter of its proofs."""
    made = ledger(streamed, fetched, ["A/USDT", "B/USDT"], Market.SPOT, _INTERVAL, evidence)
    turned = Evidence(
        dict(reversed(evidence.listing.items())),
        *(shuffled(frame, seed) for frame in (evidence.absent, evidence.stream_minutes, evidence.repaired)),
    )
    other = ledger(shuffled(streamed, seed), shuffled(fetched, seed + 1), ["B/USDT", "A/USDT", "B/USDT"], Market.SPOT, _INTERVAL, turned)  # fmt: skip
    assert other.ranges.equals(made.ranges)


@settings(max_examples=40, deadline=None)
@given(lost=st.sets(st.integers(0, 19)), never=st.sets(st.integers(0, 19)), wrong=st.sets(st.integers(0, 19)))
def test_ranges_are_as_long_as_they_can_be(lost: set[int], never: set[int], wrong: set[int]) -> None:
    """Neighbouring minutes of one symbol that say the same stand in one range, and ranges do not cross symbols."""
    rows = pl.int_range(pl.len())
    truth = bars(_SYMBOLS)
    streamed = truth.filter(~rows.is_in(sorted(lost)))
    fetched = truth.with_columns(pl.when(rows.is_in(sorted(wrong))).then(9.0).otherwise("close").alias("close"))
    made = ledger(streamed, fetched.filter(~rows.is_in(sorted(never))), _SYMBOLS, Market.SPOT, _INTERVAL, Evidence())
    again = made.ranges.with_columns(pl.struct("symbol", "state", "cause", "proof").alias("said"))
    assert not (again["said"].eq_missing(again["said"].shift())).any()
    assert ((made.ranges["end"] - made.ranges["start"]) // MINUTE_MS).sum() == 20


def _of(made: Ledger, row: int) -> str:
    return made.minutes()["state"][row]


def test_each_state_of_what_is_seen() -> None:
    """The same, not the same, twice, on one side only, on none: each minute gets its own state, all others are confirmed."""
    truth = bars(_SYMBOLS)
    streamed = pl.concat(
        [corrupted(truth, 3, "close", 1.0).filter(~pl.int_range(pl.len()).is_in([5, 8])), truth.slice(12, 1)]
    )
    made = ledger(streamed, truth.filter(~pl.int_range(pl.len()).is_in([7, 8])), _SYMBOLS, Market.SPOT, _INTERVAL, Evidence())  # fmt: skip
    assert {row: _of(made, row) for row in (3, 5, 7, 8, 12)} == {
        3: "differing",
        5: "fetched_only",
        7: "streamed_only",
        8: "missing",
        12: "differing",
    }
    assert made.counts()[State.CONFIRMED] == 15
    assert made.unexplained() == 5
    assert set(made.gaps()["state"]) == {state.value for state in UNEXPLAINED}


def test_a_repaired_bar_is_repaired_only_while_both_sides_agree() -> None:
    """A bar that a repair touched is repaired when both sides are the same now, and differing when they are not."""
    truth = bars(_SYMBOLS)
    repaired = truth.select("symbol", "timestamp").slice(4, 2).with_columns(repair=pl.Series([11, 12]))
    evidence = Evidence(repaired=repaired)
    both = ledger(truth, truth, _SYMBOLS, Market.SPOT, _INTERVAL, evidence)
    assert both.counts()[State.REPAIRED] == 2
    assert both.gaps().select("state", "proof").rows() == [("repaired", '{"last_repair": 12}')]
    again = ledger(truth, corrupted(truth, 4, "volume", 1.0), _SYMBOLS, Market.SPOT, _INTERVAL, evidence)
    assert (_of(again, 4), _of(again, 5)) == ("differing", "repaired")


def test_a_bar_that_is_there_is_confirmed_whatever_the_listing_says_and_a_trade_is_named() -> None:
    """Two captures of a bar outweigh a wrong listing time; that it was traded shows that the time is wrong."""
    truth = bars(_SYMBOLS)
    times = ListingTimes("BTCUSDT", (Span(_START_MS + 3 * MINUTE_MS, None, "onboardDate"),))
    made = ledger(truth, truth, _SYMBOLS, Market.SPOT, _INTERVAL, Evidence(listing={Symbol("BTC/USDT"): times}))
    assert made.counts()[State.CONFIRMED] == 20
    assert made.unlisted_trades.rows() == [("BTC/USDT", _START_MS + minute * MINUTE_MS) for minute in range(3)]


def test_the_minute_of_a_settlement_may_have_volume() -> None:
    """The bar that starts when the listing ends is no sign of a wrong time; one that starts later is."""
    truth = bars(_SYMBOLS)
    for until_ms in (_START_MS + 8 * MINUTE_MS, _START_MS + 7 * MINUTE_MS + 1):
        times = ListingTimes("BTCUSDT", (Span(None, until_ms, "deliveryDate"),))
        made = ledger(truth, truth, _SYMBOLS, Market.SPOT, _INTERVAL, Evidence(listing={Symbol("BTC/USDT"): times}))
        assert made.unlisted_trades.rows() == [("BTC/USDT", _START_MS + 9 * MINUTE_MS)]


def test_nothing_expected_is_an_empty_ledger() -> None:
    """Without symbols there are no ranges, and the counts are all zero."""
    made = ledger(bars(), bars(), [], Market.FUTURES, _INTERVAL, Evidence())
    assert made.ranges.is_empty()
    assert made.expected == sum(made.counts().values()) == 0


def test_what_are_no_bars_are_refused() -> None:
    """A lacking value column raises: nothing is called confirmed by a part of its values."""
    with pytest.raises(InvalidBars, match="taker_buy_volume"):
        ledger(bars(), bars().drop("taker_buy_volume"), _SYMBOLS, Market.FUTURES, _INTERVAL, Evidence())


@pytest.mark.real_data
def test_a_real_futures_halt_is_halted_and_its_bars_are_verified(recorded_data) -> None:
    """2023-09-12: 19 flat minutes of all three symbols are halted with proof, everything else is confirmed."""
    real = recorded(recorded_data / "klines" / "um_vision_1m_flat_block_days.parquet", Market.FUTURES)
    day = Interval.of_day(date(2023, 9, 12))
    names = ["AVAX/USDT:USDT", "FIL/USDT:USDT", "NEAR/USDT:USDT"]
    made = ledger(real, real, names, Market.FUTURES, day, Evidence())
    assert made.counts() == {**dict.fromkeys(State, 0), State.CONFIRMED: 3 * (1440 - 19), State.HALTED: 3 * 19}
    assert made.gaps().select("start", "end", "cause").unique().rows() == [
        (parse_time("2023-09-12T08:34Z"), parse_time("2023-09-12T08:53Z"), "exchange_halt")
    ]
