"""Addresses and errors of PostgreSQL, without a server."""

import adbc_driver_manager
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from ohlcv_assets.errors import BadSetting, DatabaseUnavailable, InvalidBars, OhlcvError, Refused
from ohlcv_assets.storage.connections import Role, conninfo, persistently, translated
from ohlcv_assets.storage.postgres_server import address

printable = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


@given(user=printable, password=printable, database=printable)
def test_address_quotes_whatever_a_name_holds(user: str, password: str, database: str) -> None:
    """User, password and database come out of the address as they went in."""
    parts = conninfo_to_dict(address(user, password, 5432, database))
    assert (parts["user"], parts["password"], parts["dbname"]) == (user, password, database)
    assert (parts["host"], parts["port"]) == ("127.0.0.1", "5432")


@pytest.mark.parametrize("role", list(Role))
def test_session_options_are_added_to_those_given(role: Role) -> None:
    """What the address says itself stays: its options, its TLS, its timeout."""
    parts = conninfo_to_dict(
        conninfo("postgresql://u:p@h/d?sslmode=verify-full&connect_timeout=3&options=-c%20search_path%3Dx", role)
    )
    assert parts["sslmode"] == "verify-full"
    assert parts["connect_timeout"] == "3"
    assert str(parts["options"]).startswith("-c search_path=x -c ")
    assert (f"role={role}" in str(parts["options"])) == (role is not Role.OWNER)


def test_unreadable_address_is_a_bad_setting_that_keeps_its_secret() -> None:
    """An address that cannot be parsed is refused without being repeated: it holds a password."""
    with pytest.raises(BadSetting) as caught:
        conninfo("postgresql://user:secret@host:port/what?nonsense=1", Role.READER)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (psycopg.OperationalError("connection refused"), DatabaseUnavailable),
        (psycopg.InterfaceError("the connection is closed"), DatabaseUnavailable),
        (psycopg.errors.AdminShutdown("terminating connection"), DatabaseUnavailable),
        (psycopg.errors.CannotConnectNow("the database system is starting up"), DatabaseUnavailable),
        (psycopg.errors.DeadlockDetected("deadlock detected"), DatabaseUnavailable),
        (psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"), DatabaseUnavailable),
        (psycopg.errors.DiskFull("could not extend file"), DatabaseUnavailable),
        (psycopg.errors.TooManyConnections("too many clients"), DatabaseUnavailable),
        (psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT"), DatabaseUnavailable),
        (psycopg.errors.DuplicateTable("relation already exists"), DatabaseUnavailable),
        (psycopg.errors.CheckViolation("violates check constraint"), InvalidBars),
        (psycopg.errors.UndefinedTable("relation does not exist"), Refused),
        (psycopg.errors.InsufficientPrivilege("permission denied"), Refused),
        (psycopg.errors.SyntaxError("syntax error"), Refused),
        (psycopg.OperationalError('FATAL: password authentication failed for user "u"'), Refused),
        (psycopg.OperationalError('FATAL: database "d" does not exist'), Refused),
        (
            adbc_driver_manager.OperationalError("lost", status_code=adbc_driver_manager.AdbcStatusCode.IO),
            DatabaseUnavailable,
        ),
        (
            adbc_driver_manager.ProgrammingError(
                "no table", status_code=adbc_driver_manager.AdbcStatusCode.NOT_FOUND, sqlstate="42P01"
            ),
            Refused,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_every_error_is_transient_or_final(error: Exception, meaning: type[OhlcvError]) -> None:
    """What a moment can heal is DatabaseUnavailable; everything else is told at once, with what to do."""
    with pytest.raises(meaning) as caught, translated():
        raise error
    assert caught.value.hint


def test_retry_is_for_the_unavailable_only_and_ends() -> None:
    """A refusal is raised at the first time, an outage after the patience is used up, a passing one never."""
    calls: list[int] = []

    def failing(error: OhlcvError, times: int) -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    with pytest.raises(Refused):
        persistently(lambda: failing(Refused("no"), 9), patience_s=60)
    assert len(calls) == 1
    calls.clear()
    assert persistently(lambda: failing(DatabaseUnavailable("gone"), 2), patience_s=60) == "done"
    calls.clear()
    with pytest.raises(DatabaseUnavailable):
        persistently(lambda: failing(DatabaseUnavailable("gone"), 10_000), patience_s=0.3)
    assert len(calls) > 1
    calls.clear()
    with pytest.raises(DatabaseUnavailable):
        persistently(lambda: failing(DatabaseUnavailable("gone"), 10_000), patience_s=0)
    assert len(calls) == 1
