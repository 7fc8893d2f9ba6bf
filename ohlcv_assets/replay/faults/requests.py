"""Which request is hit by which rule.

Lives here: choosing, with counts, draws, and the time to stay away after a 429 or 418. Does not: what is done to the
request (rest.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.faults.desk import Desk
from ohlcv_assets.replay.faults.rest import REST_FAULTS, Hit
from ohlcv_assets.replay.faults.rules import Rule
from ohlcv_assets.replay.faults.schedule import Turn, drawn, turn_at

#: Retry-After of a rule that names none and has no end.
_STAY_AWAY_S = 10


class RequestFaults:
    """The rules that concern REST requests.

    Args:
        desk: the rules in force and what they act on.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._seen: Counter[int] = Counter()  # requests that each rule could have hit
        self._stay_away_until_ms: dict[tuple[int, Market | None], int] = {}

    def end(self, rule: Rule) -> None:
        """A rule is over: nobody needs to stay away any longer."""
        for key in [key for key in self._stay_away_until_ms if key[0] == rule.id]:
            del self._stay_away_until_ms[key]

    def hit(self, market: Market | None, endpoint: str, parameters: Mapping[str, str], now_ms: int) -> Hit | None:
        """What hits a request: the first rule that does."""
        for rule in self._desk.named(*REST_FAULTS):
            if endpoint in _endpoints(rule) and rule.concerns(market, parameters.get("symbol")):
                hit = self._asked_too_early(rule, market, now_ms) or self._by_rule(rule, market, now_ms)
                if hit is not None:
                    return hit
        return None

    def time_offset_ms(self, market: Market | None, now_ms: int) -> int:
        """How far ahead the clock is that REST tells."""
        offset_ms = 0
        for rule in self._desk.named("clock_offset_ms"):
            if rule.in_market(market) and self._applies(rule, now_ms) is not None:
                offset_ms += rule["offset_ms"]
                self._desk.ledger.note(rule, now_ms, market, detail=f"{rule['offset_ms']} ms")
        return offset_ms

    def _asked_too_early(self, rule: Rule, market: Market | None, now_ms: int) -> Hit | None:
        """A request within the Retry-After of an earlier one is refused as that was."""
        until_ms = self._stay_away_until_ms.get((rule.id, market), 0)
        if now_ms >= until_ms:
            return None
        return self._make(rule, market, now_ms, _seconds(until_ms - now_ms), "asked too early: ")

    def _by_rule(self, rule: Rule, market: Market | None, now_ms: int) -> Hit | None:
        turn = self._applies(rule, now_ms)
        if turn is None or not self._desk.has_any_left(rule):
            return None
        stay_away_s = 0
        if "retry_after_s" in rule.parameters:
            stay_away_s = rule["retry_after_s"] or (_seconds(turn.end_ms - now_ms) if turn.end_ms else _STAY_AWAY_S)
            self._stay_away_until_ms[rule.id, market] = now_ms + 1000 * stay_away_s
        return self._make(rule, market, now_ms, stay_away_s)

    def _applies(self, rule: Rule, now_ms: int) -> Turn | None:
        turn = turn_at(rule, now_ms)
        if turn is None:
            return None
        self._seen[rule.id] += 1
        return turn if drawn(self._desk.seed, rule, self._seen[rule.id]) else None

    def _make(self, rule: Rule, market: Market | None, now_ms: int, stay_away_s: int, prefix: str = "") -> Hit:
        def note(minute_ms: int | None, detail: str, symbol: str | None) -> None:
            self._desk.ledger.note(rule, now_ms, market, symbol=symbol, minute_ms=minute_ms, detail=prefix + detail)

        def in_force() -> bool:
            # A rule that has run out by itself does not free what it hangs; one that was ended does.
            return self._desk.rules[rule.id] is rule

        return Hit(rule, market, now_ms, stay_away_s, self._desk.clock, in_force, note)


def _endpoints(rule: Rule) -> tuple[str, ...]:
    endpoints: tuple[str, ...] = rule["endpoints"]
    return endpoints


def _seconds(delay_ms: int) -> int:
    """Whole seconds, rounded up: whoever waits that long is not early."""
    return max(1, -(-delay_ms // 1000))
