"""Closing events under faults: late, twice, after the next bar's, with an earlier value, or withheld.

Lives here: which closing events a bar gets. Does not: sending them (pump.py), or what REST shows (history.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.faults.history import early, hits_bar
from ohlcv_assets.replay.faults.ledger import Ledger
from ohlcv_assets.replay.faults.rules import Rule
from ohlcv_assets.replay.partial import Kline
from ohlcv_assets.replay.script import Closing, drawn_lognormal, drawn_share
from ohlcv_assets.replay.tape import SymbolTape

#: A closing event within this time of the bar's end is healthy, and not written down as late.
HEALTHY_MS = 1_000.0

#: 999 in 1,000 draws of a normal variable are below this.
_Z_OF_TAIL = 3.090232306167813

#: In this order each takes what the one before left.
CLOSING_FAULTS = ("late_trade", "late_close", "out_of_order", "duplicate_close", "never_closed")


class _Case:
    """One bar that a rule hits: what the ways of breaking its closing events have in common."""

    def __init__(self, seed: int, ledger: Ledger, rule: Rule, market: Market, tape: SymbolTape, final: Kline) -> None:
        self.rule, self.tape, self.final = rule, tape, final
        self._seed, self._ledger, self._market = seed, ledger, market

    def share(self, what: str) -> tuple[object, ...]:
        """The key of a draw about this bar."""
        return (self._seed, what, self.rule.id, self._market.value, self.tape.name, self.final.timestamp)

    def noted(self, closing: Closing, detail: str) -> Closing:
        """The closing event, written down when it is sent or withheld."""
        return closing._replace(on_sent=partial(self._sent, closing.on_sent, detail))

    def _sent(self, before: Callable[[int], None] | None, detail: str, now_ms: int) -> None:
        if before is not None:
            before(now_ms)
        minute_ms = self.final.timestamp
        self._ledger.note(
            self.rule,
            now_ms,
            self._market,
            symbol=self.tape.name,
            minute_ms=minute_ms,
            detail=detail,
            channel="websocket",
        )


def closings(
    seed: int,
    ledger: Ledger,
    rules: Iterable[Rule],
    market: Market,
    tape: SymbolTape,
    final: Kline,
    healthy: Sequence[Closing],
) -> Sequence[Closing]:
    """The closing events of a bar under rules, each noted in the ledger when it is sent.

    Args:
        seed: of the draws.
        ledger: what is written in.
        rules: those of `CLOSING_FAULTS`, in that order.
        market: the bar's.
        tape: the bar's symbol.
        final: the bar.
        healthy: the events that it would get.
    """
    plan = healthy
    for rule in rules:
        if hits_bar(seed, rule, market, tape.name, final.timestamp):
            plan = _WAYS[rule.name](_Case(seed, ledger, rule, market, tape, final), plan)
    return plan


def _late_trade(case: _Case, plan: Sequence[Closing]) -> Sequence[Closing]:
    bar = early(case.final, case.tape.decimals, case.rule["missing"])
    if bar is None or case.rule["event"] == "final":
        return plan
    return [case.noted(each._replace(bar=bar), "the event carries the earlier value") for each in plan]


def _late_close(case: _Case, plan: Sequence[Closing]) -> Sequence[Closing]:
    median_s, tail_s = case.rule["median_s"], case.rule["tail_s"]
    spread = max(0.0, math.log(tail_s / median_s) / _Z_OF_TAIL)
    lag_ms = drawn_lognormal(1000 * median_s, spread, *case.share("late"))
    if drawn_share(*case.share("never")) < case.rule["never"]:
        return [case.noted(each._replace(lag_ms=lag_ms, bar=None), "never") for each in plan]
    late = [each._replace(lag_ms=lag_ms) for each in plan]
    return late if lag_ms <= HEALTHY_MS else [case.noted(each, f"{lag_ms / 1000:.3f} s late") for each in late]


def _out_of_order(case: _Case, plan: Sequence[Closing]) -> Sequence[Closing]:
    delay_s = case.rule["delay_s"]
    return [
        case.noted(each._replace(lag_ms=each.lag_ms + 1000 * delay_s), f"{delay_s:g} s after its turn")
        for each in plan
    ]


def _duplicate_close(case: _Case, plan: Sequence[Closing]) -> Sequence[Closing]:
    copies, delay_ms = case.rule["copies"], 1000 * case.rule["delay_s"]
    last = plan[-1]
    again = [last._replace(lag_ms=last.lag_ms + delay_ms * n, on_sent=None) for n in range(1, copies + 1)]
    return [*plan, *(case.noted(each, "again") for each in again)]


def _never_closed(case: _Case, plan: Sequence[Closing]) -> Sequence[Closing]:
    return [case.noted(plan[0]._replace(bar=None, on_sent=None), "withheld")]


_WAYS: dict[str, Callable[[_Case, Sequence[Closing]], Sequence[Closing]]] = {
    "late_trade": _late_trade,
    "late_close": _late_close,
    "out_of_order": _out_of_order,
    "duplicate_close": _duplicate_close,
    "never_closed": _never_closed,
}
