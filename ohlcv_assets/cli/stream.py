"""`ohlcv stream`: capture a market as it happens, without Dagster, by the same code.

Lives here: the command's options, its signals, and its exit code. Does not: what it shows (cli/stream_display.py), or
capturing (capture.py).
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from ohlcv_assets.cli.completion import complete_market
from ohlcv_assets.settings import Settings, settings

if TYPE_CHECKING:
    from ohlcv_assets.cli.stream_display import Display
    from ohlcv_assets.exchange.binance import Exchange
    from ohlcv_assets.exchange.stream_report import StreamReport
    from ohlcv_assets.instruments import Market, Symbol, Universe
    from ohlcv_assets.timestamps import Interval

_Symbols = Annotated[
    str | None, typer.Option(help="Only these, separated by commas; default: the universe's.", show_default=False)
]
_Shard = Annotated[
    str | None, typer.Option(help="Only one part of the symbols: 1/4 is the first of four.", show_default=False)
]

#: As a shell reports a program that was ended by Ctrl-C.
_INTERRUPTED = 130


@dataclass(frozen=True)
class _Wish:
    """What was asked for; `part` of the universe, None for symbols of one's own."""

    market: Market
    symbols: list[Symbol]
    minutes: int
    universe: Universe
    part: str | None


def stream(
    market: Annotated[str, typer.Option(help="spot or futures.", autocompletion=complete_market)],
    hours: Annotated[float, typer.Option(help="How long, from the current minute on.")] = 1.0,
    symbols: _Symbols = None,
    shard: _Shard = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a minute and one at the end.")] = False,
) -> None:
    """Store every bar of a market in PostgreSQL as it closes, for some hours, and say what is missing.

    Ctrl-C lets the minute that runs be the last one and ends when its bars are in; a second Ctrl-C ends at once.

    \b
    Examples:
      ohlcv stream --market spot --hours 2
      ohlcv stream --market futures --shard 1/4 --json
      ohlcv stream --market spot --symbols BTC/USDT,ETH/USDT

    Exit code: 0 every bar is stored, 1 bars are missing (they are named), 2 the question cannot be meant, 3 exchange or
    database are unavailable.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.cli.stream_display import open_display

    configured = settings()
    wish = _wish(configured, market, hours, symbols, shard)
    with open_display(as_json=as_json) as display:
        try:
            report = asyncio.run(_stream(configured, wish, display))
        except asyncio.CancelledError as error:
            raise typer.Exit(_INTERRUPTED) from error
    display.report(report)
    _judge(configured, report)


def _wish(configured: Settings, market: str, hours: float, symbols: str | None, part: str | None) -> _Wish:
    from ohlcv_assets.cli.asked import universe_of
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.instruments import Market, Universe

    chosen = Market.parse(market)
    if not 1 <= hours * 60 < 1e6:
        raise UsageError(f"{hours:g} hours are no time to stream", hint="give at least a minute: --hours 0.02")
    if symbols is None:
        universe = universe_of(configured, None, chosen)
    else:
        names = [name.strip() for name in symbols.split(",") if name.strip()]
        universe = Universe.of("v0", {chosen: names})
    wanted_part = _part(list(universe.symbols[chosen]), part)
    if not wanted_part:
        raise UsageError("no symbol is left to stream", hint="give --symbols, or another --shard")
    return _Wish(chosen, wanted_part, round(hours * 60), universe, None if symbols else part or "1/1")


def _part(symbols: list[Symbol], part: str | None) -> list[Symbol]:
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.instruments import shard

    if part is None:
        return symbols
    named = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", part)
    if named is None:
        raise UsageError(f"{part!r} is no part", hint="write --shard 1/4 for the first of four")
    return shard(symbols, int(named[1]) - 1, int(named[2]))


async def _stream(configured: Settings, wish: _Wish, display: Display) -> StreamReport:
    from ohlcv_assets.capture import stream_into_database
    from ohlcv_assets.exchange.binance import open_exchange
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.spool import Spool

    stopping = _stopped_by_signals(display)
    # Symbols that somebody names must be listed; those of a universe may have vanished.
    expected = () if wish.part is None else wish.universe.symbols[wish.market]
    async with open_exchange(wish.market, configured, wish.universe.listings, expected) as exchange:
        listed = set(wish.universe.at(round(exchange.clock.now_ms()))[wish.market])
        wish = replace(wish, symbols=[symbol for symbol in wish.symbols if symbol in listed])
        # Before the server is asked for: a wrong symbol must not wait for a database.
        exchange.listing.require(wish.symbols)
        with await asyncio.to_thread(Database.open, configured) as database:
            interval = _interval(exchange, wish.minutes)
            display.begin(wish.market, wish.symbols, interval)
            return await stream_into_database(
                exchange,
                database,
                wish.symbols,
                interval,
                delay_s=configured.download_delay_s,
                overlap_s=0.0,
                run_id=f"stream-{os.getpid()}-{exchange.clock.now_ms()}",
                spool=Spool.of(configured, wish.market),
                metrics_port=configured.metrics_port,
                on_minute=display.minute,
                on_start=display.start,
                stopping=stopping,
                part=wish.part,
            )


def _interval(exchange: Exchange, minutes: int) -> Interval:
    """So many minutes from the one that runs, by the exchange's clock."""
    from ohlcv_assets.timestamps import MINUTE_MS, Interval, floor_to

    start_ms = floor_to(exchange.clock.now_ms(), MINUTE_MS)
    return Interval(start_ms, start_ms + minutes * MINUTE_MS)


def _stopped_by_signals(display: Display) -> asyncio.Event:
    """An event that the first signal sets; the second cancels the task that calls this."""
    stopping, loop, task = asyncio.Event(), asyncio.get_running_loop(), asyncio.current_task()

    def stop() -> None:
        if stopping.is_set() and task is not None:
            task.cancel()
        stopping.set()
        display.stopping()

    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop)
    return stopping


def _judge(configured: Settings, report: StreamReport) -> None:
    """Exit as the report deserves."""
    from ohlcv_assets.errors import DatabaseUnavailable

    if report.bars_spooled:
        raise DatabaseUnavailable(
            f"PostgreSQL is away: {report.bars_spooled} bars are safe under {configured.home / 'spool'}",
            hint=f"start it (ohlcv db start); the next ohlcv stream --market {report.market} takes them in",
        )
    if report.missing.height:
        raise typer.Exit(1)
