"""Why a bar is not there: the causes of a gap, and the evidence that proves each.

Lives here: what may be said of a minute that a capture or both captures lack, and the proof of it as JSON. Does not:
where the evidence comes from (evidence.py), or in which state a minute is (ledger.py).

- **not_listed_yet, delisted**: the universe says when the symbol was listed, or the download of the day found out: the exchange's
  own listing, its status, the symbol's first or last bar.
- **exchange_halt**. On spot the exchange omits a minute in which it halts, and which minutes it omits differs from symbol to
  symbol. So one symbol is enough: two answers of the exchange lack the minute, and so does the streamed capture, which did
  capture the symbol at some time of the interval, or was running then. How many symbols are halted in the same
  minute is in the proof: the more, the better it is. On futures a minute is never omitted: a halt is a block of flat bars of nearly all symbols
  (flat_blocks.halts), and a bar that is lacking is never explained by one.
- **our_outage**: the connection log says that no stream of ours was connected for the whole of the minute.
- **lost**: a stream was connected, for some time of the minute at least, and yet the bar is not there.
- **unknown**: nobody was watching, or what is known contradicts itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ohlcv_assets.instruments import Market, Symbol, shard
from ohlcv_assets.quality.grid import Grid, Mask
from ohlcv_assets.storage.lake import ABSENT_SCHEMA
from ohlcv_assets.storage.quality_store import STREAM_MINUTES_SCHEMA
from ohlcv_assets.timestamps import MINUTE_MS

if TYPE_CHECKING:
    from ohlcv_assets.listing_times import ListingTimes

REPAIRED_SCHEMA: dict[str, pl.DataType] = {"symbol": pl.String(), "timestamp": pl.Int64(), "repair": pl.Int64()}


class Cause(StrEnum):
    """Why a minute is not there, or stands still."""

    NOT_LISTED_YET = "not_listed_yet"
    DELISTED = "delisted"
    EXCHANGE_HALT = "exchange_halt"
    OUR_OUTAGE = "our_outage"
    LOST = "lost"
    UNKNOWN = "unknown"


#: Causes by the number that stands for them in an array; 0 is none.
CAUSES: tuple[Cause | None, ...] = (None, *Cause)
CODE: dict[Cause, int] = {cause: number for number, cause in enumerate(CAUSES) if cause is not None}


def _empty(schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame(schema=schema)


@dataclass(frozen=True)
class Evidence:
    """What is known beside the bars. All of it may be empty: then gaps are of unknown cause.

    Attributes:
        listing: when each symbol was listed; one that is not in it is taken for listed at any time.
        absent: `ABSENT_SCHEMA`: minutes that two answers of the exchange lack, or that were not listed.
        stream_minutes: `STREAM_MINUTES_SCHEMA`: the connection log.
        repaired: `REPAIRED_SCHEMA`: bars that a repair has changed; `repair` is its number in the audit trail, or null.
    """

    listing: Mapping[Symbol, ListingTimes] = field(default_factory=dict)
    absent: pl.DataFrame = field(default_factory=lambda: _empty(ABSENT_SCHEMA))
    stream_minutes: pl.DataFrame = field(default_factory=lambda: _empty(STREAM_MINUTES_SCHEMA))
    repaired: pl.DataFrame = field(default_factory=lambda: _empty(REPAIRED_SCHEMA))


@dataclass(frozen=True)
class Known:
    """The evidence laid out on a grid; every array is flat, one value a place.

    Attributes:
        not_listed: code of `not_listed_yet` or `delisted`, 0 where it was listed or nobody says.
        by_universe: whether the universe says so, and not only the day's download; the minute of a settlement is left out.
        absent: code of the cause that the day's download gave, 0 where it found the bar or nobody says.
        proof: number of the text in `texts` that proves `not_listed` or `absent`.
        connected_s: how many seconds of the minute a stream of ours was connected; NaN where the log is silent.
        texts: the proofs, JSON; number 0 is none.
    """

    grid: Grid
    not_listed: NDArray[np.int8]
    by_universe: Mask
    absent: NDArray[np.int8]
    proof: NDArray[np.int32]
    connected_s: NDArray[np.float64]
    texts: tuple[str | None, ...]


def lay_out(evidence: Evidence, market: Market, grid: Grid) -> Known:
    """Lay the evidence out on a grid.

    Args:
        evidence: may speak of other symbols and times; they are not looked at.
        market: the connection log is read for.
        grid: symbols and minutes.
    """
    texts: dict[str | None, int] = {None: 0}
    proof = np.zeros(grid.size, dtype=np.int32)
    absent = _absent(evidence.absent, grid, proof, texts)
    not_listed = np.where(np.isin(absent, _NOT_LISTED), absent, 0).astype(np.int8)
    by_universe = _by_universe(evidence.listing, grid, not_listed, proof, texts)
    connected_s = _connected_s(evidence.stream_minutes, market, grid)
    return Known(grid, not_listed, by_universe, absent, proof, connected_s, tuple(texts))


def gap_causes(known: Known, lacks_streamed: Mask, lacks_fetched: Mask) -> NDArray[np.int8]:
    """The code of the cause of every bar that one capture or both lack; 0 where both have it. Halts are the caller's to say.

    Args:
        known: the evidence.
        lacks_streamed: places of which the streamed side has no bar.
        lacks_fetched: the same of the fetched side.
    """
    causes = np.zeros(known.grid.size, dtype=np.int8)
    # The bar that is lacking is the streamed one: the log says who was watching.
    watched = np.where(known.connected_s == 0, CODE[Cause.OUR_OUTAGE], CODE[Cause.LOST])
    causes[lacks_streamed] = np.where(np.isnan(known.connected_s), CODE[Cause.UNKNOWN], watched)[lacks_streamed]
    # What the exchange itself lacks cannot be our outage; what it had once and has no more is unknown too.
    causes[lacks_fetched & (~lacks_streamed | (known.absent > 0))] = CODE[Cause.UNKNOWN]
    return causes


def omitted_by_the_exchange(known: Known, market: Market, lacks_streamed: Mask, lacks_fetched: Mask) -> Mask:
    """Whether two independent captures agree that the exchange has no bar: a halt of spot (see above)."""
    if market is not Market.SPOT:
        return np.zeros(known.grid.size, dtype=np.bool_)
    captured = ~known.grid.table(lacks_streamed).all(axis=1)
    witnessed = np.repeat(captured, known.grid.minutes) | ~np.isnan(known.connected_s)
    omitted: Mask = (known.absent == CODE[Cause.EXCHANGE_HALT]) & lacks_streamed & lacks_fetched & witnessed
    return omitted


def proof_of(cause: Cause, facts: Mapping[str, Any], text: str | None) -> str:
    """The proof of a cause over a range, as JSON.

    Args:
        cause: what is to be proven.
        facts: the numbers of the range.
        text: what the download of the day or the universe says, JSON.
    """
    told: Any = None if text is None else _parsed(text)
    if cause in (Cause.NOT_LISTED_YET, Cause.DELISTED):
        return json.dumps(told, ensure_ascii=False)
    said = {name: facts[name] for name in _FACTS[cause] if facts.get(name) is not None}
    if cause is Cause.UNKNOWN:
        said["why"] = _why_unknown(facts, told)
    return json.dumps({**said, **({} if told is None else {"download": told})}, ensure_ascii=False)


def _why_unknown(facts: Mapping[str, Any], told: Any) -> str:
    if told is not None:
        return "the exchange lacked it when the day was downloaded"
    if facts.get("is_streamed"):
        return "it was streamed, and the fetched side lacks it"
    return "no connection log speaks of it"


_NOT_LISTED = (CODE[Cause.NOT_LISTED_YET], CODE[Cause.DELISTED])
_FACTS: dict[Cause, tuple[str, ...]] = {
    Cause.EXCHANGE_HALT: ("seen_as", "symbols", "symbols_halted_least", "symbols_halted_most", "connected_s"),
    Cause.OUR_OUTAGE: ("connected_s",),
    Cause.LOST: ("connected_s",),
    Cause.UNKNOWN: ("connected_s",),
}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _absent(
    absent: pl.DataFrame, grid: Grid, proof: NDArray[np.int32], texts: dict[str | None, int]
) -> NDArray[np.int8]:
    """The code of the download's cause at each place, and its proof into `proof`."""
    found = np.zeros(grid.size, dtype=np.int8)
    # Sorted, so that the order of the rows does not matter where a minute is named twice.
    rows = absent.sort(*ABSENT_SCHEMA, nulls_last=True)
    places = grid.places(rows)
    rows = rows.filter(pl.Series(places >= 0))
    places = places[places >= 0]
    numbers = [texts.setdefault(text, len(texts)) for text in rows["proof"].unique(maintain_order=True)]
    by_text = pl.DataFrame({"proof": rows["proof"].unique(maintain_order=True), "number": numbers})
    codes = rows["cause"].replace_strict(
        {str(cause): code for cause, code in CODE.items()}, default=CODE[Cause.UNKNOWN]
    )
    found[places] = codes.cast(pl.Int8).to_numpy()
    numbered = rows.select("proof").join(by_text, on="proof", how="left", nulls_equal=True, maintain_order="left")
    proof[places] = numbered["number"].cast(pl.Int32).to_numpy()
    return found


