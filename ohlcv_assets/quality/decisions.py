"""Which capture is right: the decision about each bar that differs, by a third capture that equals one of the two.

Lives here: pure functions of frames. What was streamed, what was fetched and what was fetched again come in; one row a
decision goes out, in the columns of the audit trail. Does not: capturing again, or changing a store (repair.py).

A third capture decides only where it equals one side in every value. Then the other side was wrong, or lacked the bar.
Equal to neither, it decides nothing. A bar that both sides lack has one witness in the third capture, so a fourth one, apart
from it in time, has to say the same. No value is ever made up: what a decision writes is what a capture brought.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import polars as pl

from ohlcv_assets.bars import KEY, VALUES
from ohlcv_assets.storage.quality_store import REPAIRS_SCHEMA

#: A decision without the run that made it.
DECISIONS_SCHEMA: dict[str, pl.DataType] = {name: dtype for name, dtype in REPAIRS_SCHEMA.items() if name != "run_id"}
_ORDER = ("symbol", "timestamp", "side")
_TIMES = ("end_download_timestamp", "knowledge_timestamp")

_BarKey = tuple[str, str, int]


class Decision(StrEnum):
    """What was decided about a bar."""

    STREAMED_WAS_WRONG = "streamed_was_wrong"
    FETCHED_WAS_WRONG = "fetched_was_wrong"
    STREAMED_WAS_MISSING = "streamed_was_missing"
    FETCHED_WAS_MISSING = "fetched_was_missing"
    UNDECIDED = "undecided"
    NEEDS_CONFIRMATION = "needs_confirmation"

    @property
    def side(self) -> str:
        """The side that is changed: streamed, fetched, or none."""
        side = self.value.partition("_was_")[0]
        return side if side in ("streamed", "fetched") else "none"


@dataclass(frozen=True)
class _Capture:
    """What one capture has of one bar: every row of it, normally one or none."""

    rows: Sequence[Mapping[str, Any]] = ()

    @property
    def lacks(self) -> bool:
        """Whether it has no such bar."""
        return not self.rows

    @property
    def values(self) -> dict[str, Any] | None:
        """The bar's values; None where it is lacking, and where it stands more than once, which is no value."""
        return {name: self.rows[0][name] for name in VALUES} if len(self.rows) == 1 else None

    def equals(self, other: _Capture) -> bool:
        """Whether both have exactly one such bar, with the same values."""
        mine, others = self.values, other.values
        return mine is not None and others is not None and all(_same(mine[name], others[name]) for name in VALUES)


_NOTHING = _Capture()


@dataclass(frozen=True)
class _Witnesses:
    """What each capture has of one bar."""

    streamed: _Capture
    fetched: _Capture
    third: _Capture
    fourth: _Capture

    def decisions(self) -> list[tuple[Decision, str]]:
        """What they decide together, and why in a sentence; nothing where the two sides agree by now."""
        if self.streamed.equals(self.fetched):
            return []
        if self.third.values is None:
            return [(Decision.UNDECIDED, "the third capture has no such bar")]
        if self.streamed.lacks and self.fetched.lacks:
            return self._of_both()
        if self.third.equals(self.fetched):
            was = Decision.STREAMED_WAS_MISSING if self.streamed.lacks else Decision.STREAMED_WAS_WRONG
            return [(was, "the third capture equals the fetched bar")]
        if self.third.equals(self.streamed):
            was = Decision.FETCHED_WAS_MISSING if self.fetched.lacks else Decision.FETCHED_WAS_WRONG
            return [(was, "the third capture equals the streamed bar")]
        if self.streamed.lacks or self.fetched.lacks:
            return [(Decision.UNDECIDED, "the third capture does not equal the only other one")]
        return [(Decision.UNDECIDED, "the third capture equals neither side")]

    def _of_both(self) -> list[tuple[Decision, str]]:
        if self.fourth.equals(self.third):
            why = "both sides lacked it; a third and a fourth capture have the same bar"
            return [(Decision.FETCHED_WAS_MISSING, why), (Decision.STREAMED_WAS_MISSING, why)]
        if self.fourth.lacks:
            return [(Decision.UNDECIDED, "both sides lack it, and only one more capture has it")]
        return [(Decision.UNDECIDED, "both sides lack it, and two more captures of it differ")]

    def row(self, key: _BarKey, decision: Decision, reason: str) -> dict[str, Any]:
        """The decision in the columns of the audit trail."""
        changed = {"streamed": self.streamed, "fetched": self.fetched}.get(decision.side)
        # Where both lacked the bar, each side gets a capture of its own.
        brought = self.fourth if decision is Decision.STREAMED_WAS_MISSING and self.fetched.lacks else self.third
        return {
            **dict(zip(KEY, key, strict=True)),
            "side": decision.side,
            "decision": decision.value,
            "reason": reason,
            "sources": _json([told for name, capture in vars(self).items() for told in _told(name, capture)]),
            "before": None if changed is None or changed.values is None else _json(changed.values),
            "after": None if changed is None else _json(brought.values),
        }


