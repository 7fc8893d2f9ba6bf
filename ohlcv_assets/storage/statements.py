"""The SQL about bars: each statement once, its columns taken from bars.py, its values always parameters.

Lives here: what is said to PostgreSQL to stage, insert, revise and read bars. Does not: running it (database.py),
or the tables (migrations/). Captured rows come from one of two sources, arrays in parameters for the few of a minute or
a temporary table filled by COPY for many; the statements over them are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from psycopg import sql

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, SCHEMA, SQL_TYPES, VALUES
from ohlcv_assets.instruments import Market
from ohlcv_assets.timestamps import DAY_MS, Interval

_CAPTURED = tuple(CAPTURED_SCHEMA)
#: An interval and the symbols that are meant in it; None for all.
Span = tuple[Interval, Sequence[str] | None]
_AND_ALL = sql.SQL(" union all ")


def _names(names: Iterable[str], table: str | None = None) -> sql.Composed:
    prefix = [] if table is None else [table]
    return sql.SQL(", ").join(sql.Identifier(*prefix, name) for name in names)


def _array(name: str) -> sql.Composed:
    # The type's name is one of bars.py's constants.
    return sql.Placeholder(name, format="b") + sql.SQL(f"::{SQL_TYPES[name]}[]")


#: Rows from parameters named like the columns, each a list.
FROM_ARRAYS = sql.SQL("unnest({arrays}) as captured({columns})").format(
    arrays=sql.SQL(", ").join(_array(name) for name in _CAPTURED), columns=_names(_CAPTURED)
)
#: Rows from the temporary table that `STAGE` makes and `COPY` fills.
FROM_STAGE: sql.Composed = sql.Composed([sql.SQL("captured")])

STAGE = sql.SQL("create temporary table captured on commit drop as select {columns} from bars with no data").format(
    columns=_names(_CAPTURED)
)
COPY = sql.SQL("copy captured ({columns}) from stdin (format csv)").format(columns=_names(_CAPTURED))
ANALYZE = sql.SQL("analyze captured")

ENSURE_PARTITIONS = sql.SQL("select ensure_bar_partitions(%(day_starts_ms)s::bigint[])")
#: Revisions are made one transaction at a time, so that each is compared to the one before it.
TAKE_TURNS = sql.SQL("select pg_advisory_xact_lock(hashtextextended('ohlcv_assets.revisions', 0))")


def insert(source: sql.Composed) -> sql.Composed:
    """Insert the rows of a source whose key is new; its row count is how many were.

    In the order of the key: two writers that insert the same keys in different orders would deadlock.
    Parameters: `channel`, `run_id`.
    """
    return sql.SQL(
        "insert into bars ({columns}, channel, run_id) "
        "select {captured}, %(channel)s::text, %(run_id)s::text from {source} "
        'order by captured."timestamp", captured.market, captured.symbol on conflict do nothing'
    ).format(columns=_names(_CAPTURED), captured=_names(_CAPTURED, "captured"), source=source)


def revise(source: sql.Composed) -> sql.Composed:
    """Append the rows of a source that differ from the latest known values; its row count is how many did.

    Parameters: `channel`, `run_id`, `reason`, and `first_ms`, `last_ms`, between which all timestamps of the
    source lie: they keep the search within the partitions concerned.
    """
    return sql.SQL(
        "insert into bar_revisions ({columns}, channel, run_id, reason) "
        "select {captured}, %(channel)s::text, %(run_id)s::text, %(reason)s::text from {source} "
        'join bars_latest as known on known."timestamp" = captured."timestamp" '
        "and known.market = captured.market and known.symbol = captured.symbol "
        'where known."timestamp" between %(first_ms)s and %(last_ms)s '
        "and ({captured_values}) is distinct from ({known_values}) "
        'order by captured."timestamp", captured.market, captured.symbol'
    ).format(
        columns=_names(_CAPTURED),
        captured=_names(_CAPTURED, "captured"),
        source=source,
        captured_values=_names(VALUES, "captured"),
        known_values=_names(VALUES, "known"),
    )


def read(market: Market, spans: Iterable[Span], as_of: datetime | None) -> sql.Composed:
    """Bars of spans, with the values known at a moment (None: now), in no order. Columns: `SCHEMA`, then `channel`."""
    known_at = sql.Literal("infinity" if as_of is None else as_of)
    table = sql.SQL("bars_as_of({known_at}::timestamptz)").format(known_at=known_at)
    return _AND_ALL.join(_select((*SCHEMA, "channel"), table, market, *span) for span in spans)


def newest(market: Market) -> sql.Composed:
    """The timestamp of the newest bar of a market, null where there is none: one step in the index. Column: `newest_ms`."""
    return sql.SQL('select max("timestamp") as newest_ms from bars where market = {market}').format(
        market=sql.Literal(str(market))
    )


def keys(market: Market, interval: Interval, symbols: Sequence[str] | None = None) -> sql.Composed:
    """The symbol and timestamp of every stored bar, by default of all symbols, in no order."""
    return _select(("symbol", "timestamp"), sql.Identifier("bars"), market, interval, symbols)


def counts(market: Market, spans: Iterable[Span], as_of: datetime | None) -> sql.Composed:
    """How many bars of each symbol and UTC day were stored up to a moment (None: now). Columns: `symbol`, `day`, `bars`."""
    known: sql.Composable = sql.SQL("")
    if as_of is not None:
        known = sql.SQL(" and knowledge_timestamp <= {as_of}::timestamptz").format(as_of=sql.Literal(as_of))
    kept = (_select(("symbol", "timestamp"), sql.Identifier("bars"), market, *span) + known for span in spans)
    return sql.SQL(
        'select symbol, "timestamp" / {day_ms} as day, count(*) as bars from ({kept}) as kept group by symbol, day'
    ).format(day_ms=sql.Literal(DAY_MS), kept=_AND_ALL.join(kept))


def revisions(market: Market, interval: Interval) -> sql.Composed:
    """Every later capture that differed. Columns: `SCHEMA`, then `channel, run_id, reason, revision`."""
    columns = (*SCHEMA, "channel", "run_id", "reason", "revision")
    return _select(columns, sql.Identifier("bar_revisions"), market, interval, None)


def first_known(
    market: Market, interval: Interval, symbols: Sequence[str] | None, since: datetime, until: datetime
) -> sql.Composed:
    """The key of the bars first stored after `since` and up to `until`, and when. Columns: `SCHEMA`, less the values."""
    columns = (*KEY, "knowledge_timestamp")
    return _select(columns, sql.Identifier("bars"), market, interval, symbols) + _between(since, until)


def revised(
    market: Market, interval: Interval, symbols: Sequence[str] | None, since: datetime, until: datetime
) -> sql.Composed:
    """The revisions stored after `since` and up to `until`. Columns: `SCHEMA`, then `reason, revision`."""
    columns = (*SCHEMA, "reason", "revision")
    return _select(columns, sql.Identifier("bar_revisions"), market, interval, symbols) + _between(since, until)


def before_revised(
    market: Market, interval: Interval, symbols: Sequence[str] | None, since: datetime, until: datetime
) -> sql.Composed:
    """What was known at `since` of the bars that `revised` tells of. Columns: `SCHEMA`."""
    table = sql.SQL("bars_as_of({since}::timestamptz)").format(since=sql.Literal(since))
    concerned = _select(("timestamp", "symbol"), sql.Identifier("bar_revisions"), market, interval, symbols)
    return (
        _select(tuple(SCHEMA), table, market, interval, symbols)
        + sql.SQL(' and ("timestamp", symbol) in (')
        + concerned
        + _between(since, until)
        + sql.SQL(")")
    )


def _between(since: datetime, until: datetime) -> sql.Composed:
    return sql.SQL(
        " and knowledge_timestamp > {since}::timestamptz and knowledge_timestamp <= {until}::timestamptz"
    ).format(since=sql.Literal(since), until=sql.Literal(until))


def _select(
    columns: Sequence[str],
    table: sql.Composable,
    market: Market,
    interval: Interval,
    symbols: Sequence[str] | None,
) -> sql.Composed:
    # Literals that psycopg quotes, not parameters: ADBC reads with COPY, at twice the speed, when there are none.
    statement = sql.SQL(
        'select {columns} from {table} where market = {market} and "timestamp" >= {start_ms} and "timestamp" < {end_ms}'
    ).format(
        columns=_names(columns),
        table=table,
        market=sql.Literal(str(market)),
        start_ms=sql.Literal(interval.start_ms),
        end_ms=sql.Literal(interval.end_ms),
    )
    if symbols is None:
        return statement
    wanted = sql.Literal([str(symbol) for symbol in symbols])
    return statement + sql.SQL(" and symbol = any({symbols}::text[])").format(symbols=wanted)
