"""The match: equal captures match whatever their order, and whatever is wrong is named, and nothing else."""

import math
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.bars import KEY, SCHEMA, VALUES
from ohlcv_assets.errors import InvalidBars
from ohlcv_assets.instruments import Market
from ohlcv_assets.quality.match import DIFFERENCES_SCHEMA, MatchReport, match
from ohlcv_assets.storage.bars_file import content_hash
from ohlcv_assets.timestamps import MINUTE_MS
from ohlcv_assets_tests.builders import bars, corrupted, recorded, shuffled, without

_START_MS = 1_748_736_000_000
_SWAPPED = {
    "duplicate_left": "duplicate_right",
    "duplicate_right": "duplicate_left",
    "only_left": "only_right",
    "only_right": "only_left",
    "value_differs": "value_differs",
}
_MESSY_FLOATS = st.sampled_from([1.0, math.nextafter(1.0, 2.0), 0.0, -0.0, math.nan, math.inf, None])


@st.composite
def messy(draw: st.DrawFn) -> pl.DataFrame:
    """Rows that no store would hold: repeated keys, nulls, NaN, two zeros, few keys so that they often meet."""
    rows = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "market": st.sampled_from(["spot", "futures"]),
                    "symbol": st.sampled_from(["BTC/USDT", "ETH/USDT", None]),
                    "timestamp": st.sampled_from([_START_MS, _START_MS + MINUTE_MS]),
                    "close": _MESSY_FLOATS,
                    "volume": _MESSY_FLOATS,
                    "trade_count": st.sampled_from([0, 1, 2**53, 2**53 + 1, None]),
                }
            ),
            max_size=8,
        )
    )
    schema = {name: SCHEMA[name] for name in (*KEY, *VALUES)}
    return pl.DataFrame(rows, schema=schema)


def _same(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right):
        return True
    return left == right


def _by_hand(left: pl.DataFrame, right: pl.DataFrame) -> Counter[tuple[object, ...]]:
    """What the match must find, by the plainest means: `(*key, kind, column)`."""
    sides = [list(side.select(*KEY, *VALUES).iter_rows(named=True)) for side in (left, right)]
    found: Counter[tuple[object, ...]] = Counter()
    for key in {tuple(row[name] for name in KEY) for side in sides for row in side}:
        here = [[row for row in side if tuple(row[name] for name in KEY) == key] for side in sides]
        numbers = [len(rows) for rows in here]
        if max(numbers) > 1:
            found.update(
                (*key, f"duplicate_{name}", None) for name, n in zip(("left", "right"), numbers, strict=True) if n > 1
            )
        elif min(numbers) == 0:
            found[(*key, "only_left" if numbers[0] else "only_right", None)] += 1
        else:
            found.update(
                (*key, "value_differs", name) for name in VALUES if not _same(here[0][0][name], here[1][0][name])
            )
    return found


def _named(report: MatchReport) -> Counter[tuple[object, ...]]:
    return Counter(report.differences.select(*KEY, "kind", "column").rows())


def _sums_up(report: MatchReport) -> bool:
    classes = report.equal + report.differing + report.only_left + report.only_right + report.duplicated
    return report.union == classes


@settings(max_examples=150, deadline=None)
@given(left=messy(), right=messy())
def test_it_finds_what_the_plainest_comparison_finds(left: pl.DataFrame, right: pl.DataFrame) -> None:
    """On any two frames, with nulls, NaN, both zeros and repeated keys, the named differences are exactly the true ones."""
    report = match(left, right)
    assert _named(report) == _by_hand(left, right)
    assert dict(report.differences.schema) == DIFFERENCES_SCHEMA
    assert (report.rows_left, report.rows_right) == (left.height, right.height)
    assert report.union == pl.concat([left, right]).select(KEY).n_unique()
    assert report.duplicate_left == left.height - left.select(KEY).n_unique()
    assert report.duplicate_right == right.height - right.select(KEY).n_unique()
    assert _sums_up(report)
    assert report.is_match == (report.match_pct == 100.0) == (report.union > 0 and report.differences.is_empty())


