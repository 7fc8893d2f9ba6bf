"""The local PostgreSQL server and the two databases in it: the bars', and Dagster's own.

Lives here: `bars_url` and `dagster_url`, which start the server when it is needed and make database and role at the
first call, also when several processes call at once. Does not: the supervisor itself (postgres_server.py, whose
names are public from here), or any table (migrations/).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.connections import translated
from ohlcv_assets.storage.postgres_server import USER, LocalPostgres, LocalServer, PostgresStatus, address

__all__ = ["LocalPostgres", "LocalServer", "PostgresStatus", "bars_url", "dagster_url", "recovered_bars_url"]


def bars_url(settings: Settings) -> str:
    """The address of the bars' database: `OHLCV_DATABASE_URL`, else one in the local server, started and made.

    Returns:
        postgresql://user:password@host:port/database.

    Raises:
        DatabaseUnavailable: the local server does not start.
    """
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    server = LocalPostgres(settings.home).up()
    name = _bars_name(settings)
    url = server.url(name)
    if not _admits(url):
        with _administering(server) as connection:
            _make_database(connection, name, owner=USER)
    return url


def recovered_bars_url(settings: Settings) -> str | None:
    """`bars_url` once more after a lost connection: a local server that died is started again, a stopped one is not.

    Returns:
        The address, which may name another port than before; None when there is no server to ask.
    """
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    server = LocalPostgres(settings.home).recovered()
    return None if server is None else server.url(_bars_name(settings))


def _bars_name(settings: Settings) -> str:
    return f"ohlcv_{settings.region}"


def dagster_url(settings: Settings) -> str:
    """The address of Dagster's own database, always in the local server, for a role that reaches nothing else.

    Returns:
        postgresql://dagster:password@host:port/dagster_<region>; the caller adds the driver to the scheme.

    Raises:
        DatabaseUnavailable: the local server does not start.
    """
    local = LocalPostgres(settings.home)
    server = local.up()
    name, password = f"dagster_{settings.region}", local.password_of("dagster")
    url = address("dagster", password, server.port, name)
    if not _admits(url):
        with _administering(server) as connection:
            _make_dagster_role(connection, password)
            _make_database(connection, name, owner="dagster")
    return url


def _admits(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def _administering(server: LocalServer) -> Iterator[psycopg.Connection]:
    """A session of the superuser that no other of these runs beside: roles and databases have no `if not exists`."""
    with translated(), psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(hashtextextended('ohlcv_assets.administration', 0))")
        yield connection


def _make_database(connection: psycopg.Connection, name: str, *, owner: str) -> None:
    if connection.execute("select from pg_database where datname = %s", [name]).rowcount:
        return
    names = {"name": sql.Identifier(name), "owner": sql.Identifier(owner)}
    connection.execute(sql.SQL("create database {name} owner {owner} template template0").format(**names))
    # Dagster's role has no business among the bars, nor the other way round.
    connection.execute(sql.SQL("revoke connect on database {name} from public").format(**names))


def _make_dagster_role(connection: psycopg.Connection, password: str) -> None:
    # Webserver, daemon, code server and each run keep pools of their own; the bars must find room beside them.
    known = connection.execute("select from pg_roles where rolname = 'dagster'").rowcount
    statement = sql.SQL("{verb} role dagster with login connection limit 100 password {password}")
    verb = sql.SQL("alter") if known else sql.SQL("create")
    connection.execute(statement.format(verb=verb, password=sql.Literal(password)))
