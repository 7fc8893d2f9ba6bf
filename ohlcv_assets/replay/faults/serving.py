"""The exchange's bars and listing as they are served under faults: halts, listings, late trades, corrections.

Lives here: putting other bars on the tapes, what REST shows of a bar at a moment, what exchangeInfo says, and writing each
down when its time has come. Does not: what the other bars are (history.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import polars as pl

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.faults.desk import Desk
from ohlcv_assets.replay.faults.history import (
    TIMELINE,
    corrected,
    corrected_from_ms,
    early,
    early_until_ms,
    hits_bar,
    played_bars,
)
from ohlcv_assets.replay.faults.rules import Rule
from ohlcv_assets.replay.faults.schedule import turn_at
from ohlcv_assets.replay.listing import GONE
from ohlcv_assets.replay.partial import Kline
from ohlcv_assets.replay.tape import SymbolTape
from ohlcv_assets.timestamps import MINUTE_MS, floor_to


class ServedHistory:
    """The rules that concern which bars there are, and what REST shows of them.

    Args:
        desk: the rules in force and what they act on.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def begin(self, rule: Rule) -> None:
        """A rule was added: the tapes follow it, and the ledger will when each bar's time has come."""
        self.change(rule)
        if rule.name in ("list_at", "delist_at"):
            self._desk.agenda.schedule(rule.start_ms, partial(self._note_symbols, rule.id))
        elif rule.name in ("halt", "correct"):
            first_ms = min((tape.start_ms for tape in self._desk.tapes.values() if tape.symbols), default=0)
            minute_ms = max(first_ms, -(-rule.start_ms // MINUTE_MS) * MINUTE_MS)
            self._plan_minute(rule, minute_ms)

    def change(self, rule: Rule) -> None:
        """A rule began, or has another end: the tapes of its symbols are made anew."""
        if rule.name not in TIMELINE:
            return
        rules = self._desk.named(*TIMELINE)
        for market, market_tape in self._desk.tapes.items():
            for tape in list(market_tape.symbols.values()):
                if rule.concerns(market, tape.name):
                    concerning = [each for each in rules if each.concerns(market, tape.name)]
                    bars = self._desk.truth[market].filter(pl.col("symbol") == tape.symbol)
                    bars = played_bars(bars, market, tape.name, concerning, self._desk.seed)
                    market_tape.replace(SymbolTape(tape.symbol, market, bars, tape.decimals))

    def rest_bars(
        self, market: Market, tape: SymbolTape, first_ms: int, last_ms: int, now_ms: int
    ) -> dict[int, Kline | None]:
        """The bars that REST shows otherwise than the tape does, by their start."""
        shown: dict[int, Kline | None] = {}
        for rule in self._desk.named("correct"):
            after_ms = corrected_from_ms(rule, 0)
            for bar in self._hit_bars(rule, market, tape, first_ms, min(last_ms, now_ms - after_ms)):
                if bar.trade_count:
                    shown[bar.timestamp] = corrected(bar, tape.decimals)
        for rule in self._desk.named("late_trade"):
            since_ms = now_ms - early_until_ms(rule, 0) + 1
            for bar in self._hit_bars(rule, market, tape, max(first_ms, since_ms), min(last_ms, now_ms - MINUTE_MS)):
                earlier = early(bar, tape.decimals, rule["missing"])
                if earlier is not None:
                    shown[bar.timestamp] = earlier
                    self._note_early(rule, market, tape.name, bar.timestamp, now_ms)
        return shown

    def _hit_bars(self, rule: Rule, market: Market, tape: SymbolTape, first_ms: int, last_ms: int) -> list[Kline]:
        """The bars that start in [first_ms, last_ms] and are hit by a rule."""
        if first_ms > last_ms or not rule.concerns(market, tape.name):
            return []
        bars = (tape.kline(index) for index in range(tape.index_from(first_ms), tape.index_from(last_ms + 1)))
        return [bar for bar in bars if hits_bar(self._desk.seed, rule, market, tape.name, bar.timestamp)]

    def _note_early(self, rule: Rule, market: Market, name: str, minute_ms: int, now_ms: int) -> None:
        ledger = self._desk.ledger
        if ledger.first_time(rule.id, market, name, minute_ms):
            ledger.note(
                rule,
                now_ms,
                market,
                symbol=name,
                minute_ms=minute_ms,
                detail="the earlier value is served",
                channel="rest",
            )

    def listing_changes(self, market: Market | None, now_ms: int) -> Mapping[str, Mapping[str, Any]]:
        """Fields of exchangeInfo's symbols that are otherwise now."""
        rules = self._desk.named(*TIMELINE)
        if not rules or market is None:
            return {}
        changes: dict[str, dict[str, Any]] = {}
        for name in self._desk.tapes[market].symbols:
            for rule in rules:
                if rule.concerns(market, name):
                    changes.setdefault(name, {}).update(_fields(rule, market, now_ms))
        return changes

    def _plan_minute(self, rule: Rule, minute_ms: int) -> None:
        """Look at a minute's bars when they are halted, at the minute's end, or restated."""
        due_ms = minute_ms + MINUTE_MS if rule.name == "halt" else corrected_from_ms(rule, minute_ms)
        if (rule.until_ms is None or minute_ms < rule.until_ms) and minute_ms < self._end_ms():
            self._desk.agenda.schedule(due_ms, partial(self._note_minute, rule.id, minute_ms))

    def _end_ms(self) -> int:
        return max(tape.end_ms for tape in self._desk.tapes.values())

    def _note_minute(self, rule_id: int, minute_ms: int, now_ms: int) -> None:
        rule = self._desk.rules[rule_id]
        for market, market_tape in self._desk.tapes.items():
            for name, tape in market_tape.symbols.items():
                if hits_bar(self._desk.seed, rule, market, name, minute_ms) and self._happened(rule, tape, minute_ms):
                    self._desk.ledger.note(rule, now_ms, market, symbol=name, minute_ms=minute_ms)
        self._plan_minute(rule, minute_ms + MINUTE_MS)

    @staticmethod
    def _happened(rule: Rule, tape: SymbolTape, minute_ms: int) -> bool:
        bar = tape.at(minute_ms)
        return rule.name == "halt" or (bar is not None and bar.trade_count > 0)

    def _note_symbols(self, rule_id: int, now_ms: int) -> None:
        rule = self._desk.rules[rule_id]
        if rule.until_ms == rule.from_ms:
            return  # it was ended before
        for market, tape in self._desk.tapes.items():
            for name in tape.symbols:
                if rule.concerns(market, name):
                    self._desk.ledger.note(rule, now_ms, market, symbol=name)


def _fields(rule: Rule, market: Market, now_ms: int) -> dict[str, Any]:
    """What exchangeInfo says otherwise of a symbol because of a rule."""
    from_ms = rule.start_ms
    spot = market is Market.SPOT
    if rule.name == "list_at":
        waiting = {"status": "BREAK" if spot else "PENDING_TRADING"} if now_ms < from_ms else {}
        return waiting if spot else {**waiting, "onboardDate": floor_to(from_ms, MINUTE_MS)}
    if turn_at(rule, now_ms) is None:
        return {}
    if rule.name == "halt":
        return {"status": rule["status"]} if spot else {}
    if rule["gone"]:
        return GONE
    return {"status": "BREAK"} if spot else {"status": "SETTLING", "deliveryDate": from_ms}
