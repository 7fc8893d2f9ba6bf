"""Every finished bar of an interval by REST, or an error; never a short page.

Lives here: paging on the minute grid, comparing each page with the grid, asking again for what it lacks, and naming
what two answers agree to lack. Does not: one request and its errors (binance.py), the wire form (klines.py), or
storing. Klines come in from the exchange; a frame of `CAPTURED_SCHEMA` goes out, with what is missing beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from ohlcv_assets.bars import CAPTURED_SCHEMA
from ohlcv_assets.errors import UnknownSymbol
from ohlcv_assets.exchange import klines
from ohlcv_assets.exchange.binance import PAGE_MINUTES, Exchange
from ohlcv_assets.exchange.budget import Lane
from ohlcv_assets.exchange.retrying import ATTEMPTS, patiently
from ohlcv_assets.instruments import Symbol
from ohlcv_assets.logs import get_logger
from ohlcv_assets.timestamps import MINUTE_MS, Interval, floor_to, runs_of_minutes

#: (bars settled, bars expected): called whenever some more are settled.
Progress = Callable[[int, int], None]

MINUTES_SCHEMA: dict[str, pl.DataType] = {"symbol": pl.String(), "timestamp": pl.Int64()}
CONCURRENCY = 8

#: Between two answers that lack a minute pass this many exchange seconds: two questions at once are one witness.
_RECHECK_AFTER_S = 1.0
_log = get_logger()


@dataclass(frozen=True)
class Fetched:
    """What a fetch brought. Every minute asked for is in exactly one of `bars`, `missing` and `not_listed`.

    Attributes:
        bars: `CAPTURED_SCHEMA`, sorted by (symbol, timestamp), each bar once.
        missing: (symbol, timestamp) of finished minutes that two answers agree not to have, sorted.
        not_listed: (symbol, timestamp) of minutes in which the symbol was not listed. Those before its listing are not
            asked for; those after its delisting are, and are here when there is no bar.
        until_ms: the end of what was asked for: minutes from here on were not finished, and are in no frame.
        requests: questions to the exchange.
        weight: the request weight they cost.
        refused: symbols that the exchange lists no more and has no bars of, with its own words: the proof of why their
            minutes are missing.
    """

    bars: pl.DataFrame
    missing: pl.DataFrame
    not_listed: pl.DataFrame
    until_ms: int
    requests: int
    weight: int
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """One page's worth of one symbol, settled: its bars, the minutes that two answers lacked, and a refusal's words."""

    symbol: Symbol
    bars: pl.DataFrame
    lacking: list[int]
    refusal: str | None = None


async def fetch_bars(
    exchange: Exchange,
    symbols: Sequence[str],
    interval: Interval,
    *,
    concurrency: int = CONCURRENCY,
    on_progress: Progress | None = None,
) -> Fetched:
    """Every finished bar of `symbols` whose minute begins in `interval`.

    A minute that is not finished yet by the exchange's clock is not asked for: an interval that reaches beyond now is
    fetched up to the last full minute (`Fetched.until_ms`), and the rest of it is not called missing.

    A symbol that the exchange lists no more is asked for as well when the exchange's listing knows it from a universe
    (`Listing.knowing`): the exchange has bars of the delisted for a long time.

    Args:
        exchange: the opened market.
        symbols: unified symbols, all of this market.
        interval: the minutes asked for, by their start.
        concurrency: requests under way at once.
        on_progress: told (minutes settled, minutes asked for) after each page.

    Raises:
        UnknownSymbol: one of them is not listed, and no universe knows it.
        TransientError: the exchange did not give a whole answer, however often it was asked.
    """
    listed = exchange.listing.require(symbols)
    requests, weight = exchange.usage.requests, exchange.usage.weight
    until_ms = min(interval.end_ms, exchange.finished_until_ms())
    pieces, not_listed = _plan(exchange, listed, interval, until_ms)
    settled = await _fetch_all(exchange, pieces, concurrency, on_progress)
    return Fetched(
        bars=_bars(settled),
        missing=minutes_frame(_lacking(exchange, settled, while_listed=True)),
        not_listed=minutes_frame([*not_listed, *_lacking(exchange, settled, while_listed=False)]),
        until_ms=until_ms,
        requests=exchange.usage.requests - requests,
        weight=exchange.usage.weight - weight,
        refused={piece.symbol: piece.refusal for piece in settled if piece.refusal is not None},
    )


async def fetch_page(
    exchange: Exchange, symbol: Symbol, piece: Interval, *, attempts: int = ATTEMPTS, lane: Lane = Lane.BULK
) -> pl.DataFrame:
    """The finished bars of one page's interval as one healthy answer has them; some may be lacking.

    Bars whose minute was not over for sure when the question was asked are not in it. `lane` says whether it is a
    realtime repair, which goes before bulk work.

    Raises:
        TransientError: no healthy answer after so many attempts.
    """
    async for attempt in patiently(exchange.clock, attempts=attempts):
        with attempt:
            finished_ms = exchange.finished_until_ms()
            answer = await exchange.klines(symbol, piece, lane)
            frame = klines.page_of(exchange.market, symbol, piece, answer.value, answer.received)
            return frame if piece.end_ms <= finished_ms else frame.filter(pl.col("timestamp") < finished_ms)
    raise AssertionError("stamina either returns or raises")


def pages_of(interval: Interval, page_minutes: int) -> list[Interval]:
    """The fewest pieces of at most `page_minutes`, as equal as can be: a day is three pages of 480 on futures."""
    minutes = interval.minutes
    if not minutes:
        return []
    count = -(-len(minutes) // page_minutes)
    whole = Interval(minutes[0], minutes[-1] + MINUTE_MS)
    return list(whole.split(-(-len(minutes) // count) * MINUTE_MS))


def pages_to_ask(
    exchange: Exchange, symbols: Iterable[Symbol], interval: Interval
) -> Iterator[tuple[Symbol, Interval]]:
    """The questions that the interval takes: a page a symbol each, from its listing on, up to its end."""
    for symbol in symbols:
        first_ms = max(interval.start_ms, first_listed_minute(exchange, symbol))
        if first_ms < interval.end_ms:
            for page in pages_of(Interval(first_ms, interval.end_ms), PAGE_MINUTES[exchange.market]):
                yield symbol, page


def minutes_frame(keys: Iterable[tuple[str, int]]) -> pl.DataFrame:
    """(symbol, timestamp) rows, sorted, each once."""
    return pl.DataFrame(sorted(set(keys)), schema=MINUTES_SCHEMA, orient="row")


def first_listed_minute(exchange: Exchange, symbol: Symbol) -> int:
    """The first minute in which the symbol can have traded; 0 where the exchange does not say since when it is listed."""
    return floor_to(exchange.listing[symbol].listed_since_ms or 0, MINUTE_MS)


async def in_parallel(jobs: Iterable[Awaitable[None]], concurrency: int) -> None:
    """Await all of `jobs`, so many at once; the first error cancels the rest and is raised as it is.

    Args:
        jobs: best a generator, so that a job is made only when its turn comes.
        concurrency: how many at once.
    """
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            await job

    workers = [asyncio.create_task(work()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _plan(
    exchange: Exchange, symbols: Sequence[Symbol], interval: Interval, until_ms: int
) -> tuple[list[tuple[Symbol, Interval]], list[tuple[str, int]]]:
    """The pages to ask for, and the (symbol, minute) keys before a listing."""
    not_listed: list[tuple[str, int]] = []
    for symbol in symbols:
        first_ms = min(first_listed_minute(exchange, symbol), until_ms)
        if first_ms > interval.start_ms:
            not_listed += [(symbol, minute) for minute in Interval(interval.start_ms, first_ms).minutes]
    if interval.start_ms >= until_ms:
        return [], not_listed
    return list(pages_to_ask(exchange, symbols, Interval(interval.start_ms, until_ms))), not_listed


async def _fetch_all(
    exchange: Exchange, pieces: Sequence[tuple[Symbol, Interval]], concurrency: int, on_progress: Progress | None
) -> list[Piece]:
    settled: list[Piece] = []
    expected = sum(len(page.minutes) for _, page in pieces)
    done = 0

    async def one(symbol: Symbol, page: Interval) -> None:
        nonlocal done
        settled.append(await _settle(exchange, symbol, page))
        done += len(page.minutes)
        if on_progress is not None:
            on_progress(done, expected)

    await in_parallel((one(symbol, page) for symbol, page in pieces), concurrency)
    return settled


async def _settle(exchange: Exchange, symbol: Symbol, page: Interval) -> Piece:
    """Ask for a page, and again for what it lacks, until nothing is lacking or two answers agree on what is."""
    try:
        frames = [await fetch_page(exchange, symbol, page)]
    except UnknownSymbol as refusal:
        if not exchange.listing[symbol].gone:
            raise
        # It is not in the listing and its past is refused: two witnesses. The others' bars must not be lost for it.
        _log.warning(
            "the exchange has no bars of a symbol that it lists no more", symbol=symbol, refusal=refusal.message
        )
        return Piece(symbol, pl.DataFrame(schema=CAPTURED_SCHEMA), list(page.minutes), refusal.message)
    # As many as there are minutes, and each of them one of these, once (klines.page_of): none is lacking.
    whole = frames[0].height == len(page.minutes)
    lacking = [] if whole else sorted(set(page.minutes) - set(frames[0]["timestamp"].to_list()))
    while lacking:
        await exchange.clock.sleep(_RECHECK_AFTER_S)
        # One question for all that lies between the first and the last of them: a hole a minute would cost one each.
        again = await fetch_page(exchange, symbol, Interval(lacking[0], lacking[-1] + MINUTE_MS))
        found = again.filter(pl.col("timestamp").is_in(lacking))
        if found.is_empty():
            # A page at a time: who asked says how many in all. Dagster's runs log it; a command does with --verbose.
            _log.info("minutes are missing on the exchange", symbol=symbol, runs=[str(run) for run in runs_of_minutes(lacking)][:5], minutes=len(lacking))  # fmt: skip
            break
        frames.append(found)
        lacking = sorted(set(lacking) - set(found["timestamp"].to_list()))
    return Piece(symbol, frames[0] if len(frames) == 1 else pl.concat(frames), lacking)


def _lacking(exchange: Exchange, settled: Sequence[Piece], *, while_listed: bool) -> Iterator[tuple[str, int]]:
    """What no answer had, of the minutes in which the symbol was listed, or of the others."""
    for piece in settled:
        listed = exchange.listing[piece.symbol]
        for minute in piece.lacking:
            if listed.was_listed(minute) is while_listed:
                yield piece.symbol, minute


def _bars(settled: Sequence[Piece]) -> pl.DataFrame:
    frames = [piece.bars for piece in settled]
    return pl.concat([pl.DataFrame(schema=CAPTURED_SCHEMA), *frames]).sort("symbol", "timestamp")
