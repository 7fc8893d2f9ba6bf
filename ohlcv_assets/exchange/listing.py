"""What the exchange lists: the way between a unified symbol and the exchange's own name, and since when.

Lives here: `Listing`, built from ccxt's table of markets. Does not: asking for that table (binance.py), or universes
(instruments.py), which say what we want and not what there is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ohlcv_assets.errors import UnknownSymbol
from ohlcv_assets.instruments import Market, Symbol


@dataclass(frozen=True)
class Listed:
    """One listed symbol.

    Attributes:
        exchange_id: the exchange's own name, such as `BTCUSDT`.
        listed_since_ms: UNIX milliseconds of its first trading; None where the exchange does not say (spot).
        active: whether it trades now.
    """

    exchange_id: str
    listed_since_ms: int | None
    active: bool


class Listing(Mapping[Symbol, Listed]):
    """Every symbol of one market that the exchange lists."""

    def __init__(self, market: Market, listed: Mapping[Symbol, Listed]) -> None:
        self.market = market
        self._listed = dict(listed)
        self._by_id = {entry.exchange_id: symbol for symbol, entry in self._listed.items()}

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
                listed[symbol] = Listed(entry["id"], entry.get("created"), bool(entry.get("active")))
        return cls(market, listed)

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
