"""What the exchange lists: the way between a unified symbol and the exchange's own name, and since when.

Lives here: `Listing`, built from ccxt's table of markets, and what a universe knows of symbols that the exchange lists no
more. Does not: asking for that table (binance.py), finding times out (snapshot.py), or universes (instruments.py), which
say what we want and not what there is.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ohlcv_assets.errors import UnknownSymbol
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.listing_times import ListingTimes
from ohlcv_assets.logs import get_logger
from ohlcv_assets.timestamps import MINUTE_MS

#: The delivery date of what is never delivered (2100-12-25): a perpetual that goes on.
_NEVER_MS = 4_133_404_800_000
#: When more of a universe's symbols are not listed than this, it is not them that have vanished: something else is meant.
_LOST_SHARE = 0.5
_log = get_logger()


@dataclass(frozen=True)
class Listed:
    """One symbol that the exchange lists, or has listed.

    Attributes:
        exchange_id: the exchange's own name, such as `BTCUSDT`.
        listed_since_ms: UNIX milliseconds of its first trading; None where nobody says.
        active: whether it trades now.
        status: the exchange's own word for how it trades, such as `TRADING`, `BREAK` or `SETTLING`.
        quote: its quote asset.
        perpetual: no contract that ends on a date; true on spot.
        delisted_ms: the date of its delivery, which the exchange can name beforehand; None where it names none (spot).
        gone: the exchange lists it no more; a universe has it.
        times: what a universe knows of its listings.
    """

    exchange_id: str
    listed_since_ms: int | None
    active: bool
    status: str = ""
    quote: str = ""
    perpetual: bool = True
    delisted_ms: int | None = None
    gone: bool = False
    times: ListingTimes | None = None

    def was_listed(self, minute_ms: int) -> bool:
        """Whether it was listed at some time of the minute that starts there, as far as exchange and universe say."""
        if self.delisted_ms is not None and minute_ms >= self.delisted_ms:
            return False
        if self.times is None:
            return self.listed_since_ms is None or minute_ms + MINUTE_MS > self.listed_since_ms
        # What trades now although the universe says that it ended came back after the universe was made.
        until_ms = self.times.until_ms
        came_back = self.active and until_ms is not None and minute_ms >= until_ms
        return came_back or self.times.listed_at(minute_ms)


class Listing(Mapping[Symbol, Listed]):
    """Every symbol of one market that the exchange lists, and those that it is known to have listed."""

    def __init__(self, market: Market, listed: Mapping[Symbol, Listed]) -> None:
        self.market = market
        self._listed = dict(listed)
        self._by_id = {entry.exchange_id: symbol for symbol, entry in self._listed.items() if not entry.gone}

    @classmethod
    def of(cls, market: Market, ccxt_markets: Mapping[str, Mapping[str, Any]]) -> Listing:
        """The listing in ccxt's table of markets; what has no legal symbol of this market is left out."""
        listed = {}
        for name, entry in ccxt_markets.items():
            try:
                symbol = Symbol(name)
            except UnknownSymbol:
                continue
            if symbol.market is market:
                listed[symbol] = _listed(market, entry)
        return cls(market, listed)

    def knowing(self, listings: Mapping[Symbol, ListingTimes]) -> Listing:
        """The same listing, with what a universe knows of the symbols of this market.

        A symbol that the exchange lists no more is in it too (`gone`), so that its past can be asked for; one whose name was
        listed before, for another contract perhaps, has been listed since then.

        Args:
            listings: a universe's; symbols of the other market are left out.
        """
        known = {
            symbol: _knowing(self._listed.get(symbol), times)
            for symbol, times in listings.items()
            if symbol.market is self.market
        }
        return Listing(self.market, self._listed | known)

    def expecting(self, symbols: Collection[Symbol]) -> Listing:
        """The same listing, with those of a universe's symbols as gone that nobody knows to be delisted.

        A symbol can vanish at any time, and the universe that says so is made later: until then it must cost no other
        symbol a bar. Its own minutes are asked for, and named missing with the exchange's refusal.

        Args:
            symbols: of this market, with or without a bar by now.

        Raises:
            UnknownSymbol: most of them are not listed: it is the universe of another exchange, or the exchange of another.
        """
        lost = [symbol for symbol in symbols if symbol not in self._listed]
        if not lost:
            return self
        if len(lost) > _LOST_SHARE * len(symbols):
            self.require(lost)
        _log.warning(
            "the exchange lists symbols of the universe no more: make its next version (ohlcv universe snapshot)",
            market=self.market.value,
            symbols=lost,
        )
        gone = {symbol: Listed(likely_name(symbol), None, active=False, gone=True) for symbol in lost}
        return Listing(self.market, self._listed | gone)

    def __getitem__(self, symbol: Symbol) -> Listed:
        return self._listed[symbol]

    def __iter__(self) -> Iterator[Symbol]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)

    def symbol_of(self, exchange_id: str) -> Symbol | None:
        """The unified symbol of the exchange's own name, or None."""
        return self._by_id.get(exchange_id)

    def require(self, symbols: Iterable[str]) -> list[Symbol]:
        """These symbols, checked, each once, in the order given.

        Raises:
            UnknownSymbol: names all that are not listed, each with the nearest names that are.
        """
        wanted = list(dict.fromkeys(Symbol(symbol) for symbol in symbols))
        unknown = [symbol for symbol in wanted if symbol not in self._listed]
        if not unknown:
            return wanted
        raise UnknownSymbol(
            f"the exchange does not list on {self.market}: {', '.join(unknown)}",
            hint="; ".join(self._suggestion(symbol) for symbol in unknown[:5]),
        )

    def _suggestion(self, symbol: str) -> str:
        near = difflib.get_close_matches(symbol, self._listed, n=3)
        return f"{' or '.join(near)} instead of {symbol}" if near else f"a universe without {symbol}"


def likely_name(symbol: Symbol) -> str:
    """The exchange's own name of a symbol, as it nearly always is: BTCUSDT for BTC/USDT:USDT."""
    return symbol.partition(":")[0].replace("/", "")


def _listed(market: Market, entry: Mapping[str, Any]) -> Listed:
    """One row of ccxt's table."""
    info, since_ms = entry.get("info") or {}, entry.get("created")
    delivery_ms = int(info.get("deliveryDate") or 0) if market is Market.FUTURES else 0
    return Listed(
        exchange_id=entry["id"],
        listed_since_ms=since_ms,
        active=bool(entry.get("active")),
        status=str(info.get("status", "")),
        quote=str(entry.get("quote", "")),
        perpetual=market is Market.SPOT or bool(entry.get("swap")),
        delisted_ms=delivery_ms if (since_ms or 0) < delivery_ms < _NEVER_MS else None,
    )


def _knowing(listed: Listed | None, times: ListingTimes) -> Listed:
    if listed is None:
        return Listed(times.exchange_name, times.since_ms, active=False, gone=True, times=times)
    if listed.listed_since_ms is None or times.since_ms is None:
        # Where the exchange does not say (spot), the universe's first bar does; an unknown beginning stays unknown.
        return replace(listed, listed_since_ms=times.since_ms, times=times)
    return replace(listed, listed_since_ms=min(listed.listed_since_ms, times.since_ms), times=times)
