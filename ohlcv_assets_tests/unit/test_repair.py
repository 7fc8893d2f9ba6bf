"""The decision of a repair: only what two separate captures say alike is ever written, and nothing else is touched."""

import json
import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, VALUES
from ohlcv_assets.quality.decisions import DECISIONS_SCHEMA, Decision, changed_bars, decide, digest_of
from ohlcv_assets.quality.match import DIFFERENCES_SCHEMA, match
from ohlcv_assets.storage.quality_store import DECISIONS, SIDES
from ohlcv_assets.timestamps import MINUTE_MS
from ohlcv_assets_tests.builders import DOWNLOADED, bars, corrupted, shuffled, without

_START_MS = 1_748_736_000_000
_KEYS = [
    ("futures", symbol, _START_MS + n * MINUTE_MS) for symbol in ("BTC/USDT:USDT", "ETH/USDT:USDT") for n in (0, 1)
]
_VALUES = st.sampled_from([1.0, math.nextafter(1.0, 2.0), 0.0, -0.0, math.nan, None])


@st.composite
def captures(draw: st.DrawFn) -> pl.DataFrame:
    """A capture of few bars with few values, so that captures often agree and as often do not; a bar may stand twice."""
    rows = [
        {**dict(zip(KEY, key, strict=True)), "close": draw(_VALUES), "trade_count": draw(st.sampled_from([1, 2]))}
        for key in draw(st.lists(st.sampled_from(_KEYS), max_size=5))
    ]
    frame = pl.DataFrame(rows, schema={name: CAPTURED_SCHEMA[name] for name in (*KEY, *VALUES)})
    return frame.with_columns(end_download_timestamp=pl.lit(DOWNLOADED, CAPTURED_SCHEMA["end_download_timestamp"]))


def _keys(frame: pl.DataFrame) -> set[tuple[str, str, int]]:
    return set(frame.select(KEY).iter_rows())


def _values(frame: pl.DataFrame, key: tuple[str, str, int]) -> list[tuple[object, ...]]:
    market, symbol, timestamp = key
    here = frame.filter(pl.col("market") == market, pl.col("symbol") == symbol, pl.col("timestamp") == timestamp)
    return [tuple(map(_plain, row)) for row in here.select(VALUES).iter_rows()]


def _plain(value: object) -> object:
    return "nan" if isinstance(value, float) and math.isnan(value) else value


@given(st.lists(st.sampled_from(_KEYS), max_size=4), captures(), captures(), captures(), captures())
def test_no_value_is_made_up_and_no_other_bar_is_touched(wanted, streamed, fetched, third, fourth) -> None:
    """What a side gets is a bar of the third or fourth capture that one more capture has exactly so."""
    concerned = pl.DataFrame(wanted, schema={name: CAPTURED_SCHEMA[name] for name in KEY}, orient="row")
    decisions = decide(concerned, streamed, fetched, third, fourth)
    assert dict(decisions.schema) == DECISIONS_SCHEMA
    assert _keys(decisions) <= set(wanted)
    for side, other in (("streamed", fetched), ("fetched", streamed)):
        given_bars = changed_bars(decisions, side, third, fourth)
        assert _keys(given_bars) == _keys(decisions.filter(pl.col("side") == side))
        for key in _keys(given_bars):
            (value,) = _values(given_bars, key)
            witnesses = [_values(frame, key) for frame in (other, third, fourth)]
            assert sum(seen == [value] for seen in witnesses) >= 2


@given(captures(), captures(), captures(), captures())
def test_every_bar_in_doubt_gets_one_decision_or_two_for_both_sides(streamed, fetched, third, fourth) -> None:
    """No bar that differs is passed over, none has two answers, and one that both sides have alike has none."""
    differences = match(streamed, fetched).differences
    decisions = decide(differences, streamed, fetched, third, fourth)
    assert _keys(decisions) == _keys(differences)
    per_bar = decisions.group_by(KEY).agg(pl.col("decision"), pl.len())
    assert all(
        count == 1 or set(names) == {Decision.STREAMED_WAS_MISSING, Decision.FETCHED_WAS_MISSING}
        for names, count in per_bar.select("decision", "len").iter_rows()
    )


@given(captures(), captures(), captures())
def test_what_one_side_and_the_third_capture_say_alike_is_never_undecided(streamed, fetched, third) -> None:
    """Only a bar that the third capture lacks, has twice, or has otherwise than both sides is left to a person."""
    decisions = decide(match(streamed, fetched).differences, streamed, fetched, third)
    for key in _keys(decisions.filter(pl.col("decision") == Decision.UNDECIDED)):
        said = _values(third, key)
        assert len(said) != 1 or said not in (_values(streamed, key), _values(fetched, key))


@given(captures(), captures(), captures(), st.integers(0, 9))
def test_the_order_of_rows_decides_nothing(streamed, fetched, third, seed) -> None:
    """The same captures give the same decisions, to the byte, in whatever order their rows stand."""
    differences = match(streamed, fetched).differences
    once = decide(differences, streamed, fetched, third)
    again = decide(shuffled(differences, seed), shuffled(streamed, seed), fetched, shuffled(third, seed))
    distinct = third.select(KEY).is_duplicated().sum() == streamed.select(KEY).is_duplicated().sum() == 0
    assert once.drop("sources").equals(again.drop("sources"))
    assert not distinct or once.equals(again)


