"""What a trial found: bars lost, there twice, or wrong, and how long it took to notice and to mend.

Lives here: `Found`, and the ways to it from a stream that was watched. Does not: any server.

Seconds are the exchange's. To notice: from the fault until the stream asks REST for a bar or connects anew. To mend: from a
bar's end until it is committed, of the bar that took longest.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from ohlcv_assets.clock import ExchangeClock
from ohlcv_assets.quality.match import match
from ohlcv_assets.timestamps import MINUTE_MS, Interval
from ohlcv_assets_tests.fixtures.replay import ReplayHandle

if TYPE_CHECKING:
    from ohlcv_assets_tests.faults.stage import Watched


@dataclass(frozen=True)
class Found:
    """The result of one row.

    Attributes:
        injected: times that the exchange's ledger has the row's own fault, or that we made ourselves.
        bars: bars that had to be there.
        lost, duplicated, wrong: of these bars.
        false_alarms: bars named missing that the exchange has, and bars not there that nobody named.
        detect_s: until it was noticed; None where there was nothing to notice.
        repair_s: until the last bar was stored.
        refusals_ms: when the exchange answered 429 or 418, on its clock.
    """

    injected: int
    bars: int
    lost: int
    duplicated: int
    wrong: int
    false_alarms: int = 0
    detect_s: float | None = None
    repair_s: float | None = None
    refusals_ms: tuple[int, ...] = ()


def within(bars: pl.DataFrame, interval: Interval, symbols: Sequence[str] | None = None) -> pl.DataFrame:
    """The bars of an interval, of some symbols or all."""
    inside = bars.filter(pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left"))
    return inside if symbols is None else inside.filter(pl.col("symbol").is_in(symbols))


def judged(
    truth: pl.DataFrame,
    stored: pl.DataFrame,
    *,
    injected: int,
    clock: ExchangeClock | None = None,
    detect_s: float | None = None,
    false_alarms: int = 0,
) -> Found:
    """Compare what is stored with what the exchange has, bit for bit."""
    report = match(truth, stored)
    return Found(
        injected=injected,
        bars=truth.height,
        lost=report.only_left,
        duplicated=report.duplicate_right,
        wrong=report.differing + report.only_right,
        false_alarms=false_alarms,
        detect_s=detect_s,
        repair_s=None if clock is None else repair_s(stored, clock),
    )


def judged_symbols(
    watched: Watched,
    handle: ReplayHandle,
    interval: Interval,
    symbols: Sequence[str],
    first: pl.DataFrame,
    latest: pl.DataFrame,
    fault: str | None,
) -> Found:
    """The row whose fault, of this name in the exchange's ledger, hit these symbols."""
    assert watched.report is not None
    market = watched.exchange.market
    names = {symbol.partition(":")[0].replace("/", "") for symbol in symbols}
    ledger = [e for e in handle.ledger() if e["symbol"] in names and e["market"] in (market, None)]
    settled = within(handle.settled(market), interval, symbols)
    named = watched.report.missing.filter(pl.col("symbol").is_in(symbols))
    existing = named.join(settled, on=["symbol", "timestamp"], how="semi").height
    first = within(first, interval, symbols)
    asked = _first_asked(watched, symbols)
    by_rest = first.filter(pl.col("channel") == "rest").select("symbol", "timestamp").iter_rows()
    waits = [(asked[key] - key[1] - MINUTE_MS) / 1000 for key in by_rest if key in asked]
    found = judged(
        settled,
        within(latest, interval, symbols),
        injected=_times(fault, ledger),
        false_alarms=existing,
        detect_s=max(waits, default=None),
    )
    return replace(found, repair_s=repair_s(first, watched.exchange.clock))


def judged_phase(watched: Watched, handle: ReplayHandle, interval: Interval, stored: pl.DataFrame, fault: str | None) -> Found:  # fmt: skip
    """The row whose fault, of this name in the exchange's ledger, hit a market in this interval."""
    market = watched.exchange.market
    ledger = [e for e in handle.ledger() if e["market"] in (market, None) and e["at_ms"] in interval]
    begun_ms = min((entry["at_ms"] for entry in ledger), default=None)
    reactions = [*watched.linked, *(at_ms for at_ms, _, _ in watched.asked)]
    refused = tuple(entry["at_ms"] for entry in ledger if entry["fault"] in ("rest_429", "rest_418"))
    later = [at_ms - begun_ms for at_ms in reactions if begun_ms is not None and at_ms >= begun_ms]
    found = judged(
        within(handle.settled(market), interval),
        within(stored, interval),
        injected=_times(fault, ledger),
        clock=watched.exchange.clock,
        detect_s=min(later) / 1000 if later else None,
    )
    return replace(found, refusals_ms=refused)


def repair_s(stored: pl.DataFrame, clock: ExchangeClock) -> float | None:
    """The longest time from a bar's end to its commit, in exchange seconds."""
    if stored.is_empty():
        return None
    known = stored.group_by("timestamp").agg(pl.col("knowledge_timestamp").max())
    return max((exchange_ms(at, clock) - start - MINUTE_MS) / 1000 for start, at in known.iter_rows())


def exchange_ms(moment: datetime, clock: ExchangeClock) -> float:
    """What the exchange's clock showed at a moment of this machine's."""
    monotonic_s = moment.timestamp() - (time.time() - time.monotonic())
    return clock.anchor_ms + (monotonic_s - clock.anchor_monotonic_s) * 1000 * clock.speed


def _times(fault: str | None, ledger: Sequence[Mapping[str, Any]]) -> int:
    """How often the row's own fault was injected, without those that only make REST necessary."""
    return sum(entry["fault"] == fault for entry in ledger)


def _first_asked(watched: Watched, symbols: Sequence[str]) -> dict[tuple[str, int], int]:
    """When each minute of these symbols was first asked for, exchange ms."""
    found: dict[tuple[str, int], int] = {}
    for at_ms, symbol, interval in watched.asked:
        if symbol in symbols:
            for minute in interval.minutes:
                found.setdefault((symbol, minute), at_ms)
    return found
