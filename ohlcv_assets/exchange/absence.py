"""Why the exchange has no bar of a minute that was asked for: what one download of a day can find out.

Lives here: telling a symbol that was not listed from minutes that the exchange omits, and the few questions that this takes.
Does not: asking for the bars (fetch.py), or the last word (quality/causes.py), which compares with what was streamed.
A `Fetched` comes in; one row a minute goes out, with the cause and, as JSON, its proof.

- Before its listing or after its delisting, as the exchange's listing or a universe says: `not_listed_yet`, `delisted`.
- Where nobody says since when a symbol is listed (spot), its first bar does. It is asked for when the symbol lacks the day's
  first minutes. Before that bar: `not_listed_yet`.
- A symbol that does not trade now, while most others do, and whose last bar is before the minutes that it lacks up to the
  day's end: `delisted`.
- Everything else that two answers lack: `exchange_halt` on spot, which omits the minutes of a halt; `unknown` on futures,
  which never omits a minute, and of symbols whose past the exchange refuses.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from ohlcv_assets.exchange.binance import Exchange
from ohlcv_assets.exchange.fetch import CONCURRENCY, MINUTES_SCHEMA, Fetched, in_parallel
from ohlcv_assets.exchange.snapshot import nearest_bar
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.timestamps import MINUTE_MS, Interval, iso, label_end, runs_of_minutes

NOT_LISTED_YET, DELISTED, EXCHANGE_HALT, UNKNOWN = "not_listed_yet", "delisted", "exchange_halt", "unknown"
#: One row a minute; `proof` is JSON.
ABSENCES_SCHEMA: dict[str, pl.DataType] = {**MINUTES_SCHEMA, "cause": pl.String(), "proof": pl.String()}
#: A symbol that does not trade tells nothing about itself while so few of the others do.
_TRADING_SHARE = 0.5

_Row = tuple[str, int, str, str]


@dataclass(frozen=True)
class _Edges:
    """What a symbol's own bars say about it: the start of its first or last bar, where it was asked for."""

    first_ms: int | None = None
    first_asked: bool = False
    last_ms: int | None = None
    last_asked: bool = False


class NearestBars:
    """The first and the last bars of symbols of one exchange, each asked for once, for all the days of a download."""

    def __init__(self) -> None:
        self._asked: dict[tuple[Symbol, str], asyncio.Future[int | None]] = {}

    async def first_ms(self, exchange: Exchange, symbol: Symbol) -> int | None:
        """The start of its first bar; None when two answers have none."""
        return await self._once((symbol, "first"), lambda: nearest_bar(exchange, symbol, after_ms=0))

    async def last_ms(self, exchange: Exchange, symbol: Symbol) -> int | None:
        """The start of its last bar by now; None when two answers have none."""
        return await self._once((symbol, "last"), lambda: nearest_bar(exchange, symbol))

    async def _once(self, key: tuple[Symbol, str], ask: Callable[[], Coroutine[Any, Any, int | None]]) -> int | None:
        # The question is kept, and not its answer: days are looked at side by side.
        if key not in self._asked:
            self._asked[key] = asyncio.ensure_future(ask())
        return await self._asked[key]


async def absences(
    exchange: Exchange, fetched: Fetched, interval: Interval, nearest: NearestBars | None = None
) -> pl.DataFrame:
    """Why each minute is not there that was asked for and not brought.

    Args:
        exchange: the opened market.
        fetched: what `fetch_bars` brought of the interval.
        interval: what was asked for.
        nearest: shared by several calls, so that a symbol is asked about once.

    Returns:
        `ABSENCES_SCHEMA`, sorted by (symbol, timestamp): a row for each minute of `missing` and `not_listed`.

    Raises:
        TransientError: the exchange did not answer, however often it was asked.
    """
    end_ms = min(interval.end_ms, fetched.until_ms)
    missing = {
        Symbol(str(symbol)): runs_of_minutes(minutes["timestamp"].to_list())
        for (symbol,), minutes in fetched.missing.group_by("symbol")
    }
    trades, nearest = _most_trade(exchange), nearest or NearestBars()
    rows = list(_not_listed(exchange, fetched))

    async def explain(symbol: Symbol, runs: Sequence[Interval]) -> None:
        if symbol in fetched.refused:
            rows.extend(_rows(symbol, runs, UNKNOWN, {"refusal": fetched.refused[symbol]}))
            return
        within = Interval(interval.start_ms, end_ms)
        edges = await _edges(exchange, nearest, symbol, runs, within, trades=trades)
        rows.extend(_of_symbol(exchange, symbol, runs, edges))

    await in_parallel((explain(symbol, runs) for symbol, runs in sorted(missing.items())), CONCURRENCY)
    return pl.DataFrame(rows, schema=ABSENCES_SCHEMA, orient="row").sort("symbol", "timestamp")


