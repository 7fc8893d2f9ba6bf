"""The checks of the QA assets: each one turns red for its own kind of fault, names it, and counts it under stable keys."""

import math

import dagster as dg
import polars as pl
import pytest

from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration import checks
from ohlcv_assets.orchestration.checks import CHECKS, Evidence, Outcome
from ohlcv_assets.orchestration.partitions import recent_partitions
from ohlcv_assets.quality import causes
from ohlcv_assets.quality.expectations import validate_sides
from ohlcv_assets.quality.explained import explained_gaps
from ohlcv_assets.quality.heat_map import heat_map
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.lake import ABSENT_SCHEMA
from ohlcv_assets_tests.builders import bars, corrupted
from ohlcv_assets_tests.fixtures.deployment import DAY, Deployment
from ohlcv_assets_tests.verdicts import THREE, by_websocket, clean_verdict, red_verdict, verdict_of

#: The keys that a plot is a series of: never renamed.
_STABLE = {
    checks.STREAMED_EQUALS_FETCHED: {"bars_expected", "bars_differing", "bars_duplicate", "match_pct"},
    checks.STREAMED_COMPLETE: {"bars_expected", "bars_present", "bars_missing", "coverage_pct"},
    checks.FETCHED_COMPLETE: {"bars_expected", "bars_present", "bars_missing", "coverage_pct"},
    checks.STREAMED_UNIQUE: {"rows", "bars_duplicate"},
    checks.FETCHED_UNIQUE: {"rows", "bars_duplicate"},
    checks.STREAMED_SOUND: {"bars_checked", "invariants_broken"},
    checks.FETCHED_SOUND: {"bars_checked", "invariants_broken"},
    checks.UNIVERSE_PRESENT: {"symbols_expected", "symbols_absent_streamed", "symbols_absent_fetched"},
    checks.STREAMED_FRESH: {"minutes_behind", "symbols_behind"},
    checks.KNOWLEDGE_LATENCY: {"latency_p50_s", "latency_p95_s", "latency_p99_s", "latency_max_s"},
    checks.FLAT_BLOCKS: {"suspicious_blocks", "suspicious_bars"},
}


def _outcomes(evidence: Evidence) -> dict[str, Outcome]:
    return {check.name: check.evaluate(evidence) for check in CHECKS}


def _red(evidence: Evidence) -> set[str]:
    return {name for name, outcome in _outcomes(evidence).items() if not outcome.passed}


def _rows(value: dg.TableMetadataValue) -> list[dict[str, object]]:
    return [dict(record.data) for record in value.records]


def test_a_clean_hour_is_green_in_every_check() -> None:
    """Nothing planted, nothing found, and every stable number is there and is a number."""
    outcomes = _outcomes(Evidence(clean_verdict()))
    assert {name for name, outcome in outcomes.items() if not outcome.passed} == set()
    for name, keys in _STABLE.items():
        assert keys <= set(outcomes[name].numbers), name
        assert all(isinstance(outcomes[name].numbers[key], int | float) for key in keys)


def test_every_check_says_what_it_means_and_what_to_do() -> None:
    """The names are those that were agreed on, each once, and each description has its way out."""
    assert [check.name for check in CHECKS] == list(_STABLE)
    assert all(check.meaning.count(" When red: ") == 1 for check in CHECKS)


def test_what_would_flow_on_wrong_blocks_and_what_is_odd_warns() -> None:
    """Differing, doubled and impossible bars stop what follows; late ones and flat blocks are warnings."""
    assert {check.name for check in CHECKS if check.blocking} == {
        "streamed_equals_fetched",
        "streamed_unique",
        "fetched_unique",
        "streamed_sound",
        "fetched_sound",
    }
    assert {check.name for check in CHECKS if check.warns} == {"knowledge_latency", "flat_blocks"}
    assert not [check.name for check in CHECKS if check.blocking and check.warns]


def test_the_first_fifty_differing_bars_are_listed() -> None:
    """More differ than a page can show: fifty rows, with both values, and all of them in the number."""
    whole = bars(THREE, minutes=60)
    outcome = _outcomes(Evidence(verdict_of(whole, whole.with_columns(close=pl.col("close") - 0.001))))[
        checks.STREAMED_EQUALS_FETCHED
    ]
    rows = _rows(outcome.numbers["first_differences"])
    assert outcome.numbers["bars_differing"] == 180
    assert len(rows) == 50
    assert (rows[0]["streamed"], rows[0]["column"], rows[0]["timestamp"]) == (
        whole["close"][0],
        "close",
        "2025-06-01T00:00Z",
    )
    assert "180 of 180 bars are not the same" in outcome.sentence