@settings(max_examples=50, deadline=None)
@given(left=messy(), right=messy(), seed=st.integers(0, 1000))
def test_order_does_not_matter(left: pl.DataFrame, right: pl.DataFrame, seed: int) -> None:
    """Rows in another order give the same report, its differences in the same order."""
    expected, report = match(left, right), match(shuffled(left, seed), shuffled(right, seed + 1))
    assert report.differences.equals(expected.differences)
    assert report.counts() == expected.counts()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 100),
    lost=st.sets(st.integers(0, 23)),
    changed=st.sets(st.integers(0, 23)),
    which=st.booleans(),
)
def test_bars_in_their_order_are_compared_as_all_others_are(
    seed: int, lost: set[int], changed: set[int], which: bool
) -> None:
    """Sides that come as the stores give them, sorted and each bar once, have the same report as shuffled ones."""
    truth = bars(["A/USDT", "B/USDT", "C/USDT"], minutes=8, seed=seed)
    faulty = truth.with_columns(
        pl.when(pl.int_range(pl.len()).is_in(sorted(changed)))
        .then(pl.col("close") + 1)
        .otherwise("close")
        .alias("close")
    ).filter(~pl.int_range(pl.len()).is_in(sorted(lost)))
    left, right = (faulty, truth) if which else (truth, faulty)
    ordered, unordered = match(left, right), match(left, shuffled(right, seed))
    assert ordered.differences.equals(unordered.differences)
    assert ordered.counts() == unordered.counts()
    assert ordered.equal == 24 - len(lost | changed)


@settings(max_examples=50, deadline=None)
@given(left=messy(), right=messy())
def test_it_is_symmetric(left: pl.DataFrame, right: pl.DataFrame) -> None:
    """Swapping the sides swaps the report: every left becomes right, and nothing else changes."""
    there, back = match(left, right), match(right, left)
    turned = back.differences.with_columns(
        pl.col("kind").replace(_SWAPPED), left=pl.col("right"), right=pl.col("left")
    ).select(list(DIFFERENCES_SCHEMA))
    order = [*KEY, "kind", "column"]
    assert turned.sort(order).equals(there.differences.sort(order))
    assert (there.equal, there.differing, there.union) == (back.equal, back.differing, back.union)
    assert (there.only_left, there.duplicate_left) == (back.only_right, back.duplicate_right)


@settings(max_examples=30, deadline=None)
@given(symbols=st.integers(1, 5), minutes=st.integers(1, 30), seed=st.integers(0, 1000))
def test_a_capture_matches_itself(symbols: int, minutes: int, seed: int) -> None:
    """Any bars match themselves in any order, 100 %, whenever they were downloaded."""
    frame = bars([f"S{number}/USDT" for number in range(symbols)], minutes=minutes, seed=seed)
    report = match(frame, shuffled(frame, seed).drop("end_download_timestamp"))
    assert report.is_match
    assert report.match_pct == 100.0
    assert report.equal == report.union == symbols * minutes


def test_nothing_compared_is_no_match() -> None:
    """Two empty captures are 0 bars, 0 %, and no proof of anything; one empty side is 0 % as well."""
    none, some = bars().clear(), bars()
    assert (match(none, none).union, match(none, none).match_pct, match(none, none).is_match) == (0, 0.0, False)
    assert (match(some, none).only_left, match(some, none).match_pct, match(some, none).is_match) == (20, 0.0, False)


def test_the_share_is_of_the_union_not_of_what_both_have() -> None:
    """A side that lacks half of the bars matches to 50 %, however equal the other half is."""
    report = match(bars(), bars().head(10))
    assert (report.equal, report.only_left, report.match_pct) == (10, 10, 50.0)


