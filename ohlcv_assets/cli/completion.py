"""What a shell offers where a value is typed: markets, versions of the universe, symbols, and choices.

Lives here: the offers. Does not: commands and options, which typer knows itself. An offer must come at once and never complain: what
cannot be looked up is not offered, and nothing heavier than the universe's file is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer


def choices(*values: str) -> Callable[[str], list[str]]:
    """Offers those of the values that begin with what is typed."""

    def offered(incomplete: str) -> list[str]:
        return _beginning(incomplete, values)

    return offered


complete_market = choices("spot", "futures")


def complete_universe(incomplete: str) -> list[str]:
    """Offers the released versions."""
    from ohlcv_assets.errors import OhlcvError
    from ohlcv_assets.instruments import released_versions
    from ohlcv_assets.settings import settings

    try:
        return _beginning(incomplete, released_versions(settings().universes))
    except (OhlcvError, OSError):
        return []


def complete_symbol(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offers symbols of the universe: of the market that was typed before, else of both; also after a comma."""
    from ohlcv_assets.errors import OhlcvError
    from ohlcv_assets.instruments import load_universe
    from ohlcv_assets.settings import settings

    before, comma, typed = incomplete.rpartition(",")
    try:
        configured = settings()
        universe = load_universe(ctx.params.get("universe") or configured.universe, configured.universes)
    except (OhlcvError, OSError):
        return []
    market = ctx.params.get("market")
    listed = [symbol for of, symbols in universe.symbols.items() if market in (None, of.value) for symbol in symbols]
    return [f"{before}{comma}{symbol}" for symbol in _beginning(typed, listed)]


def _beginning(incomplete: str, values: Iterable[str]) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]
