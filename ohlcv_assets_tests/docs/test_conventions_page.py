"""Promises of the page of time conventions: it names every column that holds a time, and says of ours what the code does."""

import pytest

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.cli.asked import hour_of
from ohlcv_assets.client.question import ENDS
from ohlcv_assets.errors import NaiveTime, UsageError
from ohlcv_assets.timestamps import MINUTE_MS, Interval, label_end, parse_moment, parse_time
from ohlcv_assets_tests.docs.client_page import COLUMNS, dtype_text, on_demand
from ohlcv_assets_tests.docs.pages import DOCS, rows

_PAGE = DOCS / "reference" / "conventions.md"
_NOON_MS = parse_time("2025-06-01T12:00Z")


def test_every_column_that_holds_a_time_is_on_the_page() -> None:
    """Each time in a bar or in an answer of the client has its row, with its dtype, and no other column has."""
    answers = [column for columns in [*COLUMNS.values(), on_demand()] for column in columns]
    held = {name: dtype for name, dtype, _ in answers if dtype.startswith("Date")}
    held |= {name: dtype_text(dtype) for name, dtype in SCHEMA.items() if dtype_text(dtype).startswith("Date")}
    assert {row[0]: row[2] for row in rows(_PAGE, "column")} == {**held, "timestamp": "Int64, UNIX ms"}


def test_our_own_rows_say_what_the_code_does() -> None:
    """The bar of [12:00, 12:01) is stored as 12:00, and read as 12:01, or as 12:00 on demand."""
    shown = {row[1]: (row[2], row[3]) for row in rows(_PAGE, "system")[-3:]}
    assert label_end(_NOON_MS, MINUTE_MS) == parse_time("2025-06-01T12:01Z")
    assert shown == {
        "timestamp": ("12:00", "start"),
        ENDS["end"]: ("12:01", "end"),
        ENDS["start"]: ("12:00", "start"),
    }


def test_what_is_typed_means_what_the_page_says() -> None:
    """Each way of writing a time is understood, or refused, as its row says."""
    typed = {row[0]: row[1] for row in rows(_PAGE, "written")}
    day, moments, exact, naive, other_days, hour, partition, interval = typed
    assert parse_time(day) == parse_time("2025-06-01T00:00Z")
    assert {parse_time(text.strip("` ")) for text in moments.split(",")} == {parse_time("2025-06-01T12:34Z")}
    assert parse_moment(exact).microsecond == 123456
    with pytest.raises(NaiveTime):
        parse_time(naive)
    for text in other_days.split(","):
        with pytest.raises(UsageError):
            parse_time(text.strip("` "))
    assert hour_of(hour) == hour_of(partition) == Interval.of_hour(parse_time("2025-06-01T05:00Z"))
    assert str(Interval.parse("2025-06-01", "2025-06-02")) == interval
