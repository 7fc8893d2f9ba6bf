"""What the client reads from: the lake, the database and the universe of one region, each opened when it is first needed.

Lives here: opening and closing. Does not: any reading.
"""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ohlcv_assets.client.daily import DailyBars
from ohlcv_assets.client.verified import LedgerReader
from ohlcv_assets.errors import NoBars
from ohlcv_assets.instruments import Market, Universe, load_universe
from ohlcv_assets.settings import Settings, read_settings
from ohlcv_assets.storage.lake import Lake

if TYPE_CHECKING:
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.quality_store import QualityStore


class Stores:
    """The stores of one region.

    Args:
        settings: which region, lake, database and universe; by default what the environment says.
        lake_only: ask no database, also where there is one.
        first_contact_s: how many seconds a store is waited for as long as it has not answered once; None: a minute, as later.
    """

    def __init__(
        self, settings: Settings | None = None, *, lake_only: bool = False, first_contact_s: float | None = None
    ) -> None:
        self._settings = read_settings() if settings is None else settings
        self._lake_only = lake_only
        self._first_contact_s = first_contact_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection to the database, if there is one; the client can be used again."""
        database = self.__dict__.pop("_database", None)
        if database is not None:
            database.close()

    @cached_property
    def _universe(self) -> Universe:
        return load_universe(self._settings.universe, self._settings.universes)

    @cached_property
    def _lake(self) -> Lake:
        return Lake(self._settings.lake_url, first_contact_s=self._first_contact_s)

    @property
    def has_database(self) -> bool:
        """Whether there is a database to ask: one of somebody's own, or an embedded one that was made before."""
        if self._lake_only:
            return False
        return self._settings.database_url is not None or (self._settings.home / "postgres").is_dir()

    @cached_property
    def _database(self) -> Database:
        from ohlcv_assets.storage.database import Database

        if not self.has_database:
            raise no_database()
        soon_s = self._first_contact_s
        if self._settings.database_url is None:
            # The embedded server: started, and its tables made.
            return Database.open(self._settings, first_contact_s=soon_s)
        # On a server of somebody's own a reader needs no right to make tables.
        return Database(self._settings.database_url.get_secret_value(), first_contact_s=soon_s)

    @property
    def _quality(self) -> QualityStore:
        from ohlcv_assets.storage.quality_store import QualityStore

        if not self.has_database:
            raise NoBars(
                "there is no database, where repairs and findings are kept",
                hint="set OHLCV_DATABASE_URL; the lake holds bars and ledgers alone",
            )
        return QualityStore(self._database)

    def _daily(self, market: Market) -> DailyBars:
        return DailyBars(self._lake, market, self._universe)

    def _ledgers(self, market: Market) -> LedgerReader:
        quality = (lambda: self._quality) if self.has_database else None
        return LedgerReader(self._lake, market, self._universe, quality)


def no_database() -> NoBars:
    """The error of a question to a database that is not there."""
    return NoBars(
        "there is no database, where streamed bars are",
        hint='read source="daily" from the lake, set OHLCV_DATABASE_URL, or capture into a local one: '
        "ohlcv up, ohlcv stream or ohlcv backfill-db",
    )
