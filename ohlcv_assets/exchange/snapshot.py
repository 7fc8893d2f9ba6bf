"""A new universe from what the exchange lists now, with the times of every listing and delisting that can be known.

Lives here: which symbols are chosen, and since and until when each was listed, as the exchange's listing and its first and
last bars say. Does not: releasing the universe (instruments.py), or what a person types (cli/universe.py). The listing and
single klines come in from the exchange, a former universe says what was known before; a `Universe` goes out.

The same answers give the same universe: symbols are sorted, equal volumes rank by name, and no time of the snapshot is in
it, but for the end of a symbol that has vanished without a bar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ohlcv_assets.errors import IncompletePage, UnknownSymbol, UsageError
from ohlcv_assets.exchange import klines
from ohlcv_assets.exchange.binance import Answer, Exchange, open_exchange
from ohlcv_assets.exchange.fetch import CONCURRENCY, in_parallel
from ohlcv_assets.exchange.listing import Listed, Listing, likely_name
from ohlcv_assets.exchange.retrying import patiently
from ohlcv_assets.instruments import Market, Symbol, Universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, floor_to, label_end

#: A symbol that the exchange still lists is called delisted when its last bar is so old: the longest halt of the
#: exchange that is known was a day and a half (2018-02-08).
LONGEST_HALT_MS = 3 * DAY_MS
#: Between two answers without a bar pass this many exchange seconds.
_RECHECK_AFTER_S = 1.0

_ONBOARD, _FIRST_BAR, _DELIVERY, _LAST_BAR, _GONE = (
    "onboardDate", "first bar", "deliveryDate", "last bar", "gone from the listing",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """Which symbols of a market a snapshot takes.

    Attributes:
        quotes: quote assets; empty: any.
        statuses: the exchange's words for how a symbol trades; empty: any.
        top: only so many, those with the most quote volume in the last 24 hours.
        symbols: exactly these, whatever the rest says; none of the market when it is empty.
    """

    quotes: frozenset[str] = frozenset({"USDT"})
    statuses: frozenset[str] = frozenset({"TRADING"})
    top: int | None = None
    symbols: tuple[Symbol, ...] | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise UsageError(f"--top {self.top} takes no symbol", hint="give a number above zero, such as --top 50")
        if self.top is not None and len(self.quotes) != 1:
            raise UsageError(
                "the most traded symbols are ranked by the volume of one quote asset",
                hint="give --top 50 with one --quote",
            )


@dataclass(frozen=True)
class Snapshot:
    """What was found.

    Attributes:
        universe: the universe, under the version that was asked for; not released.
        left_out: symbols that were chosen and have no bar yet, sorted.
    """

    universe: Universe
    left_out: list[Symbol] = field(default_factory=list)


async def take_snapshot(
    settings: Settings, choices: Mapping[Market, Choice], former: Universe, keep: Mapping[Market, Sequence[Symbol]]
) -> Snapshot:
    """The universe of what is chosen now and of what is kept.

    Args:
        settings: where the exchange is.
        choices: the markets to look at. Of another market everything is as the former universe says.
        former: the universe whose listing times are known; its version and exchange are the new one's.
        keep: symbols of it that stay, chosen or not, listed or not.

    Raises:
        UnknownSymbol: a hand-picked symbol that the exchange does not list.
        TransientError: the exchange gave no whole answer, however often it was asked.
    """
    symbols: dict[Market, list[str]] = {market: list(keep.get(market, ())) for market in Market}
    listings = {s: former.listings[s] for kept in symbols.values() for s in map(Symbol, kept) if s in former.listings}
    left_out: list[Symbol] = []
    for market, choice in choices.items():
        async with open_exchange(market, settings) as exchange:
            found = await market_times(exchange, choice, former.listings, keep.get(market, ()))
        symbols[market] = [symbol for symbol, times in found.items() if times is not None]
        left_out += [symbol for symbol, times in found.items() if times is None]
        listings |= {symbol: times for symbol, times in found.items() if times is not None}
    universe = Universe.of(former.version, symbols, former.exchange_id, listings)
    return Snapshot(universe, sorted(left_out))


async def market_times(
    exchange: Exchange, choice: Choice, known: Mapping[Symbol, ListingTimes], keep: Sequence[Symbol]
) -> dict[Symbol, ListingTimes | None]:
    """Every symbol chosen or kept, with its listing times; None for one that has no bar yet."""
    exchange.listing = exchange.listing.knowing(_vanished(exchange.listing, known, keep))
    volumes = await quote_volumes(exchange) if choice.top and choice.symbols is None else {}
    found: dict[Symbol, ListingTimes | None] = {}

    async def find(symbol: Symbol) -> None:
        found[symbol] = await _times(exchange, symbol, known.get(symbol))

    wanted = sorted({*chosen(exchange.listing, choice, volumes), *keep})
    await in_parallel((find(symbol) for symbol in wanted), CONCURRENCY)
    return found


def chosen(listing: Listing, choice: Choice, volumes: Mapping[Symbol, float]) -> list[Symbol]:
    """The symbols of a listing that a choice takes, sorted; on futures perpetuals only.

    Args:
        listing: what the exchange lists.
        choice: what is wanted.
        volumes: quote volume of the last 24 hours by symbol, for a choice of the most traded.

    Raises:
        UnknownSymbol: a hand-picked symbol is not listed, or ends on a date.
    """
    if choice.symbols is not None:
        for symbol in listing.require(choice.symbols):
            if not listing[symbol].perpetual:
                raise UnknownSymbol(f"{symbol} ends on a date", hint="choose perpetuals: BTC/USDT:USDT")
        return sorted(set(choice.symbols))
    fitting = sorted(symbol for symbol, listed in listing.items() if _fits(listed, choice))
    if choice.top is None:
        return fitting
    # A stable sort: equal volumes stay in the order of their names.
    return sorted(sorted(fitting, key=lambda symbol: -volumes.get(symbol, 0.0))[: choice.top])


def _fits(listed: Listed, choice: Choice) -> bool:
    return (
        listed.perpetual
        and not listed.gone
        and (not choice.quotes or listed.quote in choice.quotes)
        and (not choice.statuses or listed.status in choice.statuses)
    )


async def quote_volumes(exchange: Exchange) -> dict[Symbol, float]:
    """What every listed symbol traded in the last 24 hours, in its quote asset.

    Raises:
        TransientError: no whole answer, however often it was asked.
    """
    async for attempt in patiently(exchange.clock):
        with attempt:
            return volumes_of(exchange.listing, (await exchange.tickers()).value)
    raise AssertionError("stamina either returns or raises")


def volumes_of(listing: Listing, tickers: object) -> dict[Symbol, float]:
    """The quote volumes in an answer of ticker/24hr; names that are not listed are left out.

    Raises:
        IncompletePage: the answer is no list of volumes.
    """
    if not isinstance(tickers, list) or not tickers:
        raise IncompletePage(f"the tickers are no list but {str(tickers)[:100]}")
    try:
        pairs = [(listing.symbol_of(str(row["symbol"])), float(row["quoteVolume"])) for row in tickers]
    except (KeyError, TypeError, ValueError) as error:
        raise IncompletePage(f"a ticker without its volume: {error!r}") from error
    if not all(0 <= volume < math.inf for _, volume in pairs):
        raise IncompletePage("a ticker whose volume is no volume")
    return {symbol: volume for symbol, volume in pairs if symbol is not None}


def _vanished(
    listing: Listing, known: Mapping[Symbol, ListingTimes], keep: Sequence[Symbol]
) -> dict[Symbol, ListingTimes]:
    """Kept symbols that the exchange lists no more, with what is known of them; without that, under their likely name."""
    likely = Span(None, None, "")
    return {
        symbol: known.get(symbol) or ListingTimes(likely_name(symbol), (likely,))
        for symbol in keep
        if symbol not in listing
    }


async def _times(exchange: Exchange, symbol: Symbol, known: ListingTimes | None) -> ListingTimes | None:
    """When a symbol was listed, by what was known before and what the exchange says now."""
    if known is None:
        return await _found(exchange, symbol)
    last = known.spans[-1]
    if last.until_ms is not None:
        return await _come_back(exchange, symbol, known, last.until_ms)
    end = await _end(exchange, symbol, last.since_ms)
    if end is not None:
        return known.with_last(_span(last.since_ms, *end, before=last.source))
    return await _renewed(exchange, symbol, known)


async def _found(exchange: Exchange, symbol: Symbol) -> ListingTimes | None:
    """The times of a symbol of which nothing was known."""
    listed = exchange.listing[symbol]
    since_ms, source = listed.listed_since_ms, _ONBOARD
    if since_ms is None:
        since_ms, source = await nearest_bar(exchange, symbol, after_ms=0), _FIRST_BAR
    if since_ms is None and not listed.gone:
        return None
    end = await _end(exchange, symbol, since_ms)
    before = "" if since_ms is None else f"since {source}"
    return ListingTimes(listed.exchange_id, (_span(since_ms, *(end or (None, "")), before=before),))


async def _come_back(exchange: Exchange, symbol: Symbol, known: ListingTimes, until_ms: int) -> ListingTimes:
    """The times of a symbol that was delisted: the same, unless it trades again."""
    listed, last = exchange.listing[symbol], known.spans[-1]
    if not listed.active or (listed.delisted_ms is not None and listed.delisted_ms <= until_ms):
        return known
    since_ms, source = listed.listed_since_ms, _ONBOARD
    if since_ms is None or since_ms < until_ms:
        since_ms, source = await nearest_bar(exchange, symbol, after_ms=until_ms), _FIRST_BAR
    if since_ms is None:
        return known
    until = (listed.delisted_ms, _DELIVERY if listed.delisted_ms else "")
    if since_ms - until_ms < LONGEST_HALT_MS:  # it was a halt, or a delivery that was put off
        return known.with_last(_span(last.since_ms, *until, before=last.source))
    return known.followed_by(_span(since_ms, *until, before=f"since {source}"))


async def _renewed(exchange: Exchange, symbol: Symbol, known: ListingTimes) -> ListingTimes:
    """The times of a symbol that was listed and is: the same, unless it ended and began anew in between."""
    listed, last = exchange.listing[symbol], known.spans[-1]
    onboard_ms = listed.listed_since_ms
    if onboard_ms is None or last.since_ms is None or onboard_ms - last.since_ms < LONGEST_HALT_MS:
        return known
    start_ms = await nearest_bar(exchange, symbol, before_ms=onboard_ms)
    end_ms = onboard_ms if start_ms is None else min(label_end(start_ms), onboard_ms)
    # Bars up to the new date: the exchange only says another date of the same listing.
    if end_ms <= last.since_ms or (start_ms is not None and onboard_ms - end_ms < LONGEST_HALT_MS):
        return known
    ended = known.with_last(_span(last.since_ms, end_ms, _LAST_BAR if start_ms else _ONBOARD, before=last.source))
    return ended.followed_by(_span(onboard_ms, listed.delisted_ms, _DELIVERY, before=f"since {_ONBOARD}"))


async def _end(exchange: Exchange, symbol: Symbol, since_ms: int | None) -> tuple[int, str] | None:
    """Until when a symbol was listed, and how that is known; None while it is."""
    listed, now_ms = exchange.listing[symbol], exchange.clock.now_ms()
    if listed.delisted_ms is not None:
        return listed.delisted_ms, _DELIVERY
    if listed.active:
        return None
    start_ms = await nearest_bar(exchange, symbol)
    if start_ms is None or label_end(start_ms) <= (since_ms or 0):
        # One that waits for its first day, or the earlier owner of its name, has no end.
        return (floor_to(now_ms, MINUTE_MS), _GONE) if listed.gone else None
    end_ms = label_end(start_ms)
    is_over = listed.gone or now_ms - end_ms >= LONGEST_HALT_MS
    return (end_ms, _LAST_BAR) if is_over else None


def _span(since_ms: int | None, until_ms: int | None, until: str, *, before: str) -> Span:
    """A span whose source says how its beginning and its end are known."""
    beginning = before.partition(", until ")[0].removeprefix("until ")
    known = [beginning, f"until {until}" if until_ms is not None else ""]
    return Span(since_ms, until_ms, ", ".join(part for part in known if part))


async def nearest_bar(
    exchange: Exchange, symbol: Symbol, *, after_ms: int | None = None, before_ms: int | None = None
) -> int | None:
    """The start of the first bar at or after a moment, or of the last before it; None when two answers have none.

    None as well when the exchange does not know the symbol any more.
    """
    for is_second in (False, True):
        if is_second:
            await exchange.clock.sleep(_RECHECK_AFTER_S)
        with suppress(UnknownSymbol):
            async for attempt in patiently(exchange.clock):
                with attempt:
                    answer = await exchange.kline_nearest(symbol, after_ms=after_ms, before_ms=before_ms)
                    if (start_ms := _start_of(answer)) is not None:
                        return start_ms
    return None


def _start_of(answer: Answer) -> int | None:
    rows = klines.rows_of(answer.value)
    klines.check_rows(rows)
    return int(rows[0][0]) if rows else None
