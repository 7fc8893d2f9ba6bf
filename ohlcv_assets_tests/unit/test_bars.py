"""Promises of bars.py: one schema for polars, pyarrow and SQL, and invariants that catch every broken bar by name."""

import subprocess
import sys
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.bars import (
    CAPTURED_SCHEMA,
    COLUMNS,
    INVARIANTS,
    KEY,
    SCHEMA,
    SQL_TYPES,
    VALUES,
    Bar,
    arrow_schema,
    captured_frame,
    conform,
    validate,
    violations,
)
from ohlcv_assets.errors import InvalidBars
from ohlcv_assets.timestamps import MINUTE_MS

_SEEN = datetime(2025, 6, 1, 0, 1, 0, 123_456, tzinfo=UTC)
_MINUTE = 29_145_600  # 2025-06-01T00:00Z, in minutes since 1970

TRADED = Bar(
    "futures",
    "BTC/USDT:USDT",
    _MINUTE * MINUTE_MS,
    100.5,
    101.25,
    99.75,
    100.0,
    12.5,
    1_250.0,
    42,
    7.25,
    725.0,
    _SEEN,
)
QUIET = Bar("futures", "BTC/USDT:USDT", _MINUTE * MINUTE_MS, 100.0, 100.0, 100.0, 100.0, 0.0, 0.0, 0, 0.0, 0.0, _SEEN)

ticks = st.integers(1, 10**12).map(lambda tick: tick / 10**8)
amounts = st.floats(0, 1e15, allow_nan=False)


@st.composite
def valid_bars(draw):
    """A bar that the exchange could have sent, of a traded or a quiet minute."""
    market = draw(st.sampled_from(["spot", "futures"]))
    symbol = draw(st.sampled_from(["BTC/USDT", "币安人生/USDT"])) + (":USDT" if market == "futures" else "")
    start_ms = draw(st.integers(21_040_000, 68_000_000)) * MINUTE_MS
    low, *middle, high = sorted(draw(st.lists(ticks, min_size=4, max_size=4)))
    if not draw(st.booleans()):
        return Bar(market, symbol, start_ms, low, low, low, low, 0.0, 0.0, 0, 0.0, 0.0, _SEEN)
    first, last = draw(st.permutations(middle))
    volume, quote_volume = draw(amounts), draw(amounts)
    trade_count = draw(st.integers(1, 2**40))
    taker, taker_quote = volume * draw(st.floats(0, 1)), quote_volume * draw(st.floats(0, 1))
    return Bar(
        market, symbol, start_ms, first, high, low, last, volume, quote_volume, trade_count, taker, taker_quote, _SEEN
    )


@given(st.lists(valid_bars(), max_size=20))
@settings(max_examples=50)
def test_valid_bars_obey_every_invariant(bars):
    """Bars that an exchange could send pass, unchanged, in their order."""
    frame = captured_frame(bars)
    assert violations(frame).is_empty()
    assert validate(frame).equals(frame)
    assert validate(frame).rows() == [tuple(bar) for bar in bars]