def _not_listed(exchange: Exchange, fetched: Fetched) -> Iterator[_Row]:
    """What listing and universe say already."""
    for (name,), minutes in fetched.not_listed.group_by("symbol"):
        symbol = Symbol(str(name))
        listed = exchange.listing[symbol]
        since_ms = listed.listed_since_ms or 0
        proof: dict[str, Any] = {"listed_since": iso(since_ms) if since_ms else None, "status": listed.status}
        if listed.delisted_ms is not None:
            proof["delisted"] = iso(listed.delisted_ms)
        if listed.times is not None:
            proof |= {"listed": [str(span) for span in listed.times.spans], "source": listed.times.source}
        for minute_ms in minutes["timestamp"].to_list():
            cause = NOT_LISTED_YET if label_end(minute_ms) <= since_ms else DELISTED
            yield symbol, minute_ms, cause, _json(proof)


async def _edges(
    exchange: Exchange,
    nearest: NearestBars,
    symbol: Symbol,
    runs: Sequence[Interval],
    within: Interval,
    *,
    trades: bool,
) -> _Edges:
    """Ask for the first bar of a symbol that lacks the beginning, and for the last one of a symbol that lacks the end."""
    listed = exchange.listing[symbol]
    edges = _Edges()
    if listed.listed_since_ms is None and runs[0].start_ms == within.start_ms:
        edges = _Edges(first_ms=await nearest.first_ms(exchange, symbol), first_asked=True)
    if trades and not listed.active and runs[-1].end_ms == within.end_ms:
        last_ms = await nearest.last_ms(exchange, symbol)
        edges = _Edges(edges.first_ms, edges.first_asked, last_ms, last_asked=True)
    return edges


def _of_symbol(exchange: Exchange, symbol: Symbol, runs: Sequence[Interval], edges: _Edges) -> Iterator[_Row]:
    """The rows of one symbol, whose edges are known."""
    asked = {"asked": iso(exchange.clock.now_ms())}
    for number, run in enumerate(runs):
        rest: Interval | None = run
        if number == 0 and edges.first_asked and (before := _before(run, edges.first_ms)) is not None:
            first = None if edges.first_ms is None else iso(edges.first_ms)
            yield from _rows(symbol, [before], NOT_LISTED_YET, {"first_bar": first, **asked})
            rest = Interval(before.end_ms, run.end_ms) if before.end_ms < run.end_ms else None
        if rest is None:
            continue
        if (
            number == len(runs) - 1
            and edges.last_asked
            and edges.last_ms is not None
            and edges.last_ms < rest.start_ms
        ):
            proof = {"status": exchange.listing[symbol].status, "last_bar": iso(edges.last_ms), **asked}
            yield from _rows(symbol, [rest], DELISTED, proof)
            continue
        cause = EXCHANGE_HALT if exchange.market is Market.SPOT else UNKNOWN
        yield from _rows(symbol, [rest], cause, {"answers": 2, **asked})


def _before(run: Interval, first_ms: int | None) -> Interval | None:
    """The part of a run before the first bar; all of it where two answers have no bar at all."""
    return run if first_ms is None else run.intersect(Interval(0, max(first_ms, 1)))


def _rows(symbol: Symbol, runs: Sequence[Interval], cause: str, proof: dict[str, Any]) -> Iterator[_Row]:
    text = _json(proof)
    for run in runs:
        for minute_ms in range(run.start_ms, run.end_ms, MINUTE_MS):
            yield symbol, minute_ms, cause, text


def _most_trade(exchange: Exchange) -> bool:
    """Whether the market as a whole trades, so that a symbol that does not is alone."""
    listed = [entry for entry in exchange.listing.values() if not entry.gone]
    return sum(entry.active for entry in listed) >= _TRADING_SHARE * len(listed)


def _json(proof: dict[str, Any]) -> str:
    return json.dumps(proof, ensure_ascii=False)
