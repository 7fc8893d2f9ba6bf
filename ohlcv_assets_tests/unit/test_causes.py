"""Causes: why a bar is not there is said only with a proof, and each cause has its own."""

import json
from collections.abc import Sequence
from datetime import date

import polars as pl
import pytest

from ohlcv_assets.instruments import Market, Symbol, shard
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.quality.causes import Evidence
from ohlcv_assets.quality.ledger import Ledger, State, ledger
from ohlcv_assets.storage.lake import ABSENT_SCHEMA
from ohlcv_assets.storage.quality_store import STREAM_MINUTES_SCHEMA
from ohlcv_assets.timestamps import MINUTE_MS, Interval, parse_time
from ohlcv_assets_tests.builders import bars, recorded

_START_MS = parse_time("2025-06-01")
_INTERVAL = Interval(_START_MS, _START_MS + 10 * MINUTE_MS)
_SPOT = ("BTC/USDT", "ETH/USDT")


def _absent(symbols: Sequence[str], minutes: Sequence[int], cause: str = "exchange_halt", proof: str | None = '{"answers": 2}') -> pl.DataFrame:  # fmt: skip
    rows = [(symbol, _START_MS + minute * MINUTE_MS, cause, proof) for symbol in symbols for minute in minutes]
    return pl.DataFrame(rows, schema=ABSENT_SCHEMA, orient="row")


def _log(seconds: Sequence[float | None], market: str = "spot", part: str = "1/1", run: str = "r") -> pl.DataFrame:
    """A row for each minute whose seconds are known."""
    rows = [
        (market, _START_MS + minute * MINUTE_MS, run, part, connected, 2, 2)
        for minute, connected in enumerate(seconds)
        if connected is not None
    ]
    return pl.DataFrame(rows, schema=STREAM_MINUTES_SCHEMA, orient="row")


def _without(symbols: Sequence[str], minutes: Sequence[int], of: Sequence[str] = _SPOT) -> pl.DataFrame:
    here = pl.col("timestamp").is_in([_START_MS + minute * MINUTE_MS for minute in minutes])
    return bars(of).filter(~(pl.col("symbol").is_in(list(symbols)) & here))


def _said(made: Ledger) -> list[tuple[object, ...]]:
    """`symbol, first minute, minutes, state, cause` of every gap, by symbol and time."""
    minutes = (pl.col("end") - pl.col("start")) // MINUTE_MS
    first = (pl.col("start") - _START_MS) // MINUTE_MS
    return made.gaps().sort("symbol", "start").select("symbol", first, minutes, "state", "cause").rows()


def _proof(made: Ledger, row: int = 0) -> dict[str, object]:
    return json.loads(made.gaps().sort("symbol", "start")["proof"][row])


def test_a_minute_that_spot_omits_is_a_halt_when_two_captures_agree() -> None:
    """Two answers and the stream lack it: halted, with how many symbols were halted in the proof."""
    both = _without(_SPOT, [3, 4])
    made = ledger(both, both, _SPOT, Market.SPOT, _INTERVAL, Evidence(absent=_absent(_SPOT, [3, 4])))
    assert _said(made) == [(symbol, 3, 2, "halted", "exchange_halt") for symbol in _SPOT]
    proof = _proof(made)
    assert (proof["symbols_halted_least"], proof["symbols_halted_most"], proof["symbols"]) == (2, 2, 2)
    assert proof["download"] == {"answers": 2}
    assert made.unexplained() == 0


def test_one_symbol_is_enough_for_a_halt_and_the_proof_says_that_it_was_one() -> None:
    """Which minutes spot omits differs per symbol, so a single one is halted too, with that number in the proof."""
    both = _without(["ETH/USDT"], [3])
    made = ledger(both, both, _SPOT, Market.SPOT, _INTERVAL, Evidence(absent=_absent(["ETH/USDT"], [3])))
    assert _said(made) == [("ETH/USDT", 3, 1, "halted", "exchange_halt")]
    assert _proof(made)["symbols_halted_most"] == 1


def test_absence_in_one_capture_alone_is_no_halt() -> None:
    """Without two answers, or with a stream that never captured the symbol, a minute is missing."""
    both = _without(["ETH/USDT"], [3])
    assert _said(ledger(both, both, _SPOT, Market.SPOT, _INTERVAL, Evidence())) == [
        ("ETH/USDT", 3, 1, "missing", "unknown")
    ]
    unstreamed = ledger(
        both.clear(), both, _SPOT, Market.SPOT, _INTERVAL, Evidence(absent=_absent(["ETH/USDT"], [3]))
    )
    assert ("ETH/USDT", 3, 1, "missing", "unknown") in _said(unstreamed)


