"""Great Expectations and polars say the same of every set of bars, invariant by invariant.

In a file of its own: the library takes seconds to import.
"""

import math
import socket
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ohlcv_assets.bars import INVARIANTS, KEY, SCHEMA, VALUES
from ohlcv_assets.errors import InvalidBars
from ohlcv_assets.quality.expectations import EXPECTATIONS, validate
from ohlcv_assets.quality.soundness import soundness
from ohlcv_assets_tests.builders import bars, corrupted

_FLOATS = [None, math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1e-9, 99.0, 101.0, 1e12]
_WHOLE = [None, 0, -1, 1, 5]
_TIMES = [None, 0, -60_000, 1_748_736_000, 1_748_736_000_001, 1_748_736_000_000_000, 4_102_444_800_000]
_VALUES_BY_COLUMN: dict[str, list[Any]] = {
    name: _TIMES
    if name == "timestamp"
    else [None, "x"]
    if SCHEMA[name] == pl.String
    else _WHOLE
    if SCHEMA[name] == pl.Int64
    else _FLOATS
    for name in (*KEY, *VALUES)
}
_EDIT = st.sampled_from(sorted(_VALUES_BY_COLUMN)).flatmap(
    lambda column: st.tuples(st.integers(0, 19), st.just(column), st.sampled_from(_VALUES_BY_COLUMN[column]))
)


def _broken_by_polars(frame: pl.DataFrame) -> tuple[str, ...]:
    return tuple(name for name, times in soundness(frame).broken.items() if times)


def test_every_invariant_is_said_twice() -> None:
    """Each invariant of the one list has its expectations, in the same order, and there are none beside them."""
    assert list(EXPECTATIONS) == [invariant.name for invariant in INVARIANTS]
    assert all(EXPECTATIONS.values())


def test_sound_bars_meet_every_expectation() -> None:
    """Valid bars break nothing, and the result names each expectation that was asked."""
    found = validate(bars())
    assert found.is_sound
    assert len(found.result["results"]) == sum(map(len, EXPECTATIONS.values()))


def test_no_bars_are_no_proof() -> None:
    """An empty frame is not sound, though no expectation can fail on it."""
    assert not validate(bars().clear()).is_sound


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(edits=st.lists(_EDIT, max_size=5))
@example(edits=[(0, "high", math.inf), (0, "close", math.nan)])
@example(edits=[(0, "volume", math.nan), (0, "taker_buy_volume", math.inf)])
@example(edits=[(3, "trade_count", None), (3, "volume", 0.0), (3, "quote_volume", 0.0)])
def test_both_name_the_same_broken_invariants(edits: list[tuple[int, str, Any]]) -> None:
    """Whatever values a bar is broken with, null and NaN among them, both find the same invariants broken."""
    frame = bars()
    for row, column, value in edits:
        frame = corrupted(frame, row, column, value)
    assert validate(frame).broken == _broken_by_polars(frame)


@pytest.mark.parametrize("column", ["high", "low", "volume", "timestamp", "trade_count"])
def test_a_broken_bar_is_in_the_result(column: str) -> None:
    """What is stored of a failed expectation names the bar, in plain values that JSON can hold."""
    frame = corrupted(bars(), 7, column, None)
    found = validate(frame)
    failed = [one["result"] for one in found.result["results"] if not one["success"]]
    assert {row["symbol"] for one in failed for row in one["partial_unexpected_index_list"]} == {frame["symbol"][7]}


def test_it_calls_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation opens no connection: analytics and update checks are off."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert validate(bars()).is_sound


def test_what_are_no_bars_are_refused() -> None:
    """A frame without a value column is not looked at in part."""
    with pytest.raises(InvalidBars, match="trade_count"):
        validate(bars().drop("trade_count"))
