"""Promises of timestamps.py: half-open intervals, the minute grid, and the one shift between two labels."""

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.client.question import moment_of
from ohlcv_assets.errors import NaiveTime, ReversedInterval, UsageError
from ohlcv_assets.timestamps import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    Interval,
    day_start_ms,
    floor_to,
    from_ms,
    iso,
    label_end,
    label_start,
    parse_day,
    parse_moment,
    parse_time,
    runs_of_minutes,
    to_ms,
)

_FIRST_MS, _LAST_MS = to_ms(datetime(2010, 1, 1, tzinfo=UTC)), to_ms(datetime(2100, 1, 1, tzinfo=UTC))
moments_ms = st.integers(_FIRST_MS, _LAST_MS)
minute_starts_ms = st.integers(_FIRST_MS // MINUTE_MS, _LAST_MS // MINUTE_MS).map(lambda minute: minute * MINUTE_MS)
intervals = st.builds(
    lambda start_ms, length_ms: Interval(start_ms, start_ms + length_ms), moments_ms, st.integers(1, 3 * DAY_MS)
)
# Few different minutes, so that neighbours and duplicates are common.
crowded_minutes_ms = st.lists(st.integers(0, 60).map(lambda minute: _FIRST_MS + minute * MINUTE_MS), max_size=80)

_ARABIC_INDIC = "2025-06-01".translate({ord("0") + digit: 0x0660 + digit for digit in range(10)})


class _NoOffset(tzinfo):
    """A zone that does not know its offset: Python calls such a time naive."""

    def utcoffset(self, dt):
        return None


@given(moments_ms, st.sampled_from([MINUTE_MS, 5 * MINUTE_MS, HOUR_MS, DAY_MS]))
def test_the_two_labels_are_inverse(start_ms, interval_ms):
    """A bar's end is its interval after its start, and back again."""
    assert label_end(start_ms, interval_ms) == start_ms + interval_ms
    assert label_start(label_end(start_ms, interval_ms), interval_ms) == start_ms


def test_a_label_moves_by_one_minute_by_default():
    """Without another interval the shift is the 60,000 ms of a one-minute bar."""
    assert label_end(0) == 60_000
    assert label_start(60_000) == 0


@given(moments_ms)
def test_milliseconds_and_datetimes_are_the_same_moment(timestamp_ms):
    """UNIX milliseconds survive the way to a datetime and back, and through the text that people read."""
    assert to_ms(from_ms(timestamp_ms)) == timestamp_ms
    assert parse_time(iso(timestamp_ms)) == timestamp_ms


@given(moments_ms, st.integers(-23, 23))
def test_a_zone_changes_nothing_about_the_moment(timestamp_ms, hours):
    """The same moment in another zone has the same milliseconds."""
    elsewhere = from_ms(timestamp_ms).astimezone(timezone(timedelta(hours=hours)))
    assert to_ms(elsewhere) == timestamp_ms
    assert parse_time(elsewhere.isoformat()) == timestamp_ms


@pytest.mark.parametrize("naive", [datetime(2025, 6, 1), datetime(2025, 6, 1, tzinfo=_NoOffset())])  # noqa: DTZ001
def test_a_naive_datetime_is_refused(naive):
    """A datetime whose offset from UTC is unknown is never taken for UTC."""
    with pytest.raises(NaiveTime):
        to_ms(naive)


@pytest.mark.parametrize("text", ["2025-06-01T00:00", "2025-06-01 12:34:56", "2025-06-01T00:00:00.123"])
def test_a_naive_time_of_day_is_refused(text):
    """A time of day without a zone is refused, with the zone it may have meant as the hint."""
    with pytest.raises(NaiveTime) as refused:
        parse_time(text)
    assert refused.value.hint is not None
    assert refused.value.hint.endswith("Z for UTC")


@pytest.mark.parametrize(
    "text",
    ["", "now", "yesterday", "1748736000000", "2025-02-30", "2025-13-01T00:00Z", "2025-06-01T25:00Z", "2025-6-1", _ARABIC_INDIC,
     "2025-W23-1", "20250601", "2025-06-01T00:00:00.0000001Z", "20250601T0000Z", "2025-W23-1T00:00Z",
     "0001-01-01T00:00+14:00", "9999-12-31T23:59-12:00"],
)  # fmt: skip
def test_what_is_no_time_is_one_clear_error(text):
    """A text that is no time is named, with a form that would be one."""
    with pytest.raises(UsageError) as refused:
        parse_time(text)
    assert repr(text) in str(refused.value) or isinstance(refused.value, NaiveTime)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2025-06-01", "2025-06-01T00:00Z"),
        ("2025-06-01T02:00+02:00", "2025-06-01T00:00Z"),
        ("2025-05-31T20:00-04:00", "2025-06-01T00:00:00.000Z"),
    ],
)
def test_times_are_read_as_people_write_them(text, same):
    """A bare date is its midnight in UTC, and an offset is obeyed."""
    assert parse_time(text) == parse_time(same)


