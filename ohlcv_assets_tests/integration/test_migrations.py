"""Migrations against a real server: whole or not at all, never changed, and made by an owner who is no superuser."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from ohlcv_assets.bars import Channel
from ohlcv_assets.errors import Refused
from ohlcv_assets.storage.database import Database, Recorded
from ohlcv_assets.storage.local_postgres import LocalPostgres, LocalServer
from ohlcv_assets.storage.migrate import Migration, apply_migrations, migrations
from ohlcv_assets_tests.integration.test_database import DAY, Market, bar


@contextmanager
def database_of_a_plain_owner(server: LocalServer) -> Iterator[str]:
    """The address of a database without any table, which belongs to a login that is no superuser, as on RDS."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("create role plain_owner login createrole password 'plain'")
        connection.execute("create database empty owner plain_owner template template0")
        yield server.url("empty").replace(f"ohlcv:{server.password}", "plain_owner:plain")
        connection.execute("drop database empty with (force)")


@pytest.fixture
def empty(local_postgres: LocalServer) -> Iterator[str]:
    """An empty database on a server whose roles of ours were made by another login."""
    with database_of_a_plain_owner(local_postgres) as url:
        yield url
    with psycopg.connect(local_postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("drop role plain_owner")


def applied(url: str) -> list[tuple[str, str]]:
    with psycopg.connect(url) as connection:
        return connection.execute("select name, sha256 from schema_migrations order by name").fetchall()


def apply(url: str, wanted: list[Migration]) -> list[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        return apply_migrations(connection, wanted)


def test_owner_without_superuser_rights_makes_and_uses_the_tables(open_folder: Path) -> None:
    """A login that may only create roles and owns its database migrates it, writes and reads: RDS allows as much."""
    server = LocalPostgres(open_folder).up()
    with database_of_a_plain_owner(server) as url, Database(url) as database:
        assert database.migrate() == [migration.name for migration in migrations()]
        assert database.migrate() == []
        assert database.record(bar(), channel=Channel.REST, run_id="run") == Recorded(1, 0, 0)
        assert database.record(bar(close=10.5), channel=Channel.REST, run_id="run") == Recorded(0, 0, 1)
        assert database.read(Market.FUTURES, DAY)["close"].to_list() == [10.5]


def test_roles_of_another_login_are_asked_for_by_name(empty: str) -> None:
    """Where the roles are another login's, the migration says which one has to be granted to whom."""
    with pytest.raises(
        Refused, match="role ohlcv_writer was made by another login: let it be granted to plain_owner"
    ):
        Database(empty).migrate()


def test_migrations_are_remembered_with_their_hash(empty: str) -> None:
    """What was applied is remembered by name and sha256, in order, and applied once."""
    first, second = Migration("0001_a", b"create table a ()"), Migration("0002_b", b"create table b ()")
    assert apply(empty, [first]) == ["0001_a"]
    assert apply(empty, [first, second]) == ["0002_b"]
    assert apply(empty, [first, second]) == []
    assert applied(empty) == [("0001_a", first.sha256), ("0002_b", second.sha256)]


def test_changed_migration_is_refused(empty: str) -> None:
    """A file that was edited after it was applied stops everything, and nothing else is applied."""
    apply(empty, [Migration("0001_a", b"create table a ()")])
    with pytest.raises(Refused, match="0001_a was changed"):
        apply(empty, [Migration("0001_a", b"create table a (b int)"), Migration("0002_b", b"create table b ()")])
    assert len(applied(empty)) == 1


def test_migration_of_a_later_version_is_refused(empty: str) -> None:
    """An older package does not work on a database that a later one changed."""
    first, later = Migration("0001_a", b"create table a ()"), Migration("0002_b", b"create table b ()")
    apply(empty, [first, later])
    with pytest.raises(Refused, match="upgrade ohlcv-assets"):
        apply(empty, [first])


def test_failing_migration_leaves_nothing(empty: str) -> None:
    """When one of several statements fails, none of the migrations of that call has happened."""
    wrong = Migration("0002_b", b"create table b (); create table b ();")
    with pytest.raises(psycopg.errors.DuplicateTable):
        apply(empty, [Migration("0001_a", b"create table a ()"), wrong])
    with psycopg.connect(empty) as connection:
        tables = connection.execute("select to_regclass('a'), to_regclass('b'), to_regclass('schema_migrations')")
        assert tables.fetchone() == (None, None, None)
