"""The bars in PostgreSQL: the first capture stays, a later one that differs becomes a revision beside it.

Lives here: `Database`, the only way in which the package writes or reads bars in PostgreSQL. Does not: the SQL
(statements.py), sessions and what their errors mean (connections.py), the tables (migrations/), the embedded server
(local_postgres.py). Frames of `CAPTURED_SCHEMA` come in, frames of `SCHEMA` and `channel` go out.

Recording is one transaction and harmless twice: what is unknown after a lost connection is simply done again. Rows
go in sorted by their key, so that overlapping writers wait for each other and never deadlock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl
import psycopg
from adbc_driver_postgresql import dbapi
from psycopg import sql

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, VALUES, Channel, validate
from ohlcv_assets.errors import DatabaseUnavailable, InvalidBars
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage import statements
from ohlcv_assets.storage.changes import changes
from ohlcv_assets.storage.connections import Role, T, conninfo, persistently, translated
from ohlcv_assets.storage.local_postgres import bars_url, recovered_bars_url
from ohlcv_assets.storage.migrate import apply_migrations, migrations
from ohlcv_assets.storage.patience import Patience
from ohlcv_assets.timestamps import DAY_MS, Interval, iso, to_ms

#: Up to here rows travel as parameters of one statement; beyond, COPY is faster.
_ROWS_AS_PARAMETERS = 5_000
_ROWS_A_COPY = 50_000
#: How long a statement waits for a server that restarts.
_PATIENCE_S = 60.0
_SORTED = ("timestamp", "market", "symbol")


class Recorded(NamedTuple):
    """What became of the bars given to `Database.record`; the three add up to their number."""

    inserted: int
    same: int
    revised: int


class Database:
    """A database of bars. It connects when it is first used, and again after every loss; threads may share it.

    Args:
        url: postgresql://user:password@host:port/database; the user may take the roles of migrations/.
        patience_s: how many seconds an unavailable server is waited for, in each call.
        first_contact_s: how many, as long as it has not answered once; None: as many as ever.
        recover: called when the server is unavailable; gives its address now, or None when nothing is known of it.
    """

    def __init__(
        self,
        url: str,
        *,
        patience_s: float = _PATIENCE_S,
        first_contact_s: float | None = None,
        recover: Callable[[], str | None] | None = None,
    ) -> None:
        self._url = url
        self._patience = Patience(patience_s, first_contact_s)
        self._recover = recover
        self._lock = threading.Lock()
        self._writer: psycopg.Connection | None = None

    @classmethod
    def open(
        cls, settings: Settings, *, patience_s: float = _PATIENCE_S, first_contact_s: float | None = None
    ) -> Database:
        """The database of these settings, its server started and its tables made or brought up to date.

        A server that is away at this moment is waited for, as in every later call. A local one that dies later is
        started again by whoever misses it; one that is stopped is waited for.

        Args:
            settings: where the server is.
            patience_s: how many seconds an unavailable server is waited for, now and in each call.
            first_contact_s: how many now, and as long as it has not answered once; None: as many as ever.

        Raises:
            DatabaseUnavailable: the server does not start or answer.
            Refused: the user may not create the tables, or they are not of this version.
        """
        url = persistently(lambda: bars_url(settings), patience_s=Patience(patience_s, first_contact_s).seconds())
        database = cls(
            url,
            patience_s=patience_s,
            first_contact_s=first_contact_s,
            recover=lambda: recovered_bars_url(settings),
        )
        database.migrate()
        return database

    def migrate(self) -> list[str]:
        """Apply the migrations that the database does not have; returns their names, in order.

        Raises:
            Refused: an applied migration was changed, or is of a later version of the package.
        """
        return self._persistently(self._migrated)

    def record(
        self,
        bars: pl.DataFrame,
        *,
        channel: Channel,
        run_id: str,
        reason: str = "capture",
        patience_s: float | None = None,
    ) -> Recorded:
        """Store captured bars: new keys are inserted, values that differ from the latest known become revisions.

        Args:
            bars: `CAPTURED_SCHEMA`, any number of rows in any order; a knowledge_timestamp is ignored, for the
                database sets its own.
            channel: how they came.
            run_id: of the run that captured them.
            reason: why a revision is made; stored with it.
            patience_s: how long an unavailable server is waited for; None: as long as in every other call.

        Returns:
            How many were new, the same and different. A batch whose acknowledgement was lost is recorded again, and
            then counts as the same.

        Raises:
            InvalidBars: a broken invariant, or two bars of one key that differ; nothing was stored.
            DatabaseUnavailable: still unavailable after `patience_s`.
        """
        ready = _ready(bars)
        if ready.is_empty():
            return Recorded(0, bars.height, 0)
        origin = {"channel": str(channel), "run_id": run_id, "reason": reason}
        inserted, revised = self.written(lambda connection: _recorded(connection, ready, origin), patience_s)
        return Recorded(inserted, bars.height - inserted - revised, revised)

    def read(
        self,
        market: Market,
        interval: Interval,
        *,
        symbols: Sequence[str] | None = None,
        as_of: datetime | None = None,
    ) -> pl.DataFrame:
        """The bars whose minute begins in the interval, with the latest values, or those known at `as_of`.

        Args:
            market: the one market to read.
            interval: half-open, of bar starts.
            symbols: only these; None for all.
            as_of: tz-aware; what was stored later is not seen.

        Returns:
            `SCHEMA`, then `channel` (String): one row a bar, sorted by (symbol, timestamp); timestamps are bar starts in
            UNIX milliseconds.

        Raises:
            NaiveTime: `as_of` has no time zone.
        """
        return self.read_spans(market, [(interval, symbols)], as_of=as_of)

    def read_spans(
        self, market: Market, spans: Sequence[statements.Span], *, as_of: datetime | None = None
    ) -> pl.DataFrame:
        """The same of one or more spans of which none holds a bar of another: one statement, however many there are."""
        if as_of is not None:
            to_ms(as_of)  # refuses a naive one
        return self.fetched(statements.read(market, spans, as_of)).sort("symbol", "timestamp")

    def keys(self, market: Market, interval: Interval, *, symbols: Sequence[str] | None = None) -> pl.DataFrame:
        """What is stored already, by default of all symbols: `symbol` (String), `timestamp` (Int64, ms), sorted by both."""
        return self.fetched(statements.keys(market, interval, symbols)).sort("symbol", "timestamp")

    def counts(
        self, market: Market, spans: Sequence[statements.Span], *, as_of: datetime | None = None
    ) -> pl.DataFrame:
        """How many bars of these spans there are, or were known at `as_of`, by symbol and UTC day; no row where there is none.

        Args:
            market: the one market.
            spans: one or more, of which none holds a bar of another.
            as_of: tz-aware; what was stored later is not seen.

        Returns:
            `symbol` (String), `day` (Int64, counted from 1970-01-01), `bars` (Int64), in no order.
        """
        return self.fetched(statements.counts(market, spans, as_of))

    def newest_ms(self, market: Market) -> int | None:
        """When the newest bar of a market starts, UNIX milliseconds; None where there is no bar."""
        newest: int | None = self.fetched(statements.newest(market))["newest_ms"][0]
        return newest

    def revisions(self, market: Market, interval: Interval) -> pl.DataFrame:
        """Every later capture that differed, oldest first: `SCHEMA`, then `channel, run_id, reason, revision`."""
        return self.fetched(statements.revisions(market, interval)).sort("revision")

    def changes(
        self,
        market: Market,
        interval: Interval,
        since: datetime,
        until: datetime,
        *,
        symbols: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """What became known after `since` and up to `until`: the difference of the two as-of reads.

        Args:
            market: the one market to read.
            interval: half-open, of bar starts.
            since: tz-aware.
            until: tz-aware.
            symbols: only these; None for all.

        Returns:
            `changes.CHANGES_SCHEMA`. A bar that was first stored in between is `new`, with the time when it was;
            one that was revised and is again what it was is not there.

        Raises:
            NaiveTime: a moment has no time zone.
        """
        for moment in (since, until):
            to_ms(moment)  # refuses a naive one
        asked = (market, interval, symbols, since, until)
        new = self.fetched(statements.first_known(*asked))
        last = self.fetched(statements.revised(*asked)).sort("revision").unique(KEY, keep="last").drop("revision")
        before = self.fetched(statements.before_revised(*asked))
        return changes(before, pl.concat([last.join(new, on=KEY, how="anti"), new], how="diagonal"))

    def written(self, action: Callable[[psycopg.Connection], T], patience_s: float | None = None) -> T:
        """What an action of the role that may append gives, done again while the server is unavailable.

        Args:
            action: gets a session in autocommit mode, shared by all threads of this process, one at a time; it must be
                harmless twice, for it is done again also when it is unknown whether it was committed.
            patience_s: how long an unavailable server is waited for; None: as long as in every other call.

        Raises:
            DatabaseUnavailable: still unavailable after `patience_s`.
            InvalidBars: a constraint refused what was to be stored.
            Refused: everything else that the server refuses.
        """
        return self._persistently(lambda: self._written(action), patience_s)

    def fetched(self, statement: sql.Composed) -> pl.DataFrame:
        """The answer to a query of the role that may only read, in the server's order, its values as literals.

        Raises:
            DatabaseUnavailable: still unavailable after `patience_s`.
            Refused: everything else that the server refuses.
        """
        text = statement.as_string(None)

        def fetched() -> pl.DataFrame:
            with (
                translated(),
                dbapi.connect(conninfo(self._url, Role.READER), autocommit=True) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute(text)
                return pl.DataFrame(cursor.fetch_arrow_table())

        return self._persistently(fetched)

    def server_version(self) -> str:
        """The version of the server, such as 18.6: a question that is answered only by one that can be used.

        Raises:
            DatabaseUnavailable: it does not answer.
            Refused: it does not let us in.
        """
        with translated(), psycopg.connect(conninfo(self._url, Role.OWNER)) as connection:
            return connection.info.parameter_status("server_version") or "unknown"

    def close(self) -> None:
        """End the session; the next call begins a new one."""
        with self._lock:
            self._disconnect()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _persistently(self, action: Callable[[], T], patience_s: float | None = None) -> T:
        def tried() -> T:
            try:
                return action()
            except DatabaseUnavailable:
                self._url = (self._recover() if self._recover else None) or self._url
                raise

        answer = persistently(tried, patience_s=self._patience.seconds(patience_s))
        self._patience.has_answered = True
        return answer

    # Writing ----------------------------------------------------------------------------------------------------

    def _migrated(self) -> list[str]:
        with translated(), psycopg.connect(conninfo(self._url, Role.OWNER), autocommit=True) as connection:
            return apply_migrations(connection, migrations())

    def _written(self, action: Callable[[psycopg.Connection], T]) -> T:
        with self._lock:
            try:
                with translated():
                    if self._writer is None:
                        self._writer = psycopg.connect(conninfo(self._url, Role.WRITER), autocommit=True)
                    return action(self._writer)
            except DatabaseUnavailable:
                self._disconnect()
                raise

    def _disconnect(self) -> None:
        if self._writer is not None:
            with suppress(psycopg.Error):
                self._writer.close()
            self._writer = None


def _ready(bars: pl.DataFrame) -> pl.DataFrame:
    """The bars checked, each key once, in the order of the key."""
    if "end_download_timestamp" not in bars.columns:
        raise InvalidBars("these bars have no end_download_timestamp", hint="say when the answer entered the process")
    frame = validate(bars).select(list(CAPTURED_SCHEMA)).unique((*KEY, *VALUES), keep="first", maintain_order=True)
    if frame["end_download_timestamp"].null_count():
        raise InvalidBars("a bar has no end_download_timestamp", hint="say when the answer entered the process")
    twice = frame.filter(pl.struct(*KEY).is_duplicated())
    if not twice.is_empty():
        first = twice.row(0, named=True)
        raise InvalidBars(
            f"two different bars of {first['symbol']} at {iso(first['timestamp'])} in one batch",
            hint="record one capture at a time",
        )
    return frame.sort(*_SORTED)


def _recorded(connection: psycopg.Connection, ready: pl.DataFrame, origin: dict[str, str]) -> tuple[int, int]:
    days = {"day_starts_ms": (ready["timestamp"] // DAY_MS * DAY_MS).unique().sort().to_list()}
    connection.execute(statements.ENSURE_PARTITIONS, days)
    with connection.transaction():
        few = ready.height <= _ROWS_AS_PARAMETERS
        return _stored_few(connection, ready, origin) if few else _stored_many(connection, ready, origin)


def _stored_few(connection: psycopg.Connection, ready: pl.DataFrame, origin: dict[str, str]) -> tuple[int, int]:
    return _stored(connection, ready, statements.FROM_ARRAYS, origin | ready.to_dict(as_series=False))


def _stored_many(connection: psycopg.Connection, ready: pl.DataFrame, origin: dict[str, str]) -> tuple[int, int]:
    connection.execute(statements.STAGE)
    with connection.cursor() as cursor, cursor.copy(statements.COPY) as copy:
        for rows in ready.iter_slices(_ROWS_A_COPY):
            copy.write(rows.write_csv(include_header=False, datetime_format="%Y-%m-%d %H:%M:%S%.6f+00"))
    return _stored(connection, ready, statements.FROM_STAGE, dict(origin))


def _stored(
    connection: psycopg.Connection, ready: pl.DataFrame, source: sql.Composed, parameters: dict[str, Any]
) -> tuple[int, int]:
    inserted = connection.execute(statements.insert(source), parameters).rowcount
    if inserted == ready.height:
        return inserted, 0
    # A statement of its own, after the lock: only so does it see what writers that were waited for have committed.
    connection.execute(statements.TAKE_TURNS)
    if source is statements.FROM_STAGE:
        connection.execute(statements.ANALYZE)
    span = {"first_ms": ready["timestamp"].min(), "last_ms": ready["timestamp"].max()}
    revised = connection.execute(statements.revise(source), parameters | span).rowcount
    return inserted, revised
