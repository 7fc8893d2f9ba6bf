"""Sessions with PostgreSQL: which role they take, what their errors mean, and how long they are tried again.

Lives here: the role and limits of each kind of session, the table that turns PostgreSQL's errors into ours, and the
bounded retry. Does not: any statement about bars (statements.py, database.py), or starting a server (local_postgres.py).

One login is enough for everything: a session takes the role of a writer or a reader as it begins, and then may do
no more than that role, whatever the login may.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TypeVar

import adbc_driver_manager
import psycopg
import stamina
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ohlcv_assets.errors import BadSetting, DatabaseUnavailable, InvalidBars, OhlcvError, Refused

T = TypeVar("T")


class Role(StrEnum):
    """What a session may do: `OWNER` is the login itself, the others are roles of migrations/."""

    OWNER = "owner"
    WRITER = "ohlcv_writer"
    READER = "ohlcv_reader"


#: A waiter on a lock gives way to the retry; a session that forgot its transaction ends.
_LIMITS = "-c timezone=UTC -c lock_timeout=60s -c idle_in_transaction_session_timeout=300s"
_ROLE_OPTIONS = {
    Role.OWNER: _LIMITS,
    Role.WRITER: f"{_LIMITS} -c role=ohlcv_writer",
    Role.READER: f"{_LIMITS} -c role=ohlcv_reader -c default_transaction_read_only=on",
}


def conninfo(url: str, role: Role) -> str:
    """The connection string of `url` for a session of that role, for psycopg and ADBC alike.

    Raises:
        BadSetting: `url` is no address of a PostgreSQL database.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        # The address holds a password: it is not repeated.
        raise BadSetting(
            "the database's address cannot be read", hint="write postgresql://user:password@host:port/database"
        ) from error
    options = f"{given.pop('options', None) or ''} {_ROLE_OPTIONS[role]}".strip()
    # A peer that vanished without a word is noticed by the kernel within half a minute.
    defaults = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "tcp_user_timeout": 30_000}
    return make_conninfo("", **(defaults | given), options=options, application_name="ohlcv_assets")


#: Said at connecting, where libpq gives no SQLSTATE; asking again would give the same answer.
_FINAL_WORDS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "permission denied")
_HINT = "see that the server runs: ohlcv db status"


@contextmanager
def translated() -> Iterator[None]:
    """Errors of psycopg and ADBC inside become ours.

    Raises:
        DatabaseUnavailable: no connection, a lost one, a deadlock, a timeout, no room: worth asking again.
        InvalidBars: a constraint of the table refused a bar.
        Refused: everything that asking again cannot mend.
    """
    try:
        yield
    except (psycopg.Error, adbc_driver_manager.Error) as error:
        raise _meaning(error) from error


#: What the drivers put before the server's or the network's own words.
_DRIVERS_WORDS = re.compile(r"^(IO: )?(\[libpq\] )?(Failed to connect: |connection failed: )?")


def _meaning(error: psycopg.Error | adbc_driver_manager.Error) -> OhlcvError:
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    said = _DRIVERS_WORDS.sub("", said)
    state = error.sqlstate or ""
    if isinstance(error, pg.CheckViolation | pg.NotNullViolation):
        return InvalidBars(f"the database refuses a bar: {said}", hint="see docs/reference/bars.md")
    if state in {"42P01", "42883"}:
        return Refused(f"the database has not our tables: {said}", hint="ohlcv db migrate")
    lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | adbc_driver_manager.OperationalError)
    # 25006: a write reached a standby, which a failover turns into the primary; XX000: two changed one catalogue row;
    # 42P07: two made the partition of a new day at once, and the second did not see the first one's yet.
    passing = lost or state[:2] in {"08", "40", "53", "55", "57", "58"} or state in {"25006", "XX000", "42P07"}
    if passing and not (not state and any(words in said for words in _FINAL_WORDS)):
        return DatabaseUnavailable(f"PostgreSQL is not available: {said}", hint=_HINT)
    return Refused(f"PostgreSQL refused: {said}", hint="see OHLCV_DATABASE_URL and the rights of its user")


def persistently(action: Callable[[], T], *, patience_s: float) -> T:
    """Do it, and again while PostgreSQL is unavailable, for at most `patience_s` seconds.

    The action is done again from its beginning, also when it is unknown whether it was committed: it must be
    harmless twice. Each wait is logged by stamina.
    """
    attempts = stamina.retry_context(
        on=DatabaseUnavailable, attempts=None if patience_s > 0 else 1, timeout=patience_s or None,
        wait_initial=0.05, wait_max=2.0, wait_jitter=0.1,
    )  # fmt: skip
    for attempt in attempts:
        with attempt:
            return action()
    raise AssertionError("stamina ends with a return or a raise")  # pragma: no cover