_RIGHT = bars(minutes=2)
_WRONG = corrupted(_RIGHT, 1, "close", 99.99)
_OTHER = corrupted(_RIGHT, 1, "close", 98.98)
_LACKS = without(_RIGHT, 1)


@pytest.mark.parametrize(
    ("streamed", "fetched", "third", "decision"),
    [
        (_WRONG, _RIGHT, _RIGHT, Decision.STREAMED_WAS_WRONG),
        (_RIGHT, _WRONG, _RIGHT, Decision.FETCHED_WAS_WRONG),
        (_LACKS, _RIGHT, _RIGHT, Decision.STREAMED_WAS_MISSING),
        (_RIGHT, _LACKS, _RIGHT, Decision.FETCHED_WAS_MISSING),
        (_WRONG, _RIGHT, _OTHER, Decision.UNDECIDED),
        (_WRONG, _RIGHT, _LACKS, Decision.UNDECIDED),
        (_LACKS, _RIGHT, _OTHER, Decision.UNDECIDED),
        (_RIGHT, _LACKS, _OTHER, Decision.UNDECIDED),
        (_RIGHT, _LACKS, _LACKS, Decision.UNDECIDED),
        (_RIGHT, pl.concat([_RIGHT, _RIGHT]), _RIGHT, Decision.FETCHED_WAS_WRONG),
    ],
)
def test_the_side_that_the_third_capture_contradicts_was_wrong(streamed, fetched, third, decision) -> None:
    """One bar that differs, one decision; the side that changes is the one that the third capture does not equal."""
    differences = match(streamed, fetched).differences.filter(pl.col("timestamp") == _WRONG["timestamp"][1])
    (row,) = decide(differences.head(1), streamed, fetched, third).iter_rows(named=True)
    assert row["decision"] == decision
    assert row["side"] == decision.side
    assert ("the third capture has no such bar" in row["reason"]) == (third is _LACKS)


def test_a_bar_that_both_lack_needs_two_more_captures() -> None:
    """One more capture is one witness, and decides nothing; two that are alike give each side a capture of its own."""
    concerned = _RIGHT.slice(1, 1)
    later = pl.lit(DOWNLOADED.replace(second=9), CAPTURED_SCHEMA["end_download_timestamp"])
    fourth = _RIGHT.with_columns(end_download_timestamp=later)
    (alone,) = decide(concerned, _LACKS, _LACKS, _RIGHT)["decision"]
    (differing,) = decide(concerned, _LACKS, _LACKS, _RIGHT, _OTHER)["decision"]
    both = decide(concerned, _LACKS, _LACKS, _RIGHT, fourth)
    assert alone == differing == Decision.UNDECIDED
    assert both["decision"].to_list() == [Decision.FETCHED_WAS_MISSING, Decision.STREAMED_WAS_MISSING]
    assert changed_bars(both, "fetched", _RIGHT, fourth).equals(concerned)
    assert changed_bars(both, "streamed", _RIGHT, fourth).equals(fourth.slice(1, 1))


def test_the_audit_trail_has_every_capture_with_its_values_and_time() -> None:
    """Sources name each capture, before is what the changed side had, after what it gets; an undecided bar changes nothing."""
    (row,) = decide(match(_WRONG, _RIGHT).differences, _WRONG, _RIGHT, _RIGHT).iter_rows(named=True)
    told = {source["capture"]: source for source in json.loads(row["sources"])}
    assert [told[name]["values"]["close"] for name in ("streamed", "fetched", "third")] == [
        99.99,
        _RIGHT["close"][1],
        _RIGHT["close"][1],
    ]
    assert told["third"]["end_download_timestamp"] == DOWNLOADED.isoformat()
    assert json.loads(row["before"])["close"] == 99.99
    assert json.loads(row["after"]) == _RIGHT.select(VALUES).row(1, named=True)
    (left,) = decide(match(_WRONG, _RIGHT).differences, _WRONG, _RIGHT, _OTHER).iter_rows(named=True)
    assert (left["side"], left["before"], left["after"]) == ("none", None, None)
    assert len(json.loads(left["sources"])) == 3


def test_the_decisions_are_those_that_the_audit_trail_knows() -> None:
    """The names of decisions and sides are the store's."""
    assert tuple(Decision) == DECISIONS
    assert {decision.side for decision in Decision} == set(SIDES)


def test_a_finding_has_the_same_name_only_while_it_is_the_same() -> None:
    """The digest changes with any value that differs, and with any bar that both lack; no difference has none."""
    nothing = pl.DataFrame(schema=DIFFERENCES_SCHEMA)
    lacking = pl.DataFrame(_KEYS, schema=list(KEY), orient="row")
    found = [match(wrong, _RIGHT).differences for wrong in (_WRONG, _OTHER, _LACKS)]
    digests = [digest_of(differences, lacking.clear()) for differences in found]
    digests += [digest_of(nothing, lacking), digest_of(nothing, lacking.head(1)), digest_of(nothing, nothing)]
    assert len(set(digests)) == len(digests)
    assert digests[-1] == ""
    assert digest_of(match(_WRONG, _RIGHT).differences, lacking.clear()) == digests[0]