@pytest.mark.parametrize("column", VALUES)
@pytest.mark.parametrize("change", ["last digit", "null", "another"])
def test_one_changed_value_is_named(column: str, change: str) -> None:
    """A value that differs in its last binary digit, is null or another one: this bar and column, both values, nothing else."""
    left = bars()
    old = left[column][7]
    new = {
        "null": None,
        "another": old * 2,
        "last digit": old + 1 if column == "trade_count" else math.nextafter(old, math.inf),
    }[change]
    report = match(left, corrupted(left, 7, column, new))
    expected = {**left.row(7, named=True), "kind": "value_differs", "column": column, "left": old, "right": new}
    assert report.differences.to_dicts() == [{name: expected[name] for name in DIFFERENCES_SCHEMA}]
    assert (report.equal, report.differing, report.is_match) == (19, 1, False)
    assert report.match_pct == 95.0


@pytest.mark.parametrize("column", [name for name in VALUES if name != "trade_count"])
def test_nan_against_a_number_differs_and_against_nan_does_not(column: str) -> None:
    """NaN on one side is a difference; on both sides it is the same value, and so are the two zeros."""
    broken = corrupted(bars(), 3, column, math.nan)
    assert _named(match(bars(), broken)) == Counter({(*_key(3), "value_differs", column): 1})
    assert match(broken, broken.clone()).is_match
    assert match(corrupted(bars(), 3, column, 0.0), corrupted(bars(), 3, column, -0.0)).is_match


def test_several_columns_of_one_bar_are_several_rows_of_one_bar() -> None:
    """A bar whose close and volume differ is one differing bar and two rows, in the bar's order of columns."""
    report = match(bars(), corrupted(corrupted(bars(), 3, "volume", 1e9), 3, "close", 99.5))
    assert report.differing == 1
    assert report.differences["column"].to_list() == ["close", "volume"]


def test_a_missing_bar_is_named() -> None:
    """A bar that one side lacks is named with that side, one row against none."""
    report = match(bars(), without(bars(), 13))
    assert report.differences.rows() == [(*_key(13), "only_left", None, 1.0, 0.0)]
    assert match(without(bars(), 13), bars()).differences.rows() == [(*_key(13), "only_right", None, 0.0, 1.0)]


def test_a_duplicate_is_named_first_and_is_not_equal() -> None:
    """A bar that stands twice is no match even where its copies agree, and leads the list."""
    doubled = pl.concat([corrupted(bars(), 0, "close", 1.0), bars().slice(19, 1)])
    report = match(doubled, bars())
    assert report.differences.select(*KEY, "kind", "left", "right").rows() == [
        (*_key(19), "duplicate_left", 2.0, 1.0),
        (*_key(0), "value_differs", 1.0, bars()["close"][0]),
    ]
    assert (report.duplicated, report.duplicate_left, report.duplicate_right, report.equal) == (1, 1, 0, 18)


def test_a_shifted_minute_is_named_at_both_ends() -> None:
    """A bar filed under a free minute is missing at its own and surplus at the other; under a taken one it is a duplicate."""
    free = corrupted(bars(), 9, "timestamp", bars()["timestamp"][9] + MINUTE_MS)
    assert [row[-4] for row in match(bars(), free).differences.rows()] == ["only_left", "only_right"]
    taken = corrupted(bars(), 4, "timestamp", bars()["timestamp"][5])
    assert _named(match(bars(), taken)) == Counter(
        {(*_key(5), "duplicate_right", None): 1, (*_key(4), "only_left", None): 1}
    )


def test_a_whole_capture_off_by_a_minute_matches_nowhere() -> None:
    """Labels shifted by one minute on one side leave no bar equal, though 9 of 10 minutes are on both sides."""
    report = match(bars(), bars().with_columns(pl.col("timestamp") + MINUTE_MS))
    assert (report.equal, report.only_left, report.only_right, report.differing) == (0, 2, 2, 18)


