"""The replay exchange's bars on the wire: exact decimals, rows, events, and what an unfinished bar looks like."""

from __future__ import annotations

import json
import re
from datetime import date
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.bars import VALUES
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.derive import grid_decimals
from ohlcv_assets.replay.partial import Decimals, Kline, so_far
from ohlcv_assets.replay.tape import MarketTape
from ohlcv_assets.replay.truth import generate_truth
from ohlcv_assets.replay.wire import decimal_text, kline_event, kline_row
from ohlcv_assets.timestamps import MINUTE_MS

TAPE = MarketTape(
    Market.FUTURES, generate_truth(symbols=5, days=1, seed=7, first_day=date(2025, 6, 1))[Market.FUTURES]
)
KLINES = [tape.kline(index) for tape in TAPE.symbols.values() for index in range(0, 1440, 7)]
GRID = next(iter(TAPE.symbols.values())).decimals

AMOUNTS = VALUES[4:]


@settings(deadline=None)
@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False), st.integers(0, 8))
def test_text_gives_back_the_same_double(value: float, decimals: int) -> None:
    """Every double survives its text, which has no exponent."""
    text = decimal_text(value, decimals)
    assert float(text) == value
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)?", text)


@settings(deadline=None)
@given(st.integers(0, 10**15), st.integers(0, 8))
def test_values_on_the_grid_have_the_grids_decimals(units: int, decimals: int) -> None:
    """A value of whole units is written with exactly the decimals asked for."""
    whole, _, part = decimal_text(units / 10**decimals, decimals).partition(".")
    assert len(part) == decimals
    assert int(whole + part) == units


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=1), st.integers(0, 7))
def test_the_grid_of_a_column_writes_all_its_values(units: list[int], decimals: int) -> None:
    """The decimals found in a column are no more than it was made with, and enough for each value."""
    column = np.array(units, dtype=np.float64) / 10.0**decimals
    found = grid_decimals([column])
    assert found <= decimals
    assert all(float(f"{value:.{found}f}") == value for value in column)


def test_a_column_off_every_grid_has_eight_decimals() -> None:
    """What no grid fits is given the finest; the text is exact all the same."""
    assert grid_decimals([np.array([np.pi])]) == 8
    assert decimal_text(np.pi, 8) == "3.141592653589793"


@pytest.mark.parametrize("kline", KLINES[::50])
def test_a_row_has_twelve_columns_of_the_right_kind(kline: Kline) -> None:
    """A REST row reads as Binance's: numbers for times and the count, decimal text for the rest, 0 at the end."""
    row = json.loads(kline_row(kline, GRID))
    assert [type(column) for column in row] == [int, *[str] * 5, int, str, int, str, str, str]
    assert row[6] - row[0] == MINUTE_MS - 1
    assert row[11] == "0"
    assert (row[0], *map(float, row[1:6]), float(row[7]), row[8], float(row[9]), float(row[10])) == kline[:10]


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("kline", KLINES[::50])
def test_an_event_says_what_the_row_says(kline: Kline, closed: bool) -> None:
    """A WebSocket event carries the row's values, the flag, and trade ids that count the trades."""
    event = json.loads(kline_event(kline, GRID, name="BTCUSDT", event_ms=1, closed=closed))
    k = event["k"]
    row = json.loads(kline_row(kline, GRID))
    assert (event["e"], event["E"], event["s"], k["s"], k["i"], k["x"]) == (
        "kline",
        1,
        "BTCUSDT",
        "BTCUSDT",
        "1m",
        closed,
    )
    assert [k[name] for name in "tohlcvTqnVQB"] == row
    assert k["L"] - k["f"] + 1 == k["n"] if k["n"] else (k["f"], k["L"]) == (-1, -1)


def test_trade_ids_count_on_from_bar_to_bar() -> None:
    """The first trade of a bar follows the last of the bar before."""
    tape = next(iter(TAPE.symbols.values()))
    klines = [tape.kline(index) for index in range(1440)]
    for before, after in pairwise(klines):
        assert after.first_trade_id == before.first_trade_id + before.trade_count


@settings(deadline=None)
@given(st.sampled_from(KLINES), st.lists(st.integers(0, MINUTE_MS - 1), min_size=2, max_size=6))
def test_a_bar_so_far_only_grows(final: Kline, moments: list[int]) -> None:
    """From moment to moment the range widens and the amounts grow, and none exceeds the final bar's."""
    seen = [so_far(final, final.timestamp + moment, GRID) for moment in sorted(moments)] + [final]
    for earlier, later in pairwise(seen):
        assert earlier.open == later.open
        assert later.low <= earlier.low <= earlier.close <= earlier.high <= later.high
        assert all(getattr(earlier, name) <= getattr(later, name) for name in AMOUNTS)
        assert earlier.taker_buy_volume <= earlier.volume
        assert earlier.taker_buy_quote_volume <= earlier.quote_volume


@settings(deadline=None)
@given(st.sampled_from(KLINES), st.integers(0, 10**7))
def test_a_bar_is_final_at_its_end(final: Kline, late_ms: int) -> None:
    """At its end and ever after, the bar so far is the final bar."""
    assert so_far(final, final.timestamp + MINUTE_MS + late_ms, GRID) == final


def test_an_unfinished_bar_differs_from_the_final_one() -> None:
    """Whoever stores a bar at half time is wrong for every bar with two trades or more."""
    traded = [kline for kline in KLINES if kline.trade_count > 1]
    assert all(so_far(kline, kline.timestamp + MINUTE_MS // 2, GRID) != kline for kline in traded)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1440), st.integers(0, 1440))
def test_rows_are_the_same_however_they_are_asked_for(begin: int, end: int) -> None:
    """Runs of rows that cross the cache's blocks equal the rows made one by one."""
    tape = TAPE.symbols["BTCUSDT"]
    expected = [kline_row(tape.kline(index), tape.printed) for index in range(begin, end)]
    assert TAPE.rows(tape, begin, end) == expected


def test_spot_writes_eight_decimals() -> None:
    """Spot pads every price and volume to eight decimals; futures writes the symbol's own."""
    final = Kline(0, 1.5, 1.5, 1.5, 1.5, 2.0, 3.0, 1, 1.0, 1.5, 1)
    assert json.loads(kline_row(final, Decimals(8, 8, 8)))[1:6] == ["1.50000000"] * 4 + ["2.00000000"]
    assert json.loads(kline_row(final, Decimals(1, 0, 1)))[1:6] == ["1.5"] * 4 + ["2"]