def test_what_stands_twice_is_named() -> None:
    """A doubled row turns exactly the side's uniqueness and the match red, and the bar is in the table."""
    whole = bars(THREE, minutes=60)
    twice = pl.concat([whole, whole[5]])
    assert _red(Evidence(verdict_of(twice, whole))) == {checks.STREAMED_UNIQUE, checks.STREAMED_EQUALS_FETCHED}
    outcomes = _outcomes(Evidence(verdict_of(whole, twice)))
    assert {name for name, outcome in outcomes.items() if not outcome.passed} == {
        checks.FETCHED_UNIQUE,
        checks.STREAMED_EQUALS_FETCHED,
    }
    (row,) = _rows(outcomes[checks.FETCHED_UNIQUE].numbers["first_duplicates"])
    assert row == {"symbol": "BTC/USDT:USDT", "timestamp": "2025-06-01T00:05Z", "rows": 2.0}


def test_minutes_that_both_sides_lack_are_red_though_the_match_is_green() -> None:
    """Equal is not complete: what neither side has is missing on both, by its range."""
    whole = bars(THREE, minutes=60).filter(pl.col("timestamp") % 3_600_000 != 600_000)
    evidence = Evidence(verdict_of(whole, whole))
    assert _red(evidence) == {checks.STREAMED_COMPLETE, checks.FETCHED_COMPLETE}
    (row,) = _rows(_outcomes(evidence)[checks.FETCHED_COMPLETE].numbers["missing_ranges"])
    assert (row["start"], row["end"], row["symbols"]) == ("2025-06-01T00:10Z", "2025-06-01T00:11Z", 3)


def _explained(verdict, state: str) -> pl.DataFrame:
    return verdict.both_lack().select("symbol", "timestamp", state=pl.lit(state))


def test_a_proven_halt_is_no_gap() -> None:
    """What neither side has and is proven not to be there is counted apart, said, and red in no check."""
    whole = bars(THREE, minutes=60)
    halted = whole.filter(pl.col("timestamp") < whole["timestamp"].min() + 50 * 60_000)
    verdict = verdict_of(halted, halted)
    evidence = Evidence(verdict, explained=_explained(verdict, "halted"))
    assert _red(evidence) == set()
    outcome = _outcomes(evidence)[checks.FETCHED_COMPLETE]
    assert "30 could not be: 30 while the exchange stood still" in outcome.sentence
    numbers = outcome.numbers
    assert (numbers["bars_missing"], numbers["bars_explained"], numbers["coverage_pct"]) == (0, 30, 100.0)
    assert _outcomes(evidence)[checks.STREAMED_FRESH].numbers["due_timestamp"] == "2025-06-01T00:49Z"
    assert {checks.STREAMED_COMPLETE, checks.STREAMED_FRESH} <= _red(Evidence(verdict))


def test_a_proof_explains_only_what_both_sides_lack() -> None:
    """A proof does not excuse a minute that one side has: the ledger says what is proven, bar for bar."""
    whole = bars(THREE, minutes=60)
    less = whole.filter(pl.col("timestamp") % 3_600_000 != 600_000)
    proof = pl.DataFrame(
        {"symbol": THREE, "timestamp": [less["timestamp"].min() + 600_000] * 3},
        schema={"symbol": pl.String, "timestamp": pl.Int64},
    ).with_columns(cause=pl.lit("not_listed_yet"), proof=pl.lit("{}"))
    on_neither = verdict_of(less, less)
    one_sided = verdict_of(less, whole)
    evidence = causes.Evidence(absent=proof.select(list(ABSENT_SCHEMA)))
    assert explained_gaps(one_sided, lambda: evidence).is_empty()
    assert explained_gaps(on_neither, lambda: evidence).height == 3


def test_a_symbol_that_was_listed_later_is_not_missed_before() -> None:
    """Minutes before its listing are proven; for a symbol that was not listed at all nothing is expected."""
    whole = bars(THREE, minutes=60)
    less = whole.filter(pl.col("symbol") != "SOL/USDT:USDT")
    verdict = verdict_of(less, less)
    evidence = Evidence(verdict, explained=_explained(verdict, "not_listed"))
    assert _red(evidence) == set()
    numbers = _outcomes(evidence)[checks.UNIVERSE_PRESENT].numbers
    assert (numbers["symbols_expected"], numbers["symbols_not_listed"]) == (2, 1)


