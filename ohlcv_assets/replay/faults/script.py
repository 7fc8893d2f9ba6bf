"""The script of faults: asked by the exchange about each bar, request and connection, it answers by the rules in force.

Lives here: `FaultScript`: adding and ending rules, and handing each question to the module that knows. Does not: any
fault. Without a rule it is the healthy script, for the price of one look-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ohlcv_assets.errors import UsageError
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.agenda import Agenda
from ohlcv_assets.replay.clock import ReplayClock
from ohlcv_assets.replay.faults.closing import CLOSING_FAULTS, closings
from ohlcv_assets.replay.faults.desk import Desk
from ohlcv_assets.replay.faults.ledger import Ledger
from ohlcv_assets.replay.faults.requests import RequestFaults
from ohlcv_assets.replay.faults.rules import Rule, parse_rules, refuse_unknown_symbols
from ohlcv_assets.replay.faults.serving import ServedHistory
from ohlcv_assets.replay.faults.socket import SocketFaults
from ohlcv_assets.replay.hub import Connection
from ohlcv_assets.replay.partial import Kline
from ohlcv_assets.replay.script import Closing, RestFault, Script
from ohlcv_assets.replay.tape import MarketTape, SymbolTape
from ohlcv_assets.replay.truth import Truth, exchange_symbol


class FaultScript(Script):
    """An exchange on which things go wrong by rules.

    Args:
        seed: decides every lag and every draw.
        rules: what goes wrong from the start; more can be added later.
    """

    def __init__(self, seed: int, rules: Sequence[Rule] = ()) -> None:
        super().__init__(seed)
        self.ledger = Ledger()
        self._first = rules
        self._desk: Desk | None = None

    def play(
        self,
        truth: Truth,
        tapes: Mapping[Market, MarketTape],
        clock: ReplayClock,
        connections: Mapping[Connection, Market],
    ) -> None:
        """Act on an exchange; the first rules are added.

        Raises:
            UsageError: a rule names a symbol that is not played.
        """
        self._desk = Desk(self.seed, truth, tapes, clock, Agenda(clock), connections, self.ledger)
        self._sockets = SocketFaults(self._desk)
        self._requests = RequestFaults(self._desk)
        self._history = ServedHistory(self._desk)
        self._add(self._first)

    def start(self) -> None:
        """The exchange listens and its clock runs; needs a running event loop."""
        self._on_desk().agenda.start()

    def stop(self) -> None:
        """Do nothing more."""
        self._on_desk().agenda.stop()

    def add(self, rules: object) -> list[int]:
        """Add rules as JSON gives them, all or none; their numbers.

        Raises:
            UsageError: one of them cannot be meant.
        """
        parsed = parse_rules(rules, first_id=len(self._on_desk().rules) + 1)
        self._add(parsed)
        return [rule.id for rule in parsed]

    def end_all(self) -> list[int]:
        """End every rule that is not over yet, and what lasts by it; the numbers of those that ended.

        What has happened stays: minutes that were halted, and corrections of bars that began before now.
        """
        desk = self._on_desk()
        now_ms = desk.clock.now_ms()
        going = [rule for rule in desk.rules.values() if _ended(rule, now_ms) != rule]
        for rule in going:
            ended = _ended(rule, now_ms)
            desk.put(ended)
            self._history.change(ended)
            self._sockets.end(ended)
        for rule in desk.rules.values():
            self._requests.end(rule)
        return [rule.id for rule in going]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule that there ever was, in order, as JSON: an ended one with its end."""
        return [rule.as_json() for rule in self._on_desk().rules.values()]

    def _on_desk(self) -> Desk:
        if self._desk is None:
            raise UsageError("this script is played by no exchange", hint="give it to a ReplayExchange")
        return self._desk

    def _add(self, rules: Sequence[Rule]) -> None:
        desk = self._on_desk()
        refuse_unknown_symbols(rules, {market: tape.symbols for market, tape in desk.tapes.items()})
        now_ms = desk.clock.now_ms()
        for rule in rules:
            begun = replace(rule, from_ms=now_ms) if rule.from_ms is None else rule
            desk.put(begun)
            self._history.begin(begun)
            self._sockets.begin(begun)

    def closings(self, market: Market, tape: SymbolTape, final: Kline) -> Sequence[Closing]:
        """The closing events of a bar."""
        healthy = super().closings(market, tape, final)
        rules = self._on_desk().named(*CLOSING_FAULTS)
        return closings(self.seed, self.ledger, rules, market, tape, final, healthy) if rules else healthy

    def rest_bars(
        self, market: Market, symbol: str, first_ms: int, last_ms: int, now_ms: int
    ) -> Mapping[int, Kline | None]:
        """What REST shows otherwise than the tape."""
        desk = self._on_desk()
        if not desk.rules:
            return {}
        tape = desk.tapes[market].symbols[exchange_symbol(symbol)]
        return self._history.rest_bars(market, tape, first_ms, last_ms, now_ms)

    def rest_fault(
        self, market: Market | None, endpoint: str, parameters: Mapping[str, str], now_ms: int
    ) -> RestFault | None:
        """What is done to a request instead of answering it."""
        if not self._on_desk().rules:
            return None
        hit = self._requests.hit(market, endpoint, parameters, now_ms)
        return None if hit is None else hit.as_fault()

    def time_offset_ms(self, market: Market | None, now_ms: int) -> int:
        """How far ahead the clock is that REST tells."""
        return self._requests.time_offset_ms(market, now_ms)

    def listing_changes(self, market: Market | None, now_ms: int) -> Mapping[str, Mapping[str, Any]]:
        """Fields of exchangeInfo that are otherwise now."""
        return self._history.listing_changes(market, now_ms)

    def connection_opened(self, connection: Connection) -> None:
        """A WebSocket was opened."""
        self._sockets.opened(connection)

    def refusal(self, market: Market, now_ms: int) -> str | None:
        """How a new WebSocket is refused."""
        return self._sockets.refusal(market)

    def loses(self, market: Market, stream: str, now_ms: int) -> bool:
        """Whether a subscription is acked and never delivered."""
        return self._sockets.loses(market, stream)

    def message_limit(self, market: Market, now_ms: int) -> int | None:
        """Messages a second that a client may send."""
        return self._sockets.message_limit(market)

    def too_many_messages(self, connection: Connection) -> None:
        """A WebSocket is closed for its messages."""
        self._sockets.too_many_messages(connection.market)


def _ended(rule: Rule, now_ms: int) -> Rule:
    """The rule with its end now, or itself when it is over already."""
    if rule.name == "list_at":  # a symbol that waits for its listing is listed now
        return rule if rule.start_ms <= now_ms else replace(rule, from_ms=now_ms)
    if rule.until_ms is not None and rule.until_ms <= now_ms:
        return rule
    return replace(rule, until_ms=max(now_ms, rule.start_ms))
