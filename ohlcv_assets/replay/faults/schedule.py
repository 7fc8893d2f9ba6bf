"""When a rule applies: its turns on the exchange's clock, and the seeded draws that decide each case.

Lives here: pure functions of a rule and a time. Does not: any waiting, or what happens then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ohlcv_assets.replay.faults.rules import TURN_MS, Rule
from ohlcv_assets.replay.script import drawn_share


class Turn(NamedTuple):
    """One stretch [start_ms, end_ms) in which a rule applies; the end is None for one that never ends."""

    number: int
    start_ms: int
    end_ms: int | None


def turn_at(rule: Rule, moment_ms: int) -> Turn | None:
    """The turn of a rule that holds a moment, or None."""
    start_ms = rule.start_ms
    if moment_ms < start_ms or (rule.until_ms is not None and moment_ms >= rule.until_ms):
        return None
    index = 0 if rule.every_ms is None else (moment_ms - start_ms) // rule.every_ms
    turn = _turn(rule, index)
    return turn if turn is not None and (turn.end_ms is None or moment_ms < turn.end_ms) else None


def turns_from(rule: Rule, moment_ms: int) -> Iterator[Turn]:
    """The turns that are not over at a moment, oldest first; endless for an endless rule."""
    start_ms = rule.start_ms
    index = 0 if rule.every_ms is None else max(0, (moment_ms - start_ms) // rule.every_ms)
    while (turn := _turn(rule, index)) is not None:
        if turn.end_ms is None or turn.end_ms > moment_ms:
            yield turn
        if rule.every_ms is None:
            return
        index += 1


def drawn(seed: int, rule: Rule, *key: object) -> bool:
    """Whether a case that the rule could hit is hit; the same for the same seed, rule and key."""
    return rule.probability >= 1 or drawn_share(seed, "fault", rule.id, *key) < rule.probability


def _turn(rule: Rule, number: int) -> Turn | None:
    """A turn by its number; None when the rule is over before."""
    start_ms = rule.start_ms + number * (rule.every_ms or 0)
    if rule.until_ms is not None and start_ms >= rule.until_ms:
        return None
    ends_ms = [] if rule.until_ms is None else [rule.until_ms]
    if rule.every_ms is not None:
        ends_ms.append(start_ms + min(rule.for_ms or TURN_MS, rule.every_ms))
    elif rule.for_ms is not None:
        ends_ms.append(start_ms + rule.for_ms)
    return Turn(number, start_ms, min(ends_ms, default=None))