def test_an_unsound_bar_is_named_on_its_side() -> None:
    """The invariant and the bar stand in the table, and Great Expectations' numbers beside them."""
    whole = bars(THREE, minutes=60)
    verdict = verdict_of(whole, corrupted(whole, 65, "low", -1.0))
    outcomes = _outcomes(Evidence(verdict, validate_sides(verdict)))
    assert outcomes[checks.STREAMED_SOUND].passed
    fetched = outcomes[checks.FETCHED_SOUND]
    assert not fetched.passed
    assert fetched.sentence == "1 broken invariants in 180 bars: prices_positive; Great Expectations agrees"
    assert _rows(fetched.numbers["first_broken"])[0]["symbol"] == "ETH/USDT:USDT"
    assert fetched.numbers["expectations_met"] == fetched.numbers["expectations"] - 1


def test_two_verdicts_that_do_not_agree_are_red() -> None:
    """Where Great Expectations says another thing than polars, nobody may call the bars sound."""
    whole = bars(THREE, minutes=60)
    verdict = verdict_of(whole, whole)
    other = validate_sides(verdict_of(whole, corrupted(whole, 65, "low", -1.0)))
    outcome = _outcomes(Evidence(verdict, {"fetched": other["fetched"]}))[checks.FETCHED_SOUND]
    assert not outcome.passed
    assert "Great Expectations does not agree, it says: prices_positive" in outcome.sentence


def test_a_symbol_without_a_bar_is_named_unless_it_was_not_listed() -> None:
    """An absent symbol is red on the side that lacks it; a proof that it was not listed makes it green."""
    whole = bars(THREE, minutes=60)
    less = whole.filter(pl.col("symbol") != "SOL/USDT:USDT")
    outcome = _outcomes(Evidence(verdict_of(less, whole)))[checks.UNIVERSE_PRESENT]
    assert not outcome.passed
    assert outcome.sentence == "symbols without a bar: not streamed: SOL/USDT:USDT"
    assert outcome.numbers["symbols_absent_fetched"] == 0
    proven = Evidence(verdict_of(less, less), not_listed=frozenset({"SOL/USDT:USDT"}))
    assert _outcomes(proven)[checks.UNIVERSE_PRESENT].passed


def test_a_stream_that_stopped_is_not_fresh() -> None:
    """Bars end ten minutes before what was due: red, with the minutes counted; one silent symbol alone is not."""
    whole = bars(THREE, minutes=60)
    stopped = whole.filter(pl.col("timestamp") < whole["timestamp"].min() + 50 * 60_000)
    outcome = _outcomes(Evidence(verdict_of(stopped, whole)))[checks.STREAMED_FRESH]
    assert not outcome.passed
    assert outcome.numbers["minutes_behind"] == 10
    silent = whole.filter((pl.col("symbol") != THREE[0]) | (pl.col("timestamp") < 1_748_736_600_000))
    behind = _outcomes(Evidence(verdict_of(silent, whole)))[checks.STREAMED_FRESH]
    assert behind.passed
    assert behind.numbers["symbols_behind"] == 1
    nothing = _outcomes(Evidence(verdict_of(whole.clear(), whole)))[checks.STREAMED_FRESH]
    assert not nothing.passed
    assert "nothing was streamed" in nothing.sentence


@pytest.mark.parametrize(("late_s", "passed"), [(0.5, True), (4.9, True), (5.5, False), (-1.0, False)])
def test_latency_is_measured_against_its_limit(late_s: float, passed: bool) -> None:
    """From a bar's end to its knowledge; beyond the limit, or before the end, which no clock that is right says, is a warning."""
    whole = bars(THREE, minutes=60)
    outcome = _outcomes(Evidence(verdict_of(by_websocket(whole, late_s=late_s), whole)))[checks.KNOWLEDGE_LATENCY]
    assert outcome.passed is passed
    assert math.isclose(outcome.numbers["latency_p99_s"], late_s)
    assert outcome.numbers["bars_measured"] == 180


def test_what_came_by_rest_has_no_latency() -> None:
    """Bars that were fetched days later are left out; where no other bar is, nothing was measured and nothing is red."""
    whole = bars(THREE, minutes=60)
    late = by_websocket(whole, late_s=86_400.0).with_columns(channel=pl.lit("rest"))
    mixed = pl.concat([late[:90], by_websocket(whole)[90:]])
    assert _outcomes(Evidence(verdict_of(mixed, whole)))[checks.KNOWLEDGE_LATENCY].numbers["bars_measured"] == 90
    outcome = _outcomes(Evidence(verdict_of(late, whole)))[checks.KNOWLEDGE_LATENCY]
    assert outcome.passed
    assert "not measurable" in outcome.sentence
    assert not any(name.startswith("latency_p") for name in outcome.numbers)


