"""The rules in force and what they act on: shared by everything that breaks things.

Lives here: `Desk`. Does not: any fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.agenda import Agenda
from ohlcv_assets.replay.clock import ReplayClock
from ohlcv_assets.replay.faults.ledger import Ledger
from ohlcv_assets.replay.faults.rules import Rule
from ohlcv_assets.replay.hub import Connection
from ohlcv_assets.replay.tape import MarketTape
from ohlcv_assets.replay.truth import Truth


@dataclass
class Desk:
    """What the faults need of the exchange.

    Attributes:
        seed: of every draw.
        truth: the bars without faults.
        tapes: the bars that are played.
        clock: the exchange's.
        agenda: what is due when.
        connections: the open WebSockets.
        ledger: what was injected.
        rules: every rule that there ever was, by number; an ended one has its end.
    """

    seed: int
    truth: Truth
    tapes: Mapping[Market, MarketTape]
    clock: ReplayClock
    agenda: Agenda
    connections: Mapping[Connection, Market]
    ledger: Ledger
    rules: dict[int, Rule] = field(default_factory=dict)
    _by_name: dict[str, list[Rule]] = field(default_factory=dict)

    def put(self, rule: Rule) -> None:
        """Add a rule, or put it in the place of the one with its number."""
        self.rules[rule.id] = rule
        self._by_name.clear()
        for each in self.rules.values():
            self._by_name.setdefault(each.name, []).append(each)

    def named(self, *names: str) -> list[Rule]:
        """The rules of some faults, in the order of the names, then of the rules."""
        if not self._by_name:
            return []
        return [rule for name in names for rule in self._by_name.get(name, ())]

    def has_any_left(self, rule: Rule) -> bool:
        """Whether a rule may still hit: its `count` is not used up."""
        count = rule.parameters.get("count")
        return count is None or self.ledger.count(rule) < count
