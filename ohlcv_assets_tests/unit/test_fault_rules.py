"""Rules of faults: what may be written, when a rule applies, which draws it makes, and the truth that settles under it."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.bars import VALUES, validate
from ohlcv_assets.errors import UsageError
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.faults.catalogue import FAULTS, REQUIRED, Fault
from ohlcv_assets.replay.faults.history import corrected, early, settled_truth
from ohlcv_assets.replay.faults.ledger import Ledger
from ohlcv_assets.replay.faults.rules import Rule, parse_rules, read_rules
from ohlcv_assets.replay.faults.schedule import drawn, turn_at, turns_from
from ohlcv_assets.replay.faults.script import FaultScript
from ohlcv_assets.replay.server import ReplayExchange
from ohlcv_assets.replay.tape import MarketTape
from ohlcv_assets.replay.truth import exchange_symbol, generate_truth
from ohlcv_assets.timestamps import MINUTE_MS, parse_time

START_MS = parse_time("2025-06-01")
NOON_MS = parse_time("2025-06-01T12:00Z")
TRUTH = generate_truth(symbols=3, days=1, seed=7, first_day=date(2025, 6, 1))
TAPES = {market: MarketTape(market, frame) for market, frame in TRUTH.items()}
SPAN = {"from": "2025-06-01T12:00Z", "until": "2025-06-01T12:05Z"}


def rule(fault: str, **fields: Any) -> Rule:
    """One rule; `start` and `end` stand for `from` and `until`."""
    renamed = {{"start": "from", "end": "until"}.get(name, name): value for name, value in fields.items()}
    return parse_rules([{"fault": fault, **renamed}])[0]


def least_fields(fault: Fault) -> dict[str, Any]:
    """The fields that a rule of the fault must have."""
    fields: dict[str, Any] = {"fault": fault.name}
    fields |= {name: {"symbols": ["BTCUSDT"], **SPAN}[name] for name in fault.needs}
    fields |= {each.name: -1001 if each.most == -1 else 1 for each in fault.parameters if each.default is REQUIRED}
    return fields


@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.name)
def test_a_rule_of_every_fault_can_be_written_and_read_again(fault: Fault) -> None:
    """The least that a rule needs is enough, and its JSON means the same rule."""
    parsed = parse_rules([least_fields(fault)])
    assert parsed[0].name == fault.name
    assert parse_rules(json.loads(json.dumps([parsed[0].as_json()]))) == parsed


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({}, "'fault'"),
        ({"fault": "ws_explode"}, "'ws_explode'"),
        ({"fault": ["ws_reset"]}, "'fault'"),
        ({"fault": "ws_reset", "symbol": "BTCUSDT"}, "'symbol'"),
        ({"fault": "ws_reset", "symbols": ["BTCUSDT"]}, "'symbols'"),
        ({"fault": "ws_reset", "market": "options"}, "'market'"),
        ({"fault": "never_closed", "symbols": "BTCUSDT"}, "'symbols'"),
        ({"fault": "never_closed", "symbols": []}, "'symbols'"),
        ({"fault": "never_closed", "from": "noon"}, "'from'"),
        ({"fault": "never_closed", "from": "2025-06-01T12:00"}, "'from'"),
        ({"fault": "never_closed", "from": True}, "'from'"),
        ({"fault": "never_closed", "from": 1.5}, "'from'"),
        ({"fault": "never_closed", "from": "2025-06-02", "until": "2025-06-01"}, "'until'"),
        ({"fault": "never_closed", "every": 0}, "'every'"),
        ({"fault": "never_closed", "for_s": -1}, "'for_s'"),
        ({"fault": "never_closed", "probability": 1.1}, "'probability'"),
        ({"fault": "never_closed", "probability": float("nan")}, "'probability'"),
        ({"fault": "never_closed", "probability": "often"}, "'probability'"),
        ({"fault": "late_close", "median_s": "slow"}, "'median_s'"),
        ({"fault": "late_close", "median_s": 60}, "'tail_s'"),
        ({"fault": "late_trade", "event": "late"}, "'event'"),
        ({"fault": "duplicate_close", "copies": 1.5}, "'copies'"),
        ({"fault": "duplicate_close", "copies": 0}, "'copies'"),
        ({"fault": "ws_silent", "new_connections": "yes"}, "'new_connections'"),
        ({"fault": "ws_cut_24h"}, "'lifetime_s'"),
        ({"fault": "rest_5xx", "status": 404}, "'status'"),
        ({"fault": "rest_429", "endpoints": "klines"}, "'endpoints'"),
        ({"fault": "rest_429", "endpoints": ["depth"]}, "'endpoints'"),
        ({"fault": "rest_error_code", "code": 1121}, "'code'"),
        ({"fault": "clock_offset_ms"}, "'offset_ms'"),
        ({"fault": "halt", "from": "2025-06-01"}, "'until'"),
        ({"fault": "list_at", "from": "2025-06-01"}, "'symbols'"),
        ({"fault": "delist_at", "symbols": ["BTCUSDT"]}, "'from'"),
    ],
)
def test_a_bad_rule_is_one_error_that_names_the_field(bad: dict[str, Any], field: str) -> None:
    """The error says which rule of the list, which fault and which field, and what to do."""
    with pytest.raises(UsageError) as told:
        parse_rules([{"fault": "ws_reset"}, bad])
    assert told.value.message.startswith("rule 2")
    assert field in told.value.message
    assert told.value.hint


@pytest.mark.parametrize("rules", [None, {"fault": "ws_reset"}, "ws_reset", [["ws_reset"]], ["ws_reset"]])
def test_what_is_no_list_of_rules_is_refused(rules: object) -> None:
    """Only a list of mappings is a list of rules."""
    with pytest.raises(UsageError, match=r"list of rules|no mapping"):
        parse_rules(rules)


def test_a_file_is_yaml_or_json_and_times_are_texts_or_numbers(tmp_path: Path) -> None:
    """YAML that makes datetimes of texts by itself, JSON, and a list under `faults` mean the same rules."""
    yaml = tmp_path / "faults.yaml"
    yaml.write_text("faults:\n- {fault: ws_reset, from: 2025-06-01T12:00:00Z, until: 2025-06-02}\n")
    other = tmp_path / "faults.json"
    other.write_text(json.dumps([{"fault": "ws_reset", "from": NOON_MS, "until": "2025-06-02T00:00Z"}]))
    assert read_rules(yaml) == read_rules(other)
    (tmp_path / "empty.yaml").write_text("")
    assert read_rules(tmp_path / "empty.yaml") == []


@pytest.mark.parametrize(
    ("text", "told"), [(None, "cannot be read"), ("{", "neither YAML nor JSON"), ("- {fault: ws_boom}", "rule 1")]
)
def test_a_bad_file_is_named(tmp_path: Path, text: str | None, told: str) -> None:
    """The error of a file says which file and what is wrong."""
    file = tmp_path / "faults.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=told) as error:
        read_rules(file)
    assert str(file) in error.value.message


def test_a_symbol_that_is_not_played_is_refused() -> None:
    """A rule for a symbol that the exchange does not have would never hit: it is an error, and names it."""
    with pytest.raises(UsageError, match="'symbols' names NOPEUSDT"):
        ReplayExchange(TRUTH, script=FaultScript(7, [rule("never_closed", symbols=["BTCUSDT", "NOPEUSDT"])]))


@settings(max_examples=200)
@given(
    st.integers(0, 500),
    st.one_of(st.none(), st.integers(0, 500)),
    st.one_of(st.none(), st.integers(1, 100)),
    st.one_of(st.none(), st.integers(1, 100)),
    st.integers(0, 700),
)
def test_a_rule_applies_exactly_within_its_turns(
    start_s: int, length_s: int | None, every_s: int | None, for_s: int | None, moment_s: int
) -> None:
    """A moment is in a turn when it is in [from, until) and within `for_s` after a multiple of `every`."""
    end_s = None if length_s is None else start_s + length_s
    given_rule = rule(
        "never_closed",
        start=1000 * start_s,
        end=None if end_s is None else 1000 * end_s,
        every=every_s,
        for_s=for_s,
    )
    since_s = moment_s - start_s
    expected = since_s >= 0 and (end_s is None or moment_s < end_s)
    if every_s is not None:
        expected = expected and since_s % every_s < (for_s or 60)
    elif for_s is not None:
        expected = expected and since_s < for_s
    turn = turn_at(given_rule, 1000 * moment_s)
    assert (turn is not None) == expected
    coming = next(turns_from(given_rule, 1000 * moment_s), None)
    if turn is not None:
        assert coming == turn
    elif coming is not None:
        assert coming.start_ms > 1000 * moment_s
        assert turn_at(given_rule, coming.start_ms) == coming


def test_draws_depend_on_the_seed_the_rule_and_the_case_only() -> None:
    """The same case is drawn the same each time, about as often as the probability says, and rules draw on their own."""
    rules = parse_rules([{"fault": "never_closed", "probability": 0.3}] * 2)
    draws = [[drawn(7, each, minute) for minute in range(4000)] for each in rules]
    assert draws == [[drawn(7, each, minute) for minute in range(4000)] for each in rules]
    assert draws[0] != draws[1]
    assert draws[0] != [drawn(8, rules[0], minute) for minute in range(4000)]
    assert 0.27 < sum(draws[0]) / 4000 < 0.33


def test_without_faults_that_touch_bars_the_truth_settles_as_it_is() -> None:
    """Faults of connections, requests and closing events change nothing of what is stored at last."""
    rules = parse_rules([least_fields(f) for f in FAULTS.values() if f.channel != "exchange"])
    settled = settled_truth(TRUTH, rules, seed=7)
    assert all(settled[market].equals(TRUTH[market]) for market in Market)


@settings(max_examples=30)
@given(st.integers(0, 1439), st.integers(1, 60), st.sampled_from([0.3, 1.0]))
def test_a_halt_leaves_holes_on_spot_and_flat_bars_on_futures(first: int, count: int, probability: float) -> None:
    """Spot loses exactly the halted minutes; futures keeps them, still at the close before, and every bar is valid."""
    start_ms = START_MS + first * MINUTE_MS
    halt = rule(
        "halt", start=start_ms, end=start_ms + count * MINUTE_MS, symbols=["BTCUSDT"], probability=probability
    )
    settled = settled_truth(TRUTH, [halt], seed=7)
    for market in Market:
        validate(settled[market])
    halted = {t for t in TRUTH[Market.SPOT]["timestamp"] if turn_at(halt, t) and drawn(7, halt, "spot", "BTCUSDT", t)}
    lost = TRUTH[Market.SPOT].join(settled[Market.SPOT], on=["symbol", "timestamp"], how="anti")
    assert set(lost["timestamp"]) == halted
    assert set(lost["symbol"]) <= {"BTC/USDT"}
    assert settled[Market.FUTURES].height == TRUTH[Market.FUTURES].height
    bars = settled[Market.FUTURES].filter(pl.col("symbol") == "BTC/USDT:USDT").rows(named=True)
    for before, bar in zip([None, *bars[:-1]], bars, strict=True):
        if turn_at(halt, bar["timestamp"]) and drawn(7, halt, "futures", "BTCUSDT", bar["timestamp"]):
            assert [bar[name] for name in VALUES[4:]] == [0, 0, 0, 0, 0]
            assert {bar[name] for name in VALUES[:4]} == {before["close"] if before else bar["open"]}


def test_a_listing_and_a_delisting_cut_the_bars() -> None:
    """No bar starts before the minute of the listing or after the delisting, but between a delisting and its end."""
    rules = parse_rules(
        [
            {"fault": "list_at", "symbols": ["BTCUSDT"], "from": NOON_MS + 1},
            {"fault": "delist_at", "symbols": ["ETHUSDT"], "from": NOON_MS, "until": NOON_MS + 5 * MINUTE_MS},
            {"fault": "delist_at", "symbols": ["SOLUSDT"], "from": NOON_MS, "flat": True},
        ]
    )
    settled = settled_truth(TRUTH, rules, seed=7)
    for market in Market:
        starts = {
            exchange_symbol(symbol): frame["timestamp"].to_list()
            for (symbol,), frame in settled[market].partition_by("symbol", as_dict=True).items()
        }
        assert starts["BTCUSDT"] == list(range(NOON_MS, START_MS + 1440 * MINUTE_MS, MINUTE_MS))
        assert set(range(START_MS, START_MS + 1440 * MINUTE_MS, MINUTE_MS)) - set(starts["ETHUSDT"]) == set(
            range(NOON_MS, NOON_MS + 5 * MINUTE_MS, MINUTE_MS)
        )
        assert len(starts["SOLUSDT"]) == (720 if market is Market.SPOT else 1440)


def test_a_correction_is_another_valid_bar_from_its_moment_on() -> None:
    """Bars with a trade in the rule's span have one trade more, in their own place; before the moment they have not."""
    correct = rule("correct", start=NOON_MS, end=NOON_MS + 5 * MINUTE_MS, after_s=120)
    for market, settled in settled_truth(TRUTH, [correct], seed=7).items():
        validate(settled)
        assert settled.select("symbol", "timestamp").equals(TRUTH[market].select("symbol", "timestamp"))
        both = settled.join(TRUTH[market], on=["symbol", "timestamp"], suffix="_before")
        changed = both.filter(pl.col("trade_count") != pl.col("trade_count_before"))
        expected = TRUTH[market].filter(
            pl.col("timestamp").is_between(NOON_MS, NOON_MS + 4 * MINUTE_MS) & (pl.col("trade_count") > 0)
        )
        assert changed.select("symbol", "timestamp").equals(expected.select("symbol", "timestamp"))
        assert changed.select((pl.col("high") > pl.col("high_before")).all()).item()
    made = settled_truth(TRUTH, [correct], seed=7, at_ms=NOON_MS + 4 * MINUTE_MS)[Market.SPOT]
    assert set(made.join(TRUTH[Market.SPOT], on=["symbol", *VALUES], how="anti")["timestamp"]) <= {
        NOON_MS,
        NOON_MS + MINUTE_MS,
    }


