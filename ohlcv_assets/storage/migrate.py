"""Migrations: the numbered SQL files of migrations/, each applied once, in order, whole or not at all.

Lives here: reading the files, remembering in `schema_migrations` what was applied and with which content, and
refusing to go on when the two disagree. Does not: the tables themselves (migrations/*.sql). A released file is never
changed; the next change is the next number.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

import psycopg

from ohlcv_assets.errors import Refused
from ohlcv_assets.logs import get_logger

_log = get_logger()


@dataclass(frozen=True)
class Migration:
    """One file of migrations/: `name` is 0001_bars, `sha256` the hash of its bytes."""

    name: str
    content: bytes

    @property
    def sha256(self) -> str:
        """The hash of the file's bytes, in hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()


def migrations() -> list[Migration]:
    """Every migration of this package, in the order of their numbers."""
    folder = files("ohlcv_assets.storage").joinpath("migrations")
    named = {entry.name: entry for entry in folder.iterdir() if re.fullmatch(r"[0-9]{4}_\w+\.sql", entry.name)}
    return [Migration(name.removesuffix(".sql"), named[name].read_bytes()) for name in sorted(named)]


def apply_migrations(connection: psycopg.Connection, wanted: list[Migration]) -> list[str]:
    """Apply what the database does not have yet, in one transaction; processes that come together take turns.

    Args:
        connection: of a login that may create tables; not inside a transaction.
        wanted: all migrations, in order (`migrations()`).

    Returns:
        The names of those that were applied now, in order; empty when the database had them all.

    Raises:
        Refused: an applied migration has another content now, or the database has one that is not wanted.
    """
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended('ohlcv_assets.migrations', 0))")
        applied = _applied(connection)
        _check(applied, wanted)
        new = [migration for migration in wanted if migration.name not in applied]
        for migration in new:
            connection.execute(migration.content)
            connection.execute(
                "insert into public.schema_migrations (name, sha256) values (%s, %s)",
                [migration.name, migration.sha256],
            )
            _log.info("migration applied", name=migration.name)
    return [migration.name for migration in new]


def _applied(connection: psycopg.Connection) -> dict[str, str]:
    # `create table if not exists` needs the right to create also where the table is there already.
    row = connection.execute("select to_regclass('public.schema_migrations') is null").fetchone()
    if row is not None and row[0]:
        connection.execute(
            "create table public.schema_migrations ("
            "name text primary key, sha256 text not null, applied_at timestamptz not null default clock_timestamp())"
        )
    return dict(connection.execute("select name, sha256 from public.schema_migrations").fetchall())


def _check(applied: dict[str, str], wanted: list[Migration]) -> None:
    known = {migration.name: migration.sha256 for migration in wanted}
    for name, sha256 in sorted(applied.items()):
        if name not in known:
            raise Refused(
                f"the database has migration {name}, which this version of the package does not know",
                hint="upgrade ohlcv-assets",
            )
        if known[name] != sha256:
            raise Refused(
                f"migration {name} was changed after it was applied: applied {sha256[:12]}, now {known[name][:12]}",
                hint="restore the file, and put the change into a new migration",
            )