def test_swapped_symbols_are_named_on_both() -> None:
    """Two symbols' bars of one minute, swapped, are two differing bars, and their columns are named."""
    swap = {"BTC/USDT:USDT": "ETH/USDT:USDT", "ETH/USDT:USDT": "BTC/USDT:USDT"}
    here = pl.col("timestamp") == _START_MS
    swapped = bars().with_columns(
        pl.when(here).then(pl.col("symbol").replace(swap)).otherwise("symbol").alias("symbol")
    )
    report = match(bars(), swapped)
    assert report.differing == 2
    assert report.differences.select("symbol", "timestamp").unique().sort("symbol").rows() == [
        ("BTC/USDT:USDT", _START_MS),
        ("ETH/USDT:USDT", _START_MS),
    ]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_planted_fault_is_named_and_nothing_else(data: st.DataObject) -> None:
    """However many faults of whatever kinds are planted in a valid capture, the report is the list of them."""
    truth = bars(["A/USDT", "B/USDT", "C/USDT"], minutes=8, seed=data.draw(st.integers(0, 100)))
    faulty, planted = truth, Counter()
    rows = data.draw(st.lists(st.integers(0, truth.height - 1), unique=True, max_size=8))
    lost, doubled = [], []
    for row in rows:
        key = truth.select(KEY).row(row)
        kind = data.draw(st.sampled_from(["lost", "doubled", *VALUES]))
        if kind == "lost":
            lost.append(row)
            planted[(*key, "only_left", None)] += 1
        elif kind == "doubled":
            doubled.append(row)
            planted[(*key, "duplicate_right", None)] += 1
        else:
            faulty = corrupted(faulty, row, kind, data.draw(st.sampled_from(_other_values(truth[kind][row]))))
            planted[(*key, "value_differs", kind)] += 1
    numbered = faulty.with_row_index("row")
    faulty = pl.concat([numbered.filter(~pl.col("row").is_in(lost)), numbered.filter(pl.col("row").is_in(doubled))])
    assert _named(match(truth, shuffled(faulty.drop("row"), 1))) == planted


@settings(max_examples=40, deadline=None)
@given(seeds=st.tuples(st.integers(0, 2), st.integers(0, 2)), minutes=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_two_captures_match_exactly_when_their_hashes_agree(seeds: tuple[int, int], minutes: tuple[int, int]) -> None:
    """The lake's content hash and the match never disagree about whether two days say the same."""
    left, right = (bars(seed=seed, minutes=n) for seed, n in zip(seeds, minutes, strict=True))
    assert match(left, right).is_match == (content_hash(left) == content_hash(right))


@pytest.mark.parametrize("column", VALUES)
def test_the_hash_sees_what_the_match_sees(column: str) -> None:
    """One changed value of any column changes the content hash; a negative zero does not, just as it matches."""
    assert content_hash(corrupted(bars(), 5, column, 1)) != content_hash(bars())
    if column != "trade_count":
        zero, minus = (corrupted(bars(), 5, column, value) for value in (0.0, -0.0))
        assert content_hash(zero) == content_hash(minus)


def test_what_are_no_bars_are_refused() -> None:
    """A lacking value column, or prices of another dtype, raise: nothing is compared in part, nothing is cast."""
    with pytest.raises(InvalidBars, match="taker_buy_volume"):
        match(bars(), bars().drop("taker_buy_volume"))
    with pytest.raises(InvalidBars, match="Float32"):
        match(bars().with_columns(pl.col("close").cast(pl.Float32)), bars())


@pytest.mark.real_data
def test_recorded_bars_match_themselves_and_betray_one_digit(recorded_data: Path) -> None:
    """On 212,240 real bars one close that differs in its last binary digit is found, and named, alone."""
    real = recorded(recorded_data / "klines" / "um_rest_1m_2025-05-25_2025-06-03_A.parquet", Market.FUTURES)
    assert match(real, shuffled(real, 1)).equal == real.height
    row = 123_456
    report = match(real, corrupted(real, row, "close", math.nextafter(real["close"][row], 0)))
    assert _named(report) == Counter({(*real.select(KEY).row(row), "value_differs", "close"): 1})
    assert 99.999 < report.match_pct < 100.0


def _key(row: int) -> tuple[object, ...]:
    return bars().select(KEY).row(row)


def _other_values(value: float) -> list[float | int | None]:
    if isinstance(value, int):
        return [value + 1, 0, None]
    return [math.nextafter(value, 0), math.nextafter(value, math.inf), math.nan, -value, None]