#: What is planted in a bar, and the invariants that must name it: these and no others.
PLANTED = [
    (TRADED, {"symbol": None}, {"complete"}),
    (TRADED, {"market": None}, {"complete"}),
    (TRADED, {"timestamp": None}, {"complete", "on_the_grid", "in_milliseconds"}),
    (TRADED, {"open": None}, {"complete"}),
    (TRADED, {"close": None}, {"complete"}),
    (TRADED, {"volume": None}, {"complete"}),
    (TRADED, {"trade_count": None}, {"complete"}),
    (TRADED, {"taker_buy_quote_volume": None}, {"complete"}),
    (TRADED, {"timestamp": TRADED.timestamp + 1}, {"on_the_grid"}),
    (TRADED, {"timestamp": TRADED.timestamp + 59_999}, {"on_the_grid"}),
    (TRADED, {"timestamp": TRADED.timestamp * 1000}, {"in_milliseconds"}),
    (TRADED, {"timestamp": TRADED.timestamp // 1000}, {"on_the_grid", "in_milliseconds"}),
    (TRADED, {"timestamp": 0}, {"in_milliseconds"}),
    (TRADED, {"timestamp": -MINUTE_MS}, {"in_milliseconds"}),
    (TRADED, {"open": 0.0, "high": 0.0, "low": 0.0, "close": 0.0}, {"prices_positive"}),
    (TRADED, {"open": -1.0, "high": -1.0, "low": -1.0, "close": -1.0}, {"prices_positive"}),
    (TRADED, {"low": 0.0}, {"prices_positive"}),
    (TRADED, {"low": -0.0}, {"prices_positive"}),
    (TRADED, {"low": float("-inf")}, {"prices_positive"}),
    (TRADED, {"high": float("inf")}, {"prices_positive"}),
    (TRADED, {"high": float("nan")}, {"prices_positive"}),
    (TRADED, {"open": float("nan")}, {"prices_positive"}),
    (TRADED, {"low": float("nan")}, {"prices_positive", "low_is_lowest"}),
    (TRADED, {"close": float("nan")}, {"prices_positive"}),
    (TRADED, {"close": 101.26}, {"high_is_highest"}),
    (TRADED, {"open": 1e300}, {"high_is_highest"}),
    (TRADED, {"high": 100.25}, {"high_is_highest"}),
    (TRADED, {"high": 99.0}, {"high_is_highest", "low_is_lowest"}),
    (TRADED, {"open": 99.74}, {"low_is_lowest"}),
    (TRADED, {"low": 100.01}, {"low_is_lowest"}),
    (TRADED, {"taker_buy_volume": -0.01}, {"amounts_not_negative"}),
    (TRADED, {"taker_buy_quote_volume": float("-inf")}, {"amounts_not_negative"}),
    (TRADED, {"volume": float("inf")}, {"amounts_not_negative"}),
    (TRADED, {"volume": float("nan")}, {"amounts_not_negative"}),
    (TRADED, {"quote_volume": float("nan")}, {"amounts_not_negative"}),
    (QUIET, {"trade_count": -1}, {"trade_count_not_negative"}),
    (TRADED, {"trade_count": 0}, {"no_trade_no_volume"}),
    (QUIET, {"volume": 1.0}, {"no_trade_no_volume"}),
    (QUIET, {"quote_volume": 1.0}, {"no_trade_no_volume"}),
    (TRADED, {"taker_buy_volume": 12.51}, {"taker_part_of_whole"}),
    (TRADED, {"taker_buy_quote_volume": 1_250.01}, {"taker_part_of_whole"}),
    (TRADED, {"volume": 7.0}, {"taker_part_of_whole"}),
]


@pytest.mark.parametrize(("bar", "planted", "named"), PLANTED, ids=[str(number) for number in range(len(PLANTED))])
def test_a_broken_bar_is_caught_and_named(bar, planted, named):
    """Each planted defect is named by its own invariants, with the bar's key, and the bars around it are not."""
    others = [TRADED._replace(symbol="ETH/USDT:USDT"), QUIET._replace(symbol="SOL/USDT:USDT")]
    broken = violations(captured_frame([others[0], bar._replace(**planted), others[1]]))
    # A null breaks the invariants that read it as well; that is noise, so only "complete" is asked for.
    is_null = None in planted.values()
    assert named <= set(broken["invariant"]) if is_null else set(broken["invariant"]) == named
    key = tuple(planted.get(name, getattr(bar, name)) for name in KEY)
    assert set(broken.select(KEY).rows()) == {key}


def test_every_invariant_has_a_defect_that_it_alone_names():
    """No invariant is implied by the others, and none was left out of the planted defects."""
    assert {next(iter(named)) for _, _, named in PLANTED if len(named) == 1} == {each.name for each in INVARIANTS}


@pytest.mark.parametrize(("bar", "planted", "named"), PLANTED, ids=[str(number) for number in range(len(PLANTED))])
def test_the_gate_refuses_and_explains(bar, planted, named):
    """Validation raises one error that names an invariant, whatever the bar holds."""
    with pytest.raises(InvalidBars) as refused:
        validate(captured_frame([bar._replace(**planted)]))
    assert any(name in refused.value.message for name in named)
    assert "bars.md" in (refused.value.hint or "")


@given(valid_bars(), st.sampled_from(VALUES), st.sampled_from([None, float("nan"), float("inf"), -1.0]))
def test_no_value_of_any_bar_may_be_broken(bar, column, value):
    """Null, NaN, infinity or a negative number in any value column of any bar is caught."""
    if column == "trade_count":
        value = None if value is None else -1
    assert not violations(captured_frame([bar._replace(**{column: value})])).is_empty()


def test_a_message_names_only_the_first_of_many():
    """Thousands of broken bars make one short message with their number."""
    frame = captured_frame([TRADED._replace(close=0.0)] * 5_000)
    with pytest.raises(InvalidBars, match="in 5000 bars") as refused:
        validate(frame)
    assert len(str(refused.value)) < 1_000


def test_every_invariant_says_what_it_demands():
    """Each invariant has a name of its own and a sentence."""
    assert len({each.name for each in INVARIANTS}) == len(INVARIANTS)
    assert all(each.name.isidentifier() and " " in each.sentence for each in INVARIANTS)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["um_vision_1m_FIL_NEAR_2025-06-01_03", "um_vision_1m_flat_block_days"])
def test_real_bars_obey_every_invariant(recorded_data, name):
    """Recorded bars with all eleven fields, the minutes of an exchange-wide halt included, break nothing."""
    recorded = pl.read_parquet(recorded_data / "klines" / f"{name}.parquet").rename({"count": "trade_count"})
    bars = recorded.select(
        pl.lit("futures").alias("market"), "symbol", pl.col("open_time").alias("timestamp"), *VALUES
    )
    assert bars.height > 7_000
    assert violations(bars).is_empty()
    assert validate(bars).equals(bars)


def test_the_schema_has_one_source():
    """Names and order of the columns are the same in polars, pyarrow, SQL and the row type."""
    names = [column.name for column in COLUMNS]
    assert list(SCHEMA) == list(SQL_TYPES) == arrow_schema().names == names
    assert names == [*KEY, *VALUES, "end_download_timestamp", "knowledge_timestamp"]
    assert list(CAPTURED_SCHEMA) == list(Bar._fields) == names[:-1]
    assert all(column.meaning for column in COLUMNS)


def test_the_same_dtype_is_the_same_type_everywhere():
    """A polars dtype has exactly one SQL type and one Arrow type, and prices are never rounded by any."""
    types = {(column.dtype, column.sql, str(arrow_schema().field(column.name).type)) for column in COLUMNS}
    assert types == {
        (pl.String(), "text", "string"),
        (pl.Int64(), "bigint", "int64"),
        (pl.Float64(), "double precision", "double"),
        (pl.Datetime("us", "UTC"), "timestamptz", "timestamp[us, tz=UTC]"),
    }


@given(st.lists(valid_bars(), min_size=1, max_size=5))
@settings(max_examples=20)
def test_bars_survive_arrow_bit_for_bit(bars):
    """A frame of bars has the Arrow schema, and comes back from it equal, with its dtypes."""
    frame = captured_frame(bars).with_columns(
        pl.lit(_SEEN).cast(SCHEMA["knowledge_timestamp"]).alias("knowledge_timestamp")
    )
    table = frame.to_arrow().cast(arrow_schema())
    assert table.schema.equals(arrow_schema())
    back = pl.DataFrame(table)
    assert dict(back.schema) == SCHEMA
    assert back.equals(frame)


def test_arrow_fields_say_their_unit():
    """Whoever opens the Arrow schema finds each column's unit and meaning."""
    field = arrow_schema().field("timestamp")
    assert field.metadata == {b"unit": b"ms", b"meaning": COLUMNS[2].meaning.encode()}


def test_the_schema_does_without_pyarrow():
    """Importing the bar's schema does not import pyarrow."""
    code = "import sys, ohlcv_assets.bars; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_bars_make_an_empty_frame_with_the_schema():
    """A capture of nothing still has every column and dtype, and is valid."""
    frame = captured_frame([])
    assert dict(frame.schema) == CAPTURED_SCHEMA
    assert validate(frame).is_empty()


@given(st.permutations(list(CAPTURED_SCHEMA)))
@settings(max_examples=20)
def test_columns_are_put_in_order_and_foreign_ones_left_out(names):
    """Whatever the order of a frame's columns, the bar's own come out in the bar's order, and no others."""
    frame = captured_frame([TRADED]).select(names).with_columns(channel=pl.lit("rest"))
    assert conform(frame).equals(captured_frame([TRADED]))


@pytest.mark.parametrize("name", [*KEY, *VALUES])
def test_a_missing_column_is_named(name):
    """A frame without one of the key or value columns is no frame of bars."""
    with pytest.raises(InvalidBars, match=name):
        conform(captured_frame([TRADED]).drop(name))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("timestamp", pl.Int32()),
        ("timestamp", pl.Datetime("ms", "UTC")),
        ("open", pl.Float32()),
        ("volume", pl.String()),
        ("trade_count", pl.Float64()),
        ("symbol", pl.Categorical()),
        ("end_download_timestamp", pl.Datetime("us")),
        ("end_download_timestamp", pl.Datetime("ns", "UTC")),
    ],
)
def test_nothing_is_cast(name, dtype):
    """A column of another dtype is refused and named, since a cast can lose digits or the zone."""
    wrong = pl.Series(name, [None], dtype=dtype)
    with pytest.raises(InvalidBars, match=name):
        conform(captured_frame([TRADED]).with_columns(wrong))
