"""The lake, the database and the client as a command opens them: who waits at a terminal is soon told that a server is away.

Lives here: that choice, one for all commands. Does not: the waiting (storage/patience.py), or `ohlcv stream`, which opens its database
itself and waits for it as a run of Dagster does: the minutes go on meanwhile, and bars wait on disk.

A store that has answered is waited for as long as anywhere: a download of hours survives a restart of PostgreSQL. So is any store where
nobody waits at a terminal, as under cron, unless the setting says for how long: the restart may be just then.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ohlcv_assets.client import OhlcvClient
    from ohlcv_assets.settings import Settings
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake


#: For so long a person looks at nothing before they look elsewhere.
_AT_A_TERMINAL_S = 3.0


def first_contact_s(configured: Settings) -> float | None:
    """For how many seconds a store is waited for that has not answered yet; None: as long as ever."""
    if configured.command_patience_s is not None:
        return configured.command_patience_s
    return _AT_A_TERMINAL_S if sys.stderr.isatty() else None


def open_database(configured: Settings) -> Database:
    """The database, its local server started and its tables made; given up soon at a terminal when it does not answer at all."""
    from ohlcv_assets.storage.database import Database

    return Database.open(configured, first_contact_s=first_contact_s(configured))


def open_lake(configured: Settings, url: str | None = None) -> Lake:
    """The lake of the settings, or another one; given up soon at a terminal when it does not answer at all."""
    from ohlcv_assets.storage.lake import Lake

    return Lake(url or configured.lake_url, first_contact_s=first_contact_s(configured))


def open_client(configured: Settings, *, lake_only: bool = False) -> OhlcvClient:
    """The client over both; a store is given up soon at a terminal when it does not answer at all."""
    from ohlcv_assets.client import OhlcvClient

    return OhlcvClient(configured, lake_only=lake_only, first_contact_s=first_contact_s(configured))
