"""The ledger: every expected minute of every symbol in exactly one state, with the cause and the proof of every gap.

Lives here: the states, and how two captures and the evidence make them. Does not: the causes (causes.py), gathering the
evidence (evidence.py), or storing a ledger (storage/quality_store.py). Pure: frames come in, a `Ledger` goes out.

What is seen decides first. A bar that both captures have is confirmed, repaired, halted or differing, whatever a listing
says; only where both lack it the evidence decides. A bar that stands twice on a side is not the same on both.

| state | streamed | fetched | |
|---|---|---|---|
| confirmed | there | there | the same in every value |
| repaired | there | there | the same, since a repair |
| halted | there | there | the same: flat, as nearly all symbols are at once (futures) |
| differing | there | there | not the same, or one of them twice |
| streamed_only | there | - | |
| fetched_only | - | there | |
| halted | - | - | two captures agree that the exchange omitted it (spot) |
| not_listed | - | - | the symbol was not listed |
| missing | - | - | none of these |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ohlcv_assets.bars import conform
from ohlcv_assets.instruments import Market
from ohlcv_assets.quality.causes import (
    CAUSES,
    CODE,
    Cause,
    Evidence,
    Known,
    gap_causes,
    lay_out,
    omitted_by_the_exchange,
    proof_of,
)
from ohlcv_assets.quality.flat_blocks import FLAT, halts
from ohlcv_assets.quality.grid import Grid, Mask, Places
from ohlcv_assets.quality.match import differing_rows
from ohlcv_assets.storage.quality_store import RANGES_SCHEMA
from ohlcv_assets.timestamps import MINUTE_MS, Interval


class State(StrEnum):
    """What is known of an expected minute."""

    CONFIRMED = "confirmed"
    REPAIRED = "repaired"
    HALTED = "halted"
    NOT_LISTED = "not_listed"
    STREAMED_ONLY = "streamed_only"
    FETCHED_ONLY = "fetched_only"
    DIFFERING = "differing"
    MISSING = "missing"


#: States whose bar, where there is one, two captures agree about.
VERIFIED = frozenset({State.CONFIRMED, State.REPAIRED, State.HALTED})
#: States that a person must look at, or a repair.
UNEXPLAINED = frozenset({State.STREAMED_ONLY, State.FETCHED_ONLY, State.DIFFERING, State.MISSING})

_STATES = tuple(State)
_STATE_CODE = {state: number for number, state in enumerate(_STATES)}
MINUTES_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "timestamp": pl.Int64(),
    "state": pl.String(),
    "cause": pl.String(),
    "proof": pl.String(),
}


@dataclass(frozen=True)
class Ledger:
    """The states of an interval.

    Attributes:
        market: of all of it.
        interval: whose minutes are meant.
        symbols: what was expected, sorted, each once.
        ranges: `RANGES_SCHEMA`, sorted by symbol and start: minutes on end with the same state, cause and proof.
        unlisted_trades: `symbol, timestamp` of bars with volume in minutes in which the universe says that the symbol was not
            listed: the universe's times are wrong.
        fetched_hash: content hash of the fetched day that was compared; "" for no such day, None where nobody says.
        streamed_until: the newest knowledge_timestamp among the streamed bars that were compared.
    """

    market: Market
    interval: Interval
    symbols: tuple[str, ...]
    ranges: pl.DataFrame
    unlisted_trades: pl.DataFrame
    fetched_hash: str | None = None
    streamed_until: datetime | None = None

    @property
    def expected(self) -> int:
        """Symbols times minutes."""
        return len(self.symbols) * len(self.interval.minutes)

    def counts(self) -> dict[State, int]:
        """How many minutes are in each state, every state named; they sum up to `expected`."""
        minutes = (pl.col("end") - pl.col("start")).sum() // MINUTE_MS
        counted = dict(self.ranges.group_by("state").agg(minutes).iter_rows())
        return {state: counted.get(state.value, 0) for state in State}

    def unexplained(self) -> int:
        """How many minutes a person, or a repair, must look at."""
        return sum(count for state, count in self.counts().items() if state in UNEXPLAINED)

    def gaps(self) -> pl.DataFrame:
        """The ranges of every state but confirmed (`RANGES_SCHEMA`), the unexplained first, then the longest."""
        worst = pl.col("state").is_in([state.value for state in UNEXPLAINED])
        rest = self.ranges.filter(pl.col("state") != State.CONFIRMED.value)
        return rest.sort(
            worst, pl.col("end") - pl.col("start"), "symbol", "start", descending=[True, True, False, False]
        )

    def minutes(self) -> pl.DataFrame:
        """One row a minute: `symbol, timestamp, state, cause, proof`, sorted by symbol and time."""
        spread = pl.int_ranges("start", "end", MINUTE_MS).alias("timestamp")
        return self.ranges.with_columns(spread).explode("timestamp", empty_as_null=False).select(list(MINUTES_SCHEMA))


def ledger(
    streamed: pl.DataFrame,
    fetched: pl.DataFrame,
    symbols: Collection[str],
    market: Market,
    interval: Interval,
    evidence: Evidence,
) -> Ledger:
    """Put every expected minute into exactly one state.

    Args:
        streamed: bars of one capture, rows with the key and value columns; rows that were not expected are not looked at.
        fetched: bars of the other.
        symbols: what was expected; copies count once.
        market: rows of another one are not looked at.
        interval: half-open, UTC.
        evidence: what is known of the gaps.

    Raises:
        InvalidBars: a key or value column is absent or of another dtype.
    """
    grid = Grid.of(symbols, interval)
    sides = _Sides.of(streamed, fetched, market, grid)
    known = lay_out(evidence, market, grid)
    halted = omitted_by_the_exchange(known, market, sides.lacks_streamed, sides.lacks_fetched)
    standing = _standing_still(sides.fetched, market, grid)
    repaired = _repaired(evidence.repaired, grid)
    states = _states(sides, known, halted, standing, repaired > 0)
    causes = _causes(states, sides, known)
    ranges = _ranges(_Laid(grid, market, states, causes, known, repaired))
    trades = np.flatnonzero(known.by_universe & sides.traded)
    return Ledger(market, interval, grid.symbols, ranges, grid.keys(trades))


@dataclass(frozen=True)
class _Sides:
    """Both captures on the grid: whether each place is empty, whether something traded, and whether both are the same."""

    fetched: pl.DataFrame
    lacks_streamed: Mask
    lacks_fetched: Mask
    equal: Mask
    traded: Mask

    @classmethod
    def of(cls, streamed: pl.DataFrame, fetched: pl.DataFrame, market: Market, grid: Grid) -> _Sides:
        left, left_places = _placed(streamed, market, grid)
        right, right_places = _placed(fetched, market, grid)
        left_rows, right_rows = (np.bincount(places, minlength=grid.size) for places in (left_places, right_places))
        pairs = np.flatnonzero((left_rows == 1) & (right_rows == 1))
        differs = differing_rows(_at(left, left_places, pairs, grid), _at(right, right_places, pairs, grid))
        equal, traded = np.zeros(grid.size, dtype=np.bool_), np.zeros(grid.size, dtype=np.bool_)
        equal[pairs[~differs.to_numpy()]] = True
        for side, places in ((left, left_places), (right, right_places)):
            traded[places[(side["volume"] > 0).fill_null(value=False).to_numpy()]] = True
        return cls(right, left_rows == 0, right_rows == 0, equal, traded)


def _placed(bars: pl.DataFrame, market: Market, grid: Grid) -> tuple[pl.DataFrame, Places]:
    """The rows that belong to the grid, and where."""
    rows = conform(bars)
    places = grid.places(rows)
    here = (rows["market"] == market.value).fill_null(value=False).to_numpy() & (places >= 0)
    return (rows, places) if here.all() else (rows.filter(pl.Series(here)), places[here])


def _at(side: pl.DataFrame, places: Places, wanted: Places, grid: Grid) -> pl.DataFrame:
    """The rows at the wanted places, in their order."""
    if len(places) == len(wanted) and np.array_equal(places, wanted):
        return side
    row = np.zeros(grid.size, dtype=np.int64)
    row[places] = np.arange(len(places))
    return side[row[wanted]]


def _standing_still(fetched: pl.DataFrame, market: Market, grid: Grid) -> Mask:
    """Whether the bar is flat while nearly all symbols are: how a halt of futures looks like."""
    found = halts(fetched) if market is Market.FUTURES else pl.DataFrame()
    if found.is_empty():
        return np.zeros(grid.size, dtype=np.bool_)
    during = pl.any_horizontal(
        pl.col("timestamp").is_between(start, end, closed="left")
        for start, end in found.select("start", "end").iter_rows()
    )
    return grid.mask(fetched.filter(FLAT & during))


def _repaired(repaired: pl.DataFrame, grid: Grid) -> Places:
    """The number of the last repair of each place; 1 where it has none, 0 where nothing was repaired."""
    found = np.zeros(grid.size, dtype=np.int64)
    rows = repaired.sort("repair", nulls_last=False)
    places = grid.places(rows)
    numbers = rows["repair"].fill_null(1).to_numpy()
    found[places[places >= 0]] = numbers[places >= 0]
    return found


def _states(sides: _Sides, known: Known, halted: Mask, standing: Mask, repaired: Mask) -> NDArray[np.int8]:
    """The state of every place: the last of these that holds."""
    lacks_both = sides.lacks_streamed & sides.lacks_fetched
    rules = (
        (State.STREAMED_ONLY, ~sides.lacks_streamed & sides.lacks_fetched),
        (State.FETCHED_ONLY, sides.lacks_streamed & ~sides.lacks_fetched),
        (State.DIFFERING, ~sides.lacks_streamed & ~sides.lacks_fetched),
        (State.CONFIRMED, sides.equal),
        (State.HALTED, (sides.equal & standing) | halted),
        (State.REPAIRED, sides.equal & repaired),
        (State.NOT_LISTED, lacks_both & (known.not_listed > 0)),
    )
    states = np.full(len(lacks_both), _STATE_CODE[State.MISSING], dtype=np.int8)
    for state, holds in rules:
        states[holds] = _STATE_CODE[state]
    return states


def _causes(states: NDArray[np.int8], sides: _Sides, known: Known) -> NDArray[np.int8]:
    causes = gap_causes(known, sides.lacks_streamed, sides.lacks_fetched)
    causes[states == _STATE_CODE[State.HALTED]] = CODE[Cause.EXCHANGE_HALT]
    unlisted = states == _STATE_CODE[State.NOT_LISTED]
    causes[unlisted] = known.not_listed[unlisted]
    return causes


@dataclass(frozen=True)
class _Laid:
    """Everything that the ranges are made of, one value a place."""

    grid: Grid
    market: Market
    states: NDArray[np.int8]
    causes: NDArray[np.int8]
    known: Known
    repaired: Places


def _ranges(laid: _Laid) -> pl.DataFrame:
    """Run-length encode the states, and prove what needs a proof."""
    grid = laid.grid
    if not grid.size:
        return pl.DataFrame(schema=RANGES_SCHEMA)
    proof = np.where(laid.causes > 0, laid.known.proof, 0)
    begins = np.zeros(grid.size, dtype=np.bool_)
    begins[:: grid.minutes] = True
    for values in (laid.states, laid.causes, proof):
        begins[1:] |= values[1:] != values[:-1]
    first = np.flatnonzero(begins)
    last = np.append(first[1:], grid.size) - 1
    keys, ends = grid.keys(first), grid.keys(last)["timestamp"] + MINUTE_MS
    states = pl.Series("state", [state.value for state in _STATES], dtype=pl.String).gather(laid.states[first])
    causes = pl.Series("cause", [cause and cause.value for cause in CAUSES], dtype=pl.String).gather(
        laid.causes[first]
    )
    proofs = pl.Series("proof", _proofs(laid, proof, first, last), dtype=pl.String)
    return pl.DataFrame([keys["symbol"], keys["timestamp"].alias("start"), ends.alias("end"), states, causes, proofs])


def _proofs(laid: _Laid, proof: NDArray[np.int32], first: Places, last: Places) -> list[str | None]:
    """The proof of each range; null for what needs none."""
    told: list[str | None] = [None] * len(first)
    needed = np.flatnonzero((laid.causes[first] > 0) | (laid.states[first] == _STATE_CODE[State.REPAIRED]))
    if not len(needed):
        return told
    facts = _facts(laid, first)
    # The same numbers are often said of many ranges.
    written: dict[tuple[Any, ...], str] = {}
    for number in needed.tolist():
        cause, text = CAUSES[laid.causes[first[number]]], laid.known.texts[proof[first[number]]]
        said = {name: values[number] for name, values in facts.items()}
        key = (cause, text, *said.values())
        if key not in written:
            written[key] = _repair_proof(said) if cause is None else proof_of(cause, said, text)
        told[number] = written[key]
    return told


def _facts(laid: _Laid, first: Places) -> dict[str, list[Any]]:
    """The numbers of every range that begins at `first`."""
    grid, count = laid.grid, len(first)
    halted = grid.table(laid.states == _STATE_CODE[State.HALTED]).sum(axis=0)
    everywhere = np.tile(halted, len(grid.symbols))
    connected_s = np.add.reduceat(laid.known.connected_s, first)
    how = "flat bars without volume" if laid.market is Market.FUTURES else "lacking in two answers and in the stream"
    return {
        "seen_as": [how] * count,
        "symbols": [len(grid.symbols)] * count,
        "symbols_halted_least": np.minimum.reduceat(everywhere, first).tolist(),
        "symbols_halted_most": np.maximum.reduceat(everywhere, first).tolist(),
        "connected_s": [None if np.isnan(s) else round(s, 1) for s in connected_s.tolist()],
        "is_streamed": (laid.states[first] == _STATE_CODE[State.STREAMED_ONLY]).tolist(),
        "last_repair": np.maximum.reduceat(laid.repaired, first).tolist(),
    }


def _repair_proof(said: Mapping[str, Any]) -> str:
    return f'{{"last_repair": {said["last_repair"]}}}'
