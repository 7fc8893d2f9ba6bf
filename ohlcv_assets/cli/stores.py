"""The lake, the database and the client as a command opens them: who waits at a terminal is soon told that a server is away.

Lives here: that choice, one for all commands. Does not: the waiting (storage/patience.py), or `ohlcv stream`, which opens its database
itself and waits for it as a run of Dagster does: the minutes go on meanwhile, and bars wait on disk.

A store that has answered is waited for as long as anywhere: a download of hours survives a restart of PostgreSQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ohlcv_assets.client import OhlcvClient
    from ohlcv_assets.settings import Settings
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake


def open_database(configured: Settings) -> Database:
    """The database, its local server started and its tables made; given up soon when it does not answer at all."""
    from ohlcv_assets.storage.database import Database

    return Database.open(configured, first_contact_s=configured.command_patience_s)


def open_lake(configured: Settings, url: str | None = None) -> Lake:
    """The lake of the settings, or another one; given up soon when it does not answer at all."""
    from ohlcv_assets.storage.lake import Lake

    return Lake(url or configured.lake_url, first_contact_s=configured.command_patience_s)


def open_client(configured: Settings, *, lake_only: bool = False) -> OhlcvClient:
    """The client over both; a store is given up soon when it does not answer at all."""
    from ohlcv_assets.client import OhlcvClient

    return OhlcvClient(configured, lake_only=lake_only, first_contact_s=configured.command_patience_s)