def test_a_replayed_past_has_no_latency() -> None:
    """There the database's clock is of today: the check says so, passes, and shows no number of it."""
    whole = bars(THREE, minutes=60)
    verdict = verdict_of(by_websocket(whole, late_s=1e7), whole)
    outcome = _outcomes(Evidence(verdict, replayed=True))[checks.KNOWLEDGE_LATENCY]
    assert outcome.passed
    assert set(outcome.numbers) == {"latency_limit_s"}


def test_a_long_silence_with_a_jump_is_a_warning() -> None:
    """One price and no volume for half an hour in a symbol that trades every minute, then another price: named."""
    whole = bars(THREE, minutes=60)
    index = pl.int_range(pl.len())
    silent = index.is_between(70, 99)
    prices = {
        name: pl.when(silent).then(whole["close"][69]).otherwise(pl.col(name))
        for name in ("open", "high", "low", "close")
    }
    amounts = ("volume", "quote_volume", "trade_count", "taker_buy_volume", "taker_buy_quote_volume")
    nothing = {name: pl.when(silent).then(0).otherwise(pl.col(name)).cast(whole.schema[name]) for name in amounts}
    flat = whole.with_columns(**prices, **nothing)
    outcome = _outcomes(Evidence(verdict_of(flat, flat)))[checks.FLAT_BLOCKS]
    assert not outcome.passed
    assert outcome.numbers["suspicious_blocks"] == 2  # once on each side
    assert "ETH/USDT:USDT" in outcome.sentence


def test_the_picture_of_an_evaluation_is_shown_inline() -> None:
    """The heat map travels as text in the metadata and weighs less than 100 kB."""
    verdict = red_verdict()
    outcome = _outcomes(Evidence(verdict, heat_map=heat_map(verdict)))[checks.STREAMED_EQUALS_FETCHED]
    shown = outcome.numbers["heat_map"].value
    assert shown.startswith("![equal, missing and differing bars](data:image/png;base64,")
    assert len(shown) < 140_000


def test_no_evidence_at_all_is_red() -> None:
    """Two empty sides prove nothing: only what could not be measured passes."""
    nothing = bars(THREE, minutes=60).clear()
    green = {checks.STREAMED_UNIQUE, checks.FETCHED_UNIQUE, checks.KNOWLEDGE_LATENCY, checks.FLAT_BLOCKS}
    assert _red(Evidence(verdict_of(nothing, nothing))) == set(_STABLE) - green


def test_a_checks_page_is_quick_to_build() -> None:
    """An hourly check has no more than 722 partitions to rebuild at each look."""
    keys = recent_partitions(Settings(streamed_since="2025-01-01")).get_partition_keys()
    assert len(keys) <= 30 * 24 + 26


def test_a_day_leaves_its_pages_and_its_newest_result(deployment: Deployment) -> None:
    """Both flows keep the report beside the verdict; only what is whole or red is shown to Great Expectations."""
    first, last = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    assert deployment.run("spot_stream_hour", tags={first: f"{DAY}-00:00", last: f"{DAY}-23:00"}).success
    assert deployment.run("spot_recent", partition_key=f"{DAY}-23:00").success
    day = deployment.run("spot_day", partition_key=DAY)
    assert day.success
    from ohlcv_assets import OhlcvClient

    with OhlcvClient(deployment.settings) as client:
        result, hour = client.qa_result("spot", DAY), client.qa_result("spot", DAY, hour=23)
    assert result.is_match
    assert hour.is_match
    assert (result.summary["bars_equal"], hour.summary["bars_equal"]) == (3 * 1440, 180)
    assert result.differences.is_empty()
    assert result.missing.is_empty()
    folder = next(deployment.settings.home.glob("lake/**/qa/daily_qa/spot/**/run=*"))
    assert {file.name for file in folder.iterdir()} == {
        "summary.json",
        "differences.parquet",
        "missing.parquet",
        "neighbours.parquet",
        "diagnosis.parquet",
        "report.html",
        "soundness.json",
        "soundness.html",
    }
    shown = {evaluation.check_name: evaluation for evaluation in day.get_asset_check_evaluations()}
    assert shown["streamed_sound"].description.endswith("Great Expectations agrees")
    assert shown["knowledge_latency"].description.startswith("not measurable")
    assert shown["knowledge_latency"].severity is dg.AssetCheckSeverity.WARN
    facts = deployment.instance.get_latest_materialization_event(
        dg.AssetKey(["stockholm", Market.SPOT.value, "daily_qa"])
    ).asset_materialization.metadata
    assert (facts["bars_present"].value, facts["bars_missing"].value, facts["coverage_pct"].value) == (4320, 0, 100.0)
    assert facts["heat_map"].value.startswith("![")
    assert facts["report"].value.endswith("report.html")
