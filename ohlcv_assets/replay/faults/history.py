"""The bars themselves under faults: which minutes there are, what REST shows of them for a while, and what settles at last.

Lives here: pure functions of bars and rules. Does not: any event (closing.py) or serving. `settled_truth` is for tests: what
a client must hold when everything has been said.

A rule of halt, list_at or delist_at changes which bars there are, at any time that one looks. late_trade and correct
change what REST shows of a bar, for a while and for good. Bars without a trade are never restated, and a bar with fewer than
two has no earlier value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from ohlcv_assets.bars import VALUES
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.faults.rules import Rule
from ohlcv_assets.replay.faults.schedule import drawn, turn_at
from ohlcv_assets.replay.partial import Decimals, Kline, so_far
from ohlcv_assets.replay.tape import SymbolTape
from ohlcv_assets.replay.truth import TRUTH_SCHEMA, Truth, exchange_symbol
from ohlcv_assets.timestamps import MINUTE_MS, floor_to

TIMELINE = ("halt", "list_at", "delist_at")


def hits_bar(seed: int, rule: Rule, market: Market, name: str, minute_ms: int) -> bool:
    """Whether a rule applies to the bar of a symbol (the exchange's name) that starts at a minute."""
    return (
        rule.concerns(market, name)
        and turn_at(rule, minute_ms) is not None
        and drawn(seed, rule, market.value, name, minute_ms)
    )


def settled_truth(truth: Truth, rules: Sequence[Rule], *, seed: int, at_ms: int | None = None) -> Truth:
    """What the exchange has at last: the truth under halts, listings and corrections.

    Args:
        truth: the final bars without faults.
        rules: as the exchange has them (`parse_rules` of what `GET /_replay/faults` answers).
        seed: the exchange's.
        at_ms: only the corrections that are made by then; None for all.

    Returns:
        A frame a market, of the truth's columns, sorted by (symbol, timestamp).
    """
    return {market: _settled_market(frame, market, rules, seed, at_ms) for market, frame in truth.items()}


def _settled_market(
    frame: pl.DataFrame, market: Market, rules: Sequence[Rule], seed: int, at_ms: int | None
) -> pl.DataFrame:
    pieces = []
    for (symbol,), bars in frame.partition_by("symbol", as_dict=True, maintain_order=True).items():
        name = exchange_symbol(str(symbol))
        concerning = [rule for rule in rules if rule.concerns(market, name)]
        timeline = [rule for rule in concerning if rule.name in TIMELINE]
        settled = played_bars(bars, market, name, timeline, seed) if timeline else bars
        corrections = [rule for rule in concerning if rule.name == "correct"]
        if corrections:
            decimals = SymbolTape(str(symbol), market, bars).decimals
            settled = _corrected_bars(settled, market, str(symbol), decimals, corrections, seed, at_ms)
        pieces.append(settled)
    return pl.concat(pieces) if pieces else frame


def played_bars(bars: pl.DataFrame, market: Market, name: str, rules: Iterable[Rule], seed: int) -> pl.DataFrame:
    """The bars that a symbol has under rules of halt, list_at and delist_at.

    Args:
        bars: its bars without faults, sorted by timestamp.
        market: where it is traded.
        name: the exchange's name of it.
        rules: those that concern it.
        seed: of the draws.
    """
    absent: set[int] = set()
    flat: set[int] = set()
    for rule in rules:
        for minute_ms in bars["timestamp"].to_list():
            if rule.name == "list_at":
                if minute_ms < floor_to(rule.start_ms, MINUTE_MS):
                    absent.add(minute_ms)
            elif hits_bar(seed, rule, market, name, minute_ms):
                (flat if _goes_on_flat(rule, market) else absent).add(minute_ms)
    return _flattened(bars, flat).filter(~pl.col("timestamp").is_in(list(absent)))


def _goes_on_flat(rule: Rule, market: Market) -> bool:
    return market is Market.FUTURES and (rule.name == "halt" or bool(rule["flat"]))


def _flattened(bars: pl.DataFrame, minutes: set[int]) -> pl.DataFrame:
    """The bars, those of some minutes standing still at the close before them."""
    if not minutes:
        return bars
    still = pl.col("timestamp").is_in(list(minutes))
    last = pl.when(~still).then(pl.col("close")).forward_fill().fill_null(pl.col("open").first())
    prices = [pl.when(still).then(last).otherwise(pl.col(name)).alias(name) for name in VALUES[:4]]
    amounts = [pl.when(still).then(0).otherwise(pl.col(name)).alias(name) for name in VALUES[4:]]
    return bars.with_columns(*prices, *amounts).cast({name: TRUTH_SCHEMA[name] for name in VALUES})


def _corrected_bars(
    bars: pl.DataFrame,
    market: Market,
    symbol: str,
    decimals: Decimals,
    rules: Sequence[Rule],
    seed: int,
    at_ms: int | None,
) -> pl.DataFrame:
    tape = SymbolTape(symbol, market, bars, decimals)
    changed = {}
    for minute_ms in bars["timestamp"].to_list():
        made = [
            rule
            for rule in rules
            if hits_bar(seed, rule, market, tape.name, minute_ms)
            and (at_ms is None or corrected_from_ms(rule, minute_ms) <= at_ms)
        ]
        bar = tape.at(minute_ms)
        if made and bar is not None and bar.trade_count:
            changed[minute_ms] = corrected(bar, decimals)
    if not changed:
        return bars
    rows = [(market.value, symbol, bar.timestamp, *bar[1:-1]) for bar in changed.values()]
    restated = pl.DataFrame(rows, schema=TRUTH_SCHEMA, orient="row")
    return pl.concat([bars.filter(~pl.col("timestamp").is_in(list(changed))), restated]).sort("timestamp")


def corrected_from_ms(rule: Rule, minute_ms: int) -> int:
    """From when on REST serves the corrected bar of a minute."""
    return minute_ms + MINUTE_MS + round(float(rule["after_s"]) * 1000)


def early_until_ms(rule: Rule, minute_ms: int) -> int:
    """Until when REST serves the earlier value of a minute's bar."""
    return minute_ms + MINUTE_MS + round(float(rule["settle_s"]) * 1000)


def corrected(bar: Kline, decimals: Decimals) -> Kline:
    """The bar as history is restated: one trade more, of one step of volume, one tick above the high."""
    price, volume, quote = (10**places for places in decimals)
    high = round(bar.high * price) + 1
    return bar._replace(
        high=high / price,
        volume=(round(bar.volume * volume) + 1) / volume,
        quote_volume=(round(bar.quote_volume * quote) + max(1, high * quote // (price * volume))) / quote,
        trade_count=bar.trade_count + 1,
    )


def early(bar: Kline, decimals: Decimals, missing: float) -> Kline | None:
    """The bar without the trades of the last share of its minute; None when it has fewer than two trades."""
    if bar.trade_count < 2:
        return None
    return so_far(bar, bar.timestamp + round(MINUTE_MS * (1 - missing)), decimals)