@pytest.mark.parametrize("elsewhere", [timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))])
def test_a_moment_beyond_the_calendar_is_one_clear_error(elsewhere):
    """What lies in UTC before the year 1 or after 9999 is refused by the client as every other time that is none."""
    first_or_last = datetime.min if elsewhere.utcoffset(None) > timedelta(0) else datetime.max  # noqa: DTZ901
    with pytest.raises(UsageError, match="is no"):
        moment_of(first_or_last.replace(tzinfo=elsewhere))
    with pytest.raises(UsageError, match="is not a time"):
        moment_of(first_or_last.replace(tzinfo=elsewhere).isoformat())


def test_a_text_is_a_moment_to_the_microsecond():
    """What a store wrote down in microseconds is read back as the same moment, also with zeros behind it."""
    assert parse_moment("2025-06-01T00:00:00.015859Z") == datetime(2025, 6, 1, 0, 0, 0, 15859, tzinfo=UTC)
    assert parse_moment("2025-06-01T00:00:00.015859000Z") == parse_moment("2025-06-01T02:00:00.015859+02:00")
    assert parse_moment("2025-06-01") == datetime(2025, 6, 1, tzinfo=UTC)


@given(st.integers(1_700_000_000_000_000, 1_800_000_000_000_000), st.integers(-3, 3))
def test_an_end_of_an_interval_is_exact_to_the_microsecond(moment_us, offset_ms):
    """A whole millisecond lies in [start, end) if and only if it is not before the start, and before the end, in microseconds."""
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_us)
    interval = Interval.between(start, start + timedelta(microseconds=1500))
    assert Interval.parse(start.isoformat(), (start + timedelta(microseconds=1500)).isoformat()) == interval
    millisecond = moment_us // 1000 + offset_ms
    assert (millisecond in interval) == (moment_us <= millisecond * 1000 < moment_us + 1500)


@pytest.mark.parametrize("text", ["2025-W23-1", "20250601", "2025-06-31", "2025-06-01T00:00Z", ""])
def test_a_day_has_one_form(text):
    """A day is written as 2025-06-01; other forms of ISO 8601 are refused, and so is a day that no calendar has."""
    assert parse_day("2025-06-01") == date(2025, 6, 1)
    with pytest.raises(UsageError, match="is no day"):
        parse_day(text)


@pytest.mark.parametrize(
    ("timestamp_ms", "text"),
    [
        (1_748_736_000_000, "2025-06-01T00:00Z"),
        (1_748_736_001_000, "2025-06-01T00:00:01Z"),
        (1_748_736_000_001, "2025-06-01T00:00:00.001Z"),
    ],
)
def test_a_moment_is_written_no_longer_than_it_must_be(timestamp_ms, text):
    """Seconds and milliseconds stand in the text only where there are some."""
    assert iso(timestamp_ms) == text


@pytest.mark.parametrize("timestamp_ms", [1_748_736_000_000_000, -(10**18), 2**63 - 1])
def test_a_moment_beyond_the_calendar_can_still_be_named(timestamp_ms):
    """Microseconds taken for milliseconds lie beyond the year 9999: an error can still name them."""
    assert str(timestamp_ms) in iso(timestamp_ms)
    with pytest.raises(ReversedInterval):
        Interval(timestamp_ms, timestamp_ms)


@given(moments_ms, moments_ms)
def test_an_interval_is_half_open(one_ms, other_ms):
    """The start lies in the interval, the end does not, and what is reversed or empty is refused."""
    if one_ms >= other_ms:
        with pytest.raises(ReversedInterval):
            Interval(one_ms, other_ms)
        return
    interval = Interval(one_ms, other_ms)
    assert one_ms in interval
    assert other_ms - 1 in interval
    assert other_ms not in interval
    assert one_ms - 1 not in interval


@given(st.sampled_from(["2025-06-01T00:00", "x"]))
def test_an_interval_refuses_what_parse_time_refuses(text):
    """An interval is never made of a time that was refused."""
    with pytest.raises(UsageError):
        Interval.parse(text, "2025-06-02")
    with pytest.raises(UsageError):
        Interval.parse("2025-05-01", text)
    with pytest.raises(NaiveTime):
        Interval.between(datetime(2025, 6, 1), datetime(2025, 6, 2, tzinfo=UTC))  # noqa: DTZ001


def test_an_interval_can_be_typed_or_given_as_datetimes():
    """The two ways to write an interval give the same one."""
    typed = Interval.parse("2025-06-01", "2025-06-02T00:00Z")
    assert typed == Interval.between(datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 6, 2, tzinfo=UTC))
    assert typed == Interval.of_day(date(2025, 6, 1))
    assert str(typed) == "[2025-06-01T00:00Z, 2025-06-02T00:00Z)"