def test_a_stream_that_was_running_is_a_witness_of_a_halt_of_the_whole_interval() -> None:
    """Where neither capture has any bar, the connection log shows that somebody was watching."""
    none = bars(_SPOT).clear()
    evidence = Evidence(absent=_absent(_SPOT, range(10)), stream_minutes=_log([60.0] * 10))
    made = ledger(none, none, _SPOT, Market.SPOT, _INTERVAL, evidence)
    assert made.counts()[State.HALTED] == 20
    assert _proof(made)["connected_s"] == 600.0


def test_a_bar_that_was_streamed_is_no_halt_though_two_answers_lack_it() -> None:
    """The stream has it, the exchange's answers do not: streamed only, of unknown cause, with the answers as proof."""
    evidence = Evidence(absent=_absent(["ETH/USDT"], [3]), stream_minutes=_log([60.0] * 10))
    made = ledger(bars(_SPOT), _without(["ETH/USDT"], [3]), _SPOT, Market.SPOT, _INTERVAL, evidence)
    assert _said(made) == [("ETH/USDT", 3, 1, "streamed_only", "unknown")]
    assert _proof(made)["download"] == {"answers": 2}


def test_futures_never_omit_a_minute_so_absence_is_no_halt() -> None:
    """Two answers that lack a minute of futures are no halt: it is missing, and the proof says what was asked."""
    names = ("BTC/USDT:USDT", "ETH/USDT:USDT")
    both = _without([names[0]], [3], names)
    made = ledger(both, both, names, Market.FUTURES, _INTERVAL, Evidence(absent=_absent([names[0]], [3])))
    assert _said(made) == [(names[0], 3, 1, "missing", "unknown")]
    assert _proof(made)["why"] == "the exchange lacked it when the day was downloaded"


def test_our_outage_is_a_minute_without_any_connection_and_lost_is_one_with() -> None:
    """Nobody connected for the whole minute: our outage. Somebody, for a moment even: lost. No log: unknown."""
    evidence = Evidence(stream_minutes=_log([60.0, 0.0, 0.0, 7.5, 60.0, None]))
    made = ledger(_without(["ETH/USDT"], [1, 2, 3, 4, 5]), bars(_SPOT), _SPOT, Market.SPOT, _INTERVAL, evidence)
    assert _said(made) == [
        ("ETH/USDT", 1, 2, "fetched_only", "our_outage"),
        ("ETH/USDT", 3, 2, "fetched_only", "lost"),
        ("ETH/USDT", 5, 1, "fetched_only", "unknown"),
    ]
    assert _proof(made, 0) == {"connected_s": 0.0}
    assert _proof(made, 1) == {"connected_s": 67.5}
    assert _proof(made, 2) == {"why": "no connection log speaks of it"}


def test_a_minute_that_any_run_was_connected_in_is_not_our_outage() -> None:
    """A later run that was not there in the minute does not make the earlier one's connection undone."""
    log = pl.concat([_log([20.0], run="live"), _log([0.0, 0.0], run="backfill")])
    made = ledger(_without(["ETH/USDT"], [0, 1]), bars(_SPOT), _SPOT, Market.SPOT, _INTERVAL, Evidence(stream_minutes=log))  # fmt: skip
    assert [row[-1] for row in _said(made)] == ["lost", "our_outage"]


def test_a_symbol_is_watched_by_the_run_of_its_own_shard() -> None:
    """Of two parts of the universe only one was connected: the other's symbols were in an outage."""
    names = tuple(f"S{number}/USDT" for number in range(6))
    first = set(shard([Symbol(name) for name in names], 0, 2))
    log = pl.concat([_log([60.0] * 10, part="1/2"), _log([0.0] * 10, part="2/2")])
    made = ledger(
        _without(names, [4], names), bars(names), names, Market.SPOT, _INTERVAL, Evidence(stream_minutes=log)
    )
    assert 0 < len(first) < 6
    assert {row[0]: row[-1] for row in _said(made)} == {n: "lost" if n in first else "our_outage" for n in names}


def test_the_other_markets_log_says_nothing() -> None:
    """That futures were streamed does not prove that anybody watched spot."""
    made = ledger(_without(["ETH/USDT"], [1]), bars(_SPOT), _SPOT, Market.SPOT, _INTERVAL, Evidence(stream_minutes=_log([60.0] * 10, "futures")))  # fmt: skip
    assert _said(made) == [("ETH/USDT", 1, 1, "fetched_only", "unknown")]


