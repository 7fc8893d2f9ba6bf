"""The wire form of a bar: what is a kline becomes exactly that bar, and nothing else becomes one."""

import json
import math
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.bars import CAPTURED_SCHEMA, VALUES
from ohlcv_assets.errors import IncompletePage
from ohlcv_assets.exchange import kline_text
from ohlcv_assets.exchange.klines import bars_of, page_of, row_of_event
from ohlcv_assets.instruments import Market
from ohlcv_assets.timestamps import MINUTE_MS, Interval

RECEIVED = datetime(2026, 10, 7, 14, 23, 1, 250_000, tzinfo=UTC)
START_MS = 1_791_382_920_000
# A row as Binance sent it for a USD-M symbol in October 2026.
REAL_ROW = [
    START_MS, "83137.90", "83155.70", "83082.90", "83084.90", "102.437", START_MS + 59_999,
    "8514292.61220", 4409, "49.832", "4141805.93340", "0",
]  # fmt: skip
PAGE = Interval(START_MS, START_MS + 5 * MINUTE_MS)

decimals = st.from_regex(r"(0|[1-9][0-9]{0,14})(\.[0-9]{1,12})?", fullmatch=True)


def row(minute: int = 0, **changes: object) -> list[object]:
    """The real row, `minute` minutes later, with the fields at some positions changed (`at_4="1.0"`)."""
    start_ms = START_MS + minute * MINUTE_MS
    changed = [start_ms, *REAL_ROW[1:6], start_ms + 59_999, *REAL_ROW[7:]]
    for name, value in changes.items():
        changed[int(name.removeprefix("at_"))] = value
    return changed


def page(answer: object) -> pl.DataFrame:
    return page_of(Market.FUTURES, "BTC/USDT:USDT", PAGE, answer, RECEIVED)


def text_of(answer: object) -> str:
    """The answer as the exchange writes it."""
    return json.dumps(answer, separators=(",", ":"))


def outcome(answer: object) -> list[tuple[object, ...]] | None:
    """The rows of the bars that become of an answer, or None when it is refused."""
    try:
        return page(answer).rows()
    except IncompletePage:
        return None


def read_at_once(text: str) -> bool:
    """Whether the fast way takes this text."""
    return kline_text.numbers_of(text) is not None


def test_a_real_row_becomes_its_bar():
    """Every field of a recorded row stands in its column, and the label is the start of the minute."""
    bar = page([REAL_ROW]).row(0, named=True)
    assert bar == {
        "market": "futures", "symbol": "BTC/USDT:USDT", "timestamp": START_MS,
        "open": 83137.90, "high": 83155.70, "low": 83082.90, "close": 83084.90,
        "volume": 102.437, "quote_volume": 8514292.61220, "trade_count": 4409,
        "taker_buy_volume": 49.832, "taker_buy_quote_volume": 4141805.93340,
        "end_download_timestamp": RECEIVED,
    }  # fmt: skip


def test_the_frame_has_the_bars_schema_for_some_rows_and_for_none():
    """An answer of bars, and an answer of none, are frames of exactly the captured schema."""
    assert dict(page([REAL_ROW]).schema) == CAPTURED_SCHEMA
    assert dict(page([]).schema) == CAPTURED_SCHEMA


def test_a_streamed_kline_is_the_same_row_as_the_fetched_one():
    """The `k` object of an event and the REST row of the same bar give the same bar."""
    names = ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q", "B")
    event = dict(zip(names, REAL_ROW, strict=True)) | {"s": "BTCUSDT", "i": "1m", "x": True, "f": 1, "L": 4409}
    assert row_of_event(event) == REAL_ROW


@pytest.mark.parametrize("changes", [{"x": False}, {"x": "true"}, {"i": "5m"}, {"i": None}])
def test_a_kline_that_is_not_a_closed_minute_is_refused(changes):
    """Only `x: true` of the one-minute stream is a closed bar."""
    with pytest.raises(IncompletePage):
        row_of_event({"i": "1m", "x": True, "t": START_MS} | changes)


@given(st.lists(decimals, min_size=8, max_size=8), st.integers(0, 10**9))
@settings(max_examples=200)
def test_every_decimal_string_becomes_the_double_nearest_to_it(texts, trades):
    """A value is the correctly rounded double of its string: equal strings are equal bars, bit for bit."""
    kline = [START_MS, *texts[:5], START_MS + 59_999, texts[5], trades, *texts[6:], "0"]
    bar = page([kline]).row(0, named=True)
    expected = [*map(float, texts[:6]), trades, *map(float, texts[6:])]
    assert [bar[name] for name in VALUES] == expected
    assert all(math.copysign(1, bar[name]) == 1 for name in VALUES)


@given(st.lists(decimals, min_size=8, max_size=8), st.integers(0, 10**9))
@settings(max_examples=400)
def test_a_pages_text_read_at_once_gives_the_same_doubles(texts, trades):
    """The text of a page, which is read without making its rows, gives every value bit for bit as the rows do."""
    klines = [[START_MS, *texts[:5], START_MS + 59_999, texts[5], trades, *texts[6:], "0"], row(1), row(4)]
    assert read_at_once(text_of(klines))
    assert page(text_of(klines)).equals(page(klines))