def _by_universe(
    listing: Mapping[Symbol, ListingTimes],
    grid: Grid,
    not_listed: NDArray[np.int8],
    proof: NDArray[np.int32],
    texts: dict[str | None, int],
) -> Mask:
    """Note in `not_listed` and `proof` what the universe says, and where it says so."""
    found = np.zeros(grid.size, dtype=np.bool_)
    for number, symbol in enumerate(grid.symbols):
        times = listing.get(cast("Symbol", symbol))
        if times is None:
            continue
        listed = _listed(times, grid)
        if listed.all():
            continue
        here = slice(number * grid.minutes, (number + 1) * grid.minutes)
        before = ~listed & (grid.starts_ms + MINUTE_MS <= (times.since_ms or 0))
        text = json.dumps({"listed": [str(span) for span in times.spans], "source": times.source}, ensure_ascii=False)
        not_listed[here] = np.where(before, _NOT_LISTED[0], np.where(listed, not_listed[here], _NOT_LISTED[1]))
        proof[here] = np.where(listed, proof[here], texts.setdefault(text, len(texts)))
        # The minute of a settlement can have volume: that is no sign of a wrong time.
        settled = [span.until_ms for span in times.spans if span.until_ms is not None]
        found[here] = ~listed & ~np.isin(grid.starts_ms, [until_ms + -until_ms % MINUTE_MS for until_ms in settled])
    return found