def test_minutes_before_the_listing_and_after_the_delisting_are_not_listed() -> None:
    """By the universe's times, half-open, the minute in which it was listed among those that are expected."""
    since, until = _START_MS + 2 * MINUTE_MS + 30_000, _START_MS + 6 * MINUTE_MS
    times = ListingTimes("ETHUSDT", (Span(since, until, "since onboardDate, until last bar"),))
    both = _without(["ETH/USDT"], [0, 1, 6, 7, 8, 9])
    made = ledger(both, both, _SPOT, Market.SPOT, _INTERVAL, Evidence(listing={Symbol("ETH/USDT"): times}))
    assert _said(made) == [
        ("ETH/USDT", 0, 2, "not_listed", "not_listed_yet"),
        ("ETH/USDT", 6, 4, "not_listed", "delisted"),
    ]
    assert _proof(made)["source"] == "since onboardDate, until last bar"
    lacking = _without(["ETH/USDT"], [0, 1, 2, 6, 7, 8, 9])
    again = ledger(lacking, lacking, _SPOT, Market.SPOT, _INTERVAL, Evidence(listing={Symbol("ETH/USDT"): times}))
    assert ("ETH/USDT", 2, 1, "missing", "unknown") in _said(again)


def test_what_the_download_found_out_about_a_listing_counts_too() -> None:
    """A spot symbol whose universe knows no time: the day's download asked for its first bar, which is the proof."""
    both = _without(["ETH/USDT"], [0, 1, 2])
    absent = _absent(["ETH/USDT"], [0, 1, 2], "not_listed_yet", '{"first_bar": "2025-06-01T00:03Z"}')
    made = ledger(both, both, _SPOT, Market.SPOT, _INTERVAL, Evidence(absent=absent))
    assert _said(made) == [("ETH/USDT", 0, 3, "not_listed", "not_listed_yet")]
    assert _proof(made) == {"first_bar": "2025-06-01T00:03Z"}


def test_a_symbol_between_two_listings_is_delisted() -> None:
    """A symbol that came back was not listed in between."""
    spans = (Span(None, _START_MS + 3 * MINUTE_MS, "last bar"), Span(_START_MS + 6 * MINUTE_MS, None, "first bar"))
    both = _without(["ETH/USDT"], [3, 4, 5])
    listing = {Symbol("ETH/USDT"): ListingTimes("ETHUSDT", spans)}
    made = ledger(both, both, _SPOT, Market.SPOT, _INTERVAL, Evidence(listing=listing))
    assert _said(made) == [("ETH/USDT", 3, 3, "not_listed", "delisted")]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("day", "first", "least", "most"), [("2021-04-20", "02:00", 150, 150), ("2021-04-25", "04:01", 283, 284)]
)
def test_the_outages_of_april_2021_are_halts_symbol_by_symbol(recorded_data, day: str, first: str, least: int, most: int) -> None:  # fmt: skip
    """Each symbol that traded before is halted for exactly the minutes that it lacks; nothing is left unexplained."""
    real = recorded(recorded_data / "klines" / "spot_rest_1m_40sym_2021-04-20_2021-04-25.parquet", Market.SPOT)
    interval = Interval.of_day(date.fromisoformat(day))
    inside = real.filter(pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left"))
    traded = inside.filter(pl.col("timestamp") < parse_time(f"{day}T{first}Z"))["symbol"].unique().to_list()
    grid = pl.DataFrame({"symbol": traded}).join(pl.DataFrame({"timestamp": list(interval.minutes)}), how="cross")
    lacking = grid.join(inside, on=("symbol", "timestamp"), how="anti")
    absent = lacking.with_columns(cause=pl.lit("exchange_halt"), proof=pl.lit('{"answers": 2}'))
    made = ledger(inside, inside, traded, Market.SPOT, interval, Evidence(absent=absent))
    assert made.unexplained() == 0
    assert made.counts()[State.HALTED] == lacking.height > 0
    longest = (
        made.gaps().group_by("symbol").agg(((pl.col("end") - pl.col("start")) // MINUTE_MS).max().alias("n"))["n"]
    )
    assert (longest.min(), longest.max()) == (least, most)
    assert json.loads(made.gaps()["proof"][0])["symbols_halted_most"] == len(traded)