@given(st.dates(date(2010, 1, 1), date(2099, 12, 31)))
def test_every_day_has_1440_minutes_and_24_hours(day):
    """No UTC day is longer or shorter, and the next one begins where it ends."""
    whole_day = Interval.of_day(day)
    assert len(whole_day.minutes) == 1_440
    assert len(list(whole_day.hours())) == 24
    assert whole_day.end_ms == day_start_ms(day + timedelta(days=1))


@pytest.mark.parametrize(
    "day",
    ["2024-02-28", "2024-02-29", "2024-03-01", "2023-02-28", "2025-12-31", "2026-01-01", "2025-03-30", "2000-02-29", "2016-12-31"],
)  # fmt: skip
def test_the_days_that_other_calendars_trip_over_have_1440_minutes(day):
    """Month ends, leap days, year ends, summer time and the day of a leap second are ordinary days."""
    minutes = Interval.of_day(date.fromisoformat(day)).minutes
    assert (len(minutes), minutes[0], minutes[-1]) == (
        1_440,
        parse_time(f"{day}T00:00Z"),
        parse_time(f"{day}T23:59Z"),
    )


@given(intervals)
def test_the_minutes_are_exactly_the_grid_points_inside(interval):
    """A whole minute is listed if and only if it begins in the interval."""
    minutes = list(interval.minutes)
    assert all(start_ms % MINUTE_MS == 0 and start_ms in interval for start_ms in minutes)
    expected = -(-interval.end_ms // MINUTE_MS) - -(-interval.start_ms // MINUTE_MS)
    assert len(minutes) == expected


@given(moments_ms, st.sampled_from([MINUTE_MS, HOUR_MS, DAY_MS]))
def test_floor_is_the_last_grid_point_not_after(timestamp_ms, step_ms):
    """Rounding down reaches a multiple of the step, less than one step back."""
    floored = floor_to(timestamp_ms, step_ms)
    assert floored % step_ms == 0
    assert 0 <= timestamp_ms - floored < step_ms


@given(moments_ms)
def test_the_hour_of_a_moment_holds_it(timestamp_ms):
    """The whole hour of a moment starts on the hour and holds the moment."""
    hour = Interval.of_hour(timestamp_ms)
    assert timestamp_ms in hour
    assert hour.start_ms % HOUR_MS == 0
    assert len(hour.minutes) == 60


@given(intervals, st.integers(MINUTE_MS, DAY_MS))
def test_the_pieces_of_an_interval_are_the_interval(interval, step_ms):
    """Pieces follow one another without gap or overlap, and none is longer than asked."""
    pieces = list(interval.split(step_ms))
    assert (pieces[0].start_ms, pieces[-1].end_ms) == (interval.start_ms, interval.end_ms)
    assert all(before.end_ms == after.start_ms for before, after in pairwise(pieces))
    assert all(piece.end_ms - piece.start_ms <= step_ms for piece in pieces)


@pytest.mark.parametrize("step_ms", [0, -1, -MINUTE_MS])
def test_an_interval_is_not_cut_backwards(step_ms):
    """A step that goes nowhere is an error: it never yields no pieces."""
    with pytest.raises(UsageError):
        list(Interval(0, DAY_MS).split(step_ms))


@given(intervals)
def test_the_hours_cover_the_interval(interval):
    """Whole hours, none of which the interval does not touch, hold every moment of it."""
    hours = list(interval.hours())
    assert hours[0].start_ms <= interval.start_ms
    assert hours[-1].end_ms >= interval.end_ms
    assert all(hour.intersect(interval) is not None for hour in hours)


@given(intervals, intervals, moments_ms)
def test_an_intersection_holds_what_both_hold(one, other, timestamp_ms):
    """A moment lies in the intersection if and only if it lies in both."""
    both = one.intersect(other)
    for moment_ms in (timestamp_ms, one.start_ms, other.start_ms, one.end_ms - 1, other.end_ms - 1):
        assert (moment_ms in one and moment_ms in other) == (both is not None and moment_ms in both)


@given(crowded_minutes_ms)
def test_runs_of_minutes_are_exact_and_fewest(timestamps_ms):
    """The runs hold exactly the given minutes, in order, and no two of them touch."""
    runs = runs_of_minutes(timestamps_ms)
    assert [minute for run in runs for minute in run.minutes] == sorted(set(timestamps_ms))
    assert all(before.end_ms < after.start_ms for before, after in pairwise(runs))


@given(st.lists(minute_starts_ms, max_size=20))
def test_runs_of_scattered_minutes_are_exact(timestamps_ms):
    """Minutes that lie decades apart are held as exactly."""
    runs = runs_of_minutes(timestamps_ms)
    assert [minute for run in runs for minute in run.minutes] == sorted(set(timestamps_ms))
