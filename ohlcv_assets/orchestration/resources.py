"""What assets and sensors reach the outside world through: exchange, database, lake and universe.

Lives here: thin resources that open the real things from `Settings` when a run needs them. Does not: any value of
a setting in a resource's config, for the UI shows config: a database's password is read inside the run, never
before. Tests replace a resource through `build_defs(resources=...)`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import dagster as dg

from ohlcv_assets.clock import Clock
from ohlcv_assets.instruments import Market, Universe, load_universe
from ohlcv_assets.settings import read_settings

if TYPE_CHECKING:
    from ohlcv_assets.exchange.binance import Exchange
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake


class ExchangeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Binance, or the replay exchange that OHLCV_EXCHANGE_URL names."""

    def open(self, market: Market) -> AbstractAsyncContextManager[Exchange]:
        """One market of the exchange, as an async context manager; it knows the universe's symbols, vanished ones too."""
        from ohlcv_assets.exchange.binance import open_exchange

        settings = read_settings()
        universe = load_universe(settings.universe, settings.universes)
        return open_exchange(market, settings, universe.listings, universe.symbols[market])

    def clock(self, market: Market) -> Clock:
        """The exchange's clock, measured now."""
        from ohlcv_assets.exchange.server_time import measure_clock

        return measure_clock(market, read_settings().exchange_url)


class DatabaseResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The region's PostgreSQL; the embedded server is started when it is not running."""

    def open(self) -> Database:
        """The database, migrated; the caller closes it."""
        from ohlcv_assets.storage.database import Database

        return Database.open(read_settings())


class LakeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The region's lake of daily Parquet files."""

    def open(self) -> Lake:
        """The lake, on a folder or on S3."""
        from ohlcv_assets.storage.lake import Lake

        return Lake(read_settings().lake_url)


class UniverseResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The released universe that this deployment captures."""

    def load(self) -> Universe:
        """The universe; a changed file under a released name is an error."""
        settings = read_settings()
        return load_universe(settings.universe, settings.universes)


def default_resources() -> dict[str, dg.ConfigurableResource]:  # type: ignore[type-arg]
    """The resources of a deployment, under the names that assets and sensors ask for."""
    return {
        "exchange": ExchangeResource(),
        "database": DatabaseResource(),
        "lake": LakeResource(),
        "universe": UniverseResource(),
    }
