"""A streaming process for the trials that kill it: `python -m ohlcv_assets_tests.faults.streamer OPTIONS`.

Lives here: one run of `stream_into_database` in a process of its own, as a run's worker is one; SIGTERM lets it stop after
its minute. Prints one line when its stream has begun. Does not: any capture of its own.
"""

import argparse
import asyncio
import signal
from pathlib import Path

from ohlcv_assets.capture import stream_into_database
from ohlcv_assets.exchange.binance import open_exchange
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.spool import Spool
from ohlcv_assets.timestamps import Interval


async def _stream(arguments: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    market = Market(arguments.market)
    with Database(arguments.database) as database:
        async with open_exchange(market, Settings(exchange_url=arguments.exchange)) as exchange:
            await stream_into_database(
                exchange,
                database,
                sorted(exchange.listing),
                Interval(arguments.start, arguments.end),
                delay_s=3.5,
                overlap_s=30.0,
                run_id=arguments.run,
                spool=Spool(arguments.spool, limit_bytes=2**24),
                stopping=stopping,
                on_start=lambda status: print("streaming", flush=True),  # noqa: T201
            )


def main() -> None:
    """Stream as the options say."""
    parser = argparse.ArgumentParser()
    for name in ("exchange", "database", "market", "run"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--spool", required=True, type=Path)
    for name in ("start", "end"):
        parser.add_argument(f"--{name}", required=True, type=int)
    asyncio.run(_stream(parser.parse_args()))


if __name__ == "__main__":
    main()