def _listed(times: ListingTimes, grid: Grid) -> Mask:
    """Whether the symbol was listed at some time of each minute."""
    listed = np.zeros(grid.minutes, dtype=np.bool_)
    for span in times.spans:
        began = True if span.since_ms is None else grid.starts_ms + MINUTE_MS > span.since_ms
        ended = False if span.until_ms is None else grid.starts_ms >= span.until_ms
        listed |= began & ~np.asarray(ended)
    return listed


def _connected_s(log: pl.DataFrame, market: Market, grid: Grid) -> NDArray[np.float64]:
    """How long a stream of ours was connected, by place: the runs of a minute together, 60 s at most; NaN: no row."""
    found = np.full((len(grid.symbols), grid.minutes), np.nan)
    rows = log.filter(pl.col("market") == market.value).drop_nulls(["minute_ms", "shard", "connected_s"])
    rows = rows.group_by("shard", timestamp="minute_ms").agg(pl.sum("connected_s")).sort("shard", "timestamp")
    one = Grid(("all",), grid.interval)
    for (part,), minutes in rows.group_by("shard", maintain_order=True):
        places = one.places(minutes.select(symbol=pl.lit("all"), timestamp="timestamp"))
        told = np.full(grid.minutes, np.nan)
        told[places[places >= 0]] = minutes["connected_s"].to_numpy()[places >= 0]
        index, _, count = str(part).partition("/")
        members = set(shard(cast("tuple[Symbol, ...]", grid.symbols), int(index) - 1, int(count)))
        inside = np.array([symbol in members for symbol in grid.symbols], dtype=np.bool_)
        known = np.fmax(found[inside], 0) + told
        found[inside] = np.where(np.isnan(told), found[inside], known)
    seconds: NDArray[np.float64] = np.minimum(found, 60.0).reshape(-1)
    return seconds