@given(st.integers(0, 1439), st.floats(0.001, 0.9), st.sampled_from(list(Market)))
def test_earlier_and_corrected_values_are_bars_of_their_own(minute: int, missing: float, market: Market) -> None:
    """An earlier value has fewer trades and never more volume, a correction one trade more; both obey every invariant."""
    for tape in TAPES[market].symbols.values():
        bar = tape.kline(minute)
        before, after = early(bar, tape.decimals, missing), corrected(bar, tape.decimals)
        assert (before is None) == (bar.trade_count < 2)
        assert after.trade_count == bar.trade_count + 1
        for each in (before, after):
            if each is not None:
                validate(
                    pl.DataFrame([(market.value, tape.symbol, *each[:-1])], schema=TRUTH[market].schema, orient="row")
                )
        if before is not None:
            assert 0 < before.trade_count < bar.trade_count
            assert before.volume <= bar.volume


def test_closing_events_are_planned_the_same_for_the_same_seed() -> None:
    """Late closings follow their distribution, the tail and the share that never comes included, and can be repeated."""
    late = {"fault": "late_close", "median_s": 2.0, "tail_s": 30.0, "never": 0.02, "from": START_MS}
    script, again = (FaultScript(7, parse_rules([late])) for _ in range(2))
    for each in (script, again):
        ReplayExchange(TRUTH, start_ms=START_MS, script=each)
    tapes = TAPES[Market.SPOT].symbols.values()
    plans = [script.closings(Market.SPOT, tape, tape.kline(n)) for tape in tapes for n in range(1440)]
    assert [[c[:2] for c in plan] for plan in plans] == [
        [c[:2] for c in again.closings(Market.SPOT, tape, tape.kline(n))] for tape in tapes for n in range(1440)
    ]
    lags = sorted(plan[0].lag_ms for plan in plans)
    assert 1_800 < lags[len(lags) // 2] < 2_200
    assert 20_000 < lags[int(len(lags) * 0.999)] < 45_000
    assert 0.01 < sum(plan[0].bar is None for plan in plans) / len(plans) < 0.03


def test_without_a_rule_the_script_is_the_healthy_one() -> None:
    """No rule, no difference: the events, the listing, the clock and the answers are those of a healthy exchange."""
    script = FaultScript(7)
    ReplayExchange(TRUTH, script=script)
    tape = TAPES[Market.SPOT].symbols["BTCUSDT"]
    (closing,) = script.closings(Market.SPOT, tape, tape.kline(0))
    assert (closing.bar, closing.on_sent) == (tape.kline(0), None)
    assert script.rest_bars(Market.SPOT, "BTC/USDT", START_MS, NOON_MS, NOON_MS) == {}
    assert script.rest_fault(Market.SPOT, "klines", {}, NOON_MS) is None
    assert script.listing_changes(Market.SPOT, NOON_MS) == {}
    assert script.time_offset_ms(Market.SPOT, NOON_MS) == 0


def test_the_ledger_counts_and_knows_what_it_has_seen() -> None:
    """Entries are kept in order, counted by rule, and a key is new once."""
    ledger, (first, second) = Ledger(), parse_rules([{"fault": "ws_reset"}, {"fault": "ws_close"}])
    ledger.note(first, 5, Market.SPOT)
    ledger.note(second, 6, None, detail="x")
    assert [(entry["at_ms"], entry["fault"], entry["rule"]) for entry in ledger.entries] == [
        (5, "ws_reset", 1),
        (6, "ws_close", 2),
    ]
    assert (ledger.count(first), ledger.count(second)) == (1, 1)
    assert [ledger.first_time("a"), ledger.first_time("a"), ledger.first_time("b")] == [True, False, True]
