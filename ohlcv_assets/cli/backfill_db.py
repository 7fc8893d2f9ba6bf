"""`ohlcv backfill-db`: an interval by REST into PostgreSQL, then the proof that every expected bar is there.

Lives here: the command's options and its exit code. Does not: the backfill (quality/backfill.py), which Dagster's job
`<market>_backfill_db` calls as well.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from ohlcv_assets.cli.asked import MarketOption, UniverseOption
from ohlcv_assets.cli.download_bulk import going_on, run_id_of
from ohlcv_assets.settings import Settings, settings

if TYPE_CHECKING:
    from ohlcv_assets.cli.bulk_display import Display
    from ohlcv_assets.instruments import Market, Universe
    from ohlcv_assets.quality.backfill import Backfilled
    from ohlcv_assets.timestamps import Interval


@going_on
def backfill_db(
    start: Annotated[str, typer.Option(help="First moment, UTC: 2025-06-01T05:00Z.", show_default=False)],
    end: Annotated[str, typer.Option(help="The end, which is not part of it.", show_default=False)],
    market: MarketOption,
    universe: UniverseOption = None,
    only_missing: Annotated[
        bool, typer.Option("--only-missing", help="Fetch only what is not stored, and compare nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line: plan, progress, report.")] = False,
) -> None:
    """Fetch an interval by REST into PostgreSQL, and prove that every expected bar is there.

    \b
    Examples:
      ohlcv backfill-db --market futures --start 2025-06-01T05:00Z --end 2025-06-01T09:00Z
      ohlcv backfill-db --market spot --start 2025-06-01 --end 2025-06-02 --only-missing --json

    Nothing is overwritten: a bar that differs from the stored one becomes a revision beside it, and is counted. Exit code:
    0 every bar is there, 1 bars are missing (they are named), 2 the question cannot be meant, 3 exchange or database are
    unavailable.
    """  # noqa: D301  \b keeps the example's line
    from ohlcv_assets.cli.asked import universe_of
    from ohlcv_assets.cli.bulk_display import open_display
    from ohlcv_assets.instruments import Market
    from ohlcv_assets.timestamps import Interval

    configured = settings()
    chosen, interval = Market.parse(market), Interval.parse(start, end)
    released = universe_of(configured, universe, chosen)
    with open_display(as_json=as_json) as display:
        result = asyncio.run(_backfill(configured, chosen, released, interval, display, only_missing=only_missing))
        display.report(result.sentence, result.facts(), result.missing)
    if not result.is_complete:
        raise typer.Exit(1)


async def _backfill(
    configured: Settings,
    market: Market,
    universe: Universe,
    interval: Interval,
    display: Display,
    *,
    only_missing: bool,
) -> Backfilled:
    from ohlcv_assets.cli.stores import open_database
    from ohlcv_assets.exchange.binance import open_exchange
    from ohlcv_assets.quality.backfill import backfill

    async with open_exchange(market, configured, universe.listings, universe.symbols[market]) as exchange:
        with await asyncio.to_thread(open_database, configured) as database:
            return await backfill(
                exchange,
                database,
                universe.symbols[market],
                interval,
                run_id=run_id_of(exchange),
                only_missing=only_missing,
                on_plan=display.plan,
                on_done=display.done,
            )