def decide(
    concerned: pl.DataFrame,
    streamed: pl.DataFrame,
    fetched: pl.DataFrame,
    third: pl.DataFrame,
    fourth: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Decide about bars that are not the same on both sides.

    Args:
        concerned: the bars to decide about: rows with `KEY`; copies count once.
        streamed: what one side has, rows with key and values; other bars are not looked at.
        fetched: what the other side has.
        third: a later capture of its own.
        fourth: another one, later still; only for bars that both sides lack.

    Returns:
        `DECISIONS_SCHEMA`, sorted: one row a bar; two of a bar that both sides lacked and now get; none of a bar that is
        the same on both sides.
    """
    keys = concerned.select(KEY).unique()
    frames = (streamed, fetched, third, third.clear() if fourth is None else fourth)
    captures = [_by_key(frame, keys) for frame in frames]
    rows = []
    for key in keys.iter_rows():
        seen = _Witnesses(*(capture.get(key, _NOTHING) for capture in captures))
        rows += [seen.row(key, decision, reason) for decision, reason in seen.decisions()]
    return pl.DataFrame(rows, schema=DECISIONS_SCHEMA, orient="row").sort(_ORDER)


def changed_bars(decisions: pl.DataFrame, side: str, third: pl.DataFrame, fourth: pl.DataFrame) -> pl.DataFrame:
    """The captured bars that a side gets by these decisions.

    Args:
        decisions: of `decide`, about the same captures.
        side: streamed or fetched.
        third: as it was captured; its columns are the result's.
        fourth: brings what the streamed side gets of bars that both lacked.
    """
    mine = decisions.filter(pl.col("side") == side).select(KEY)
    both = decisions.filter(pl.col("side") != side, pl.col("side") != "none").select(KEY)
    if side == "fetched":
        return third.join(mine, on=KEY, how="semi")
    lacked = mine.join(both, on=KEY, how="semi")
    alone = mine.join(both, on=KEY, how="anti")
    return pl.concat([third.join(alone, on=KEY, how="semi"), fourth.join(lacked, on=KEY, how="semi")])


def digest_of(differences: pl.DataFrame, lacking: pl.DataFrame) -> str:
    """A short name of a red finding: the same for the same differences and no others; empty for none.

    Args:
        differences: of a match (`match.DIFFERENCES_SCHEMA`), in its order.
        lacking: the key of every bar that both sides lack.
    """
    if differences.is_empty() and lacking.is_empty():
        return ""
    told = differences.write_csv() + lacking.select("symbol", "timestamp").sort("symbol", "timestamp").write_csv()
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _by_key(frame: pl.DataFrame, keys: pl.DataFrame) -> dict[_BarKey, _Capture]:
    found: dict[_BarKey, list[Mapping[str, Any]]] = defaultdict(list)
    for row in frame.join(keys, on=KEY, how="semi").iter_rows(named=True):
        found[(row["market"], row["symbol"], row["timestamp"])].append(row)
    return {key: _Capture(rows) for key, rows in found.items()}


def _same(one: Any, other: Any) -> bool:
    """As the match compares: null is null, NaN is NaN, and there is one zero."""
    return bool(one == other or (one is not None and other is not None and math.isnan(one) and math.isnan(other)))


def _told(name: str, capture: _Capture) -> Iterator[dict[str, Any]]:
    """A capture as the audit trail keeps it: each of its rows, or that it has none."""
    if capture.lacks and name != "fourth":
        yield {"capture": name, "values": None}
    for row in capture.rows:
        times = {name: row[name].isoformat() for name in _TIMES if isinstance(row.get(name), datetime)}
        channel = {"channel": row["channel"]} if "channel" in row else {}
        yield {"capture": name, "values": {name: row[name] for name in VALUES}, **times, **channel}


def _json(value: Any) -> str:
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    """The same, with numbers that JSON does not know as text."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