@given(
    st.integers(0, 400),
    st.sampled_from(['"', ".", "0", "7", "", ",", "[", "]", "-", "e", " ", "\u0663", "null"]),
    st.integers(0, 1),
)
@settings(max_examples=1000)
def test_a_damaged_text_is_read_as_its_rows_are(position, put, replaced):
    """Whatever one character of a page's text becomes, or is put into it, both ways give the same bars or refuse it."""
    text = text_of([row(0), row(1), row(2)])
    damaged = text[:position] + put + text[position + replaced :]
    try:
        rows = json.loads(damaged)
    except ValueError:
        rows = None
    # What does not begin as a page is made a value before it comes here (binance.py).
    assert outcome(damaged if kline_text.is_page(damaged) else rows) == outcome(rows)


def test_a_text_that_is_written_otherwise_is_the_same_page():
    """JSON with blanks in it is not read at once, and gives the same bars."""
    klines = [row(0), row(1)]
    spaced = json.dumps(klines)
    assert not read_at_once(spaced)
    assert page(spaced.replace("[ [", "[[")).equals(page(klines))


@pytest.mark.parametrize("end", range(1, 60))
def test_a_text_that_was_cut_is_refused(end):
    """Of an answer that lacks its end no bar is taken."""
    with pytest.raises(IncompletePage):
        page(text_of([row(0), row(1)])[:-end])


@pytest.mark.parametrize("position", [1, 2, 3, 4, 5, 7, 9, 10])
@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "inf",
        "-1.0",
        "+1",
        "",
        "1e5",
        "1_0",
        " 1",
        "1,5",
        "1.2.3",
        ".",
        "٣",
        "²",
        None,
        83137.9,
        1,
        ["1"],
        b"1",
    ],
)
def test_what_is_no_plain_decimal_string_is_refused(position, value):
    """A number that was a float already, NaN, infinity, a sign or a stranger's digit is no price and no volume."""
    wrong = [row(0, **{f"at_{position}": value})]
    with pytest.raises(IncompletePage):
        page(wrong)
    if not isinstance(value, bytes):
        with pytest.raises(IncompletePage):
            page(text_of(wrong))


@pytest.mark.parametrize(
    "changes",
    [
        {"at_0": START_MS + 1},
        {"at_0": str(START_MS)},
        {"at_0": float(START_MS)},
        {"at_0": None},
        {"at_6": START_MS + 60_000},
        {"at_6": START_MS + 59_999_999},
        {"at_6": None},
        {"at_8": "4409"},
        {"at_8": 4409.0},
        {"at_8": True},
        {"at_8": None},
    ],
)
def test_a_row_with_another_time_or_count_is_refused(changes):
    """The open time is on the grid, the close time ends its minute, and the number of trades is a whole number."""
    for answer in ([row(**changes)], text_of([row(**changes)])):
        with pytest.raises(IncompletePage):
            page(answer)


@pytest.mark.parametrize(
    "answer",
    [
        None, "", "[]", "<html>busy</html>", {}, {"code": -1003, "msg": "slow down"}, 7, [None], [1], ["abcdefghijkl"],
        [[]], [REAL_ROW[:11]], [[*REAL_ROW, "0"]], [REAL_ROW, REAL_ROW[:11]], [dict(enumerate(REAL_ROW))],
    ],
)  # fmt: skip
def test_an_answer_of_another_shape_is_refused(answer):
    """HTML, an error object, nothing at all or rows of another length are no page of bars."""
    with pytest.raises(IncompletePage):
        page(answer)
    if isinstance(answer, list):
        with pytest.raises(IncompletePage):
            page(text_of(answer))


@pytest.mark.parametrize(
    "minutes", [[1, 0], [0, 0], [0, 2, 1], [-1], [5], [0, 1, 2, 3, 4, 5], [-1, 0]], ids=lambda minutes: str(minutes)
)
def test_a_page_holds_each_minute_asked_for_at_most_once_and_in_order(minutes):
    """Rows outside the interval, unordered or repeated are no answer to what was asked."""
    rows = [row(minute) for minute in minutes]
    for answer in (rows, text_of(rows)):
        with pytest.raises(IncompletePage):
            page(answer)


def test_a_page_may_lack_minutes():
    """A short page is a page: what it lacks is for the caller to find."""
    for answer in ([row(1), row(4)], text_of([row(1), row(4)])):
        assert page(answer)["timestamp"].to_list() == [START_MS + MINUTE_MS, START_MS + 4 * MINUTE_MS]


def test_rows_of_many_symbols_keep_their_order():
    """A batch of closed klines becomes one row each, beside its own symbol and moment."""
    later = RECEIVED.replace(second=2)
    frame = bars_of(Market.SPOT, ["ETH/USDT", "BTC/USDT"], [row(1), row(0)], [RECEIVED, later])
    assert frame["symbol"].to_list() == ["ETH/USDT", "BTC/USDT"]
    assert frame["timestamp"].to_list() == [START_MS + MINUTE_MS, START_MS]
    assert frame["end_download_timestamp"].to_list() == [RECEIVED, later]
