"""What the client reads from: the lake, the database and the universe of one region, each opened when it is first needed.

Lives here: opening and closing, and what of it another process gets: none of a forked one's, for polars' threads end at a fork and are
waited for ever; of a pickled client what opens the stores again. Does not: any reading.
"""

from __future__ import annotations

import os
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ohlcv_assets.client.daily import DailyBars
from ohlcv_assets.client.verified import LedgerReader
from ohlcv_assets.errors import NoBars, Refused
from ohlcv_assets.instruments import Market, Universe, load_universe
from ohlcv_assets.settings import Settings, read_settings
from ohlcv_assets.storage.lake import Lake

if TYPE_CHECKING:
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.quality_store import QualityStore


#: The process in which a client first opened a store, and this one if it was forked from there.
_opened_in: int | None = None


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

    def __getstate__(self) -> dict[str, Any]:
        """Without what is open: whoever unpickles it opens the stores when they are first needed."""
        return {name: self.__dict__[name] for name in ("_settings", "_lake_only", "_first_contact_s")}

    def close(self) -> None:
        """Close the connection to the database, if there is one; the client can be used again."""
        database = self.__dict__.pop("_opened_database", None)
        if database is not None:
            database.close()

    @cached_property
    def _universe(self) -> Universe:
        return load_universe(self._settings.universe, self._settings.universes)

    @property
    def _lake(self) -> Lake:
        _insist_on_own_threads()
        return self._opened_lake

    @cached_property
    def _opened_lake(self) -> Lake:
        return Lake(self._settings.lake_url, first_contact_s=self._first_contact_s)

    @property
    def has_database(self) -> bool:
        """Whether there is a database to ask: one of somebody's own, or an embedded one that was made before."""
        if self._lake_only:
            return False
        return self._settings.database_url is not None or (self._settings.home / "postgres").is_dir()

    @property
    def _database(self) -> Database:
        _insist_on_own_threads()
        return self._opened_database

    @cached_property
    def _opened_database(self) -> Database:
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


def _insist_on_own_threads() -> None:
    """Refuse to read in a process that was forked from one where a client has opened a store: polars would wait for ever.

    A client that has only been made may be forked, as by a server that loads its program first. What else has used polars before the
    fork is not known here.

    Raises:
        Refused: says how such processes are started otherwise.
    """
    global _opened_in
    if _opened_in is None:
        _opened_in = os.getpid()
    if _opened_in != os.getpid():
        raise Refused(
            f"process {os.getpid()} was forked from {_opened_in}, where a client was used: polars does not work after a fork",
            hint='start it by multiprocessing.get_context("spawn"), or read in it alone',
        )


def no_database() -> NoBars:
    """The error of a question to a database that is not there."""
    return NoBars(
        "there is no database, where streamed bars are",
        hint="read the source daily from the lake, set OHLCV_DATABASE_URL, or capture into a local one: "
        "ohlcv up, ohlcv stream or ohlcv backfill-db",
    )
