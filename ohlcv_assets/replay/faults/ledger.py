"""What was injected, in order, written down when it really happened.

Lives here: `Ledger`. Does not: any decision. A fault that nobody could notice (a closing event withheld while nobody listens)
did not happen.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.faults.rules import Rule


class Ledger:
    """The injected faults.

    Attributes:
        entries: one JSON object each: at_ms, fault, market, channel, symbol (the exchange's name), minute_ms (the bar's
            start), detail, and rule (its number).
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._counts: dict[int, int] = {}
        self._noted: set[Hashable] = set()

    def note(
        self,
        rule: Rule,
        now_ms: int,
        market: Market | None,
        *,
        symbol: str | None = None,
        minute_ms: int | None = None,
        detail: str = "",
        channel: str | None = None,
    ) -> None:
        """Write down that a rule's fault happened."""
        self._counts[rule.id] = self.count(rule) + 1
        self.entries.append(
            {
                "at_ms": now_ms,
                "fault": rule.name,
                "market": market,
                "channel": channel or rule.fault.channel,
                "symbol": symbol,
                "minute_ms": minute_ms,
                "detail": detail,
                "rule": rule.id,
            }
        )

    def count(self, rule: Rule) -> int:
        """How often a rule's fault has happened."""
        return self._counts.get(rule.id, 0)

    def first_time(self, *key: Hashable) -> bool:
        """Whether this is the first time that the key is given: for what is seen often and happens once."""
        if key in self._noted:
            return False
        self._noted.add(key)
        return True
