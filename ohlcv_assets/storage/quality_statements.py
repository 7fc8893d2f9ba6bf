"""The SQL about what is known of the bars: each statement once, its values always parameters.

Lives here: what is said to PostgreSQL to append to and read the tables of migrations/0002_quality.sql. Does not: running
it (quality_store.py), or the statements about bars (statements.py). Reads quote their values as literals, since ADBC
reads faster without parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from psycopg import sql

from ohlcv_assets.instruments import Market
from ohlcv_assets.timestamps import Interval

#: Parameters: one list a column, named like it.
INSERT_STREAM_MINUTES = (
    "insert into stream_minutes (market, minute_ms, run_id, shard, connected_s, bars_expected, bars_present) "
    "select * from unnest(%(market)s::text[], %(minute_ms)s::bigint[], %(run_id)s::text[], %(shard)s::text[], "
    "%(connected_s)s::double precision[], %(bars_expected)s::bigint[], %(bars_present)s::bigint[]) "
    "as said (market, minute_ms, run_id, shard, connected_s, bars_expected, bars_present) "
    "order by minute_ms, market, run_id, shard on conflict do nothing"
)
#: Parameters: one list a column, named like it.
INSERT_REPAIRS = (
    'insert into repairs (market, symbol, "timestamp", side, decision, reason, sources, before, after, run_id) '
    "select market, symbol, ts, side, decision, reason, sources::json, before::json, after::json, run_id "
    "from unnest(%(market)s::text[], %(symbol)s::text[], %(timestamp)s::bigint[], %(side)s::text[], "
    "%(decision)s::text[], %(reason)s::text[], %(sources)s::text[], %(before)s::text[], %(after)s::text[], "
    "%(run_id)s::text[]) "
    "as said (market, symbol, ts, side, decision, reason, sources, before, after, run_id) "
    "order by ts, market, symbol, side on conflict do nothing"
)

#: Versions are made one transaction at a time: the highest one is the last that was committed.
TAKE_TURNS = "select pg_advisory_xact_lock(hashtextextended('ohlcv_assets.ledger', 0))"
#: No row: the receipt was stored already.
INSERT_LEDGER_DAY = (
    "insert into ledger_days (market, day, start_ms, end_ms, universe, bars_expected, run_id, receipt) "
    "values (%(market)s, %(day)s, %(start_ms)s, %(end_ms)s, %(universe)s, %(bars_expected)s, %(run_id)s, %(receipt)s) "
    "on conflict do nothing returning version"
)
VERSION_OF_RECEIPT = "select max(version) from ledger_days where receipt = %(receipt)s"
COPY_RANGES = "copy ledger_ranges (version, symbol, start_ms, end_ms, state, cause, proof) from stdin (format csv)"

INSERT_FINDING = (
    "insert into findings (fingerprint, market, kind, sentence, detail, run_id, receipt) "
    "values (%(fingerprint)s, %(market)s, %(kind)s, %(sentence)s, %(detail)s::json, %(run_id)s, %(receipt)s) "
    "on conflict do nothing"
)
IS_OURS = "select receipt = %(receipt)s from findings where fingerprint = %(fingerprint)s"


def stream_minutes(columns: Sequence[str], market: Market, interval: Interval) -> sql.Composed:
    """The connection log, in no order."""
    return _of_bars(_names(columns), sql.Identifier("stream_minutes"), sql.Identifier("minute_ms"), market, interval)


def repairs(columns: Sequence[str], market: Market, interval: Interval) -> sql.Composed:
    """The decisions about bars, in no order; those columns that hold JSON as text."""
    as_text = {
        name: sql.SQL("{0}::text as {0}").format(sql.Identifier(name)) for name in ("sources", "before", "after")
    }
    listed = sql.SQL(", ").join(as_text.get(name, sql.Identifier(name)) for name in columns)
    return _of_bars(listed, sql.Identifier("repairs"), sql.Identifier("timestamp"), market, interval)


def ledger(market: Market, interval: Interval, as_of: datetime | None) -> sql.Composed:
    """The ranges that counted at a moment (None: now), clipped to the interval, in no order. Columns: `RANGES_SCHEMA`."""
    return sql.SQL(
        'select symbol, greatest(start_ms, {start_ms}) as start, least(end_ms, {end_ms}) as "end", '
        "state, cause, proof::text as proof from {clipped}"
    ).format(
        start_ms=sql.Literal(interval.start_ms),
        end_ms=sql.Literal(interval.end_ms),
        clipped=_ranges(market, interval, as_of),
    )


def ledger_counts(market: Market, interval: Interval) -> sql.Composed:
    """Minutes of the interval by day and state, in no order."""
    return sql.SQL(
        "select day, state, (sum(least(end_ms, {end_ms}) - greatest(start_ms, {start_ms})) / 60000)::bigint as bars "
        "from {clipped} group by day, state"
    ).format(
        start_ms=sql.Literal(interval.start_ms),
        end_ms=sql.Literal(interval.end_ms),
        clipped=_ranges(market, interval, None),
    )


def ledger_versions(market: Market, interval: Interval, as_of: datetime | None) -> sql.Composed:
    """Day, universe and knowledge_timestamp of every version of these days that was known then, the oldest first."""
    return sql.SQL(
        "select day, universe, knowledge_timestamp from ledger_days where market = {market} "
        "and day between (to_timestamp({start_ms} / 1000) at time zone 'UTC')::date "
        "and (to_timestamp(({end_ms} - 1) / 1000) at time zone 'UTC')::date "
        "and knowledge_timestamp <= {known_at}::timestamptz order by version"
    ).format(
        known_at=sql.Literal("infinity" if as_of is None else as_of),
        market=sql.Literal(str(market)),
        start_ms=sql.Literal(interval.start_ms),
        end_ms=sql.Literal(interval.end_ms),
    )


def findings(columns: Sequence[str], since: datetime | None) -> sql.Composed:
    """The findings stored since a moment, in no order; the detail as text."""
    listed = sql.SQL(", ").join(
        sql.SQL("detail::text as detail") if name == "detail" else sql.Identifier(name) for name in columns
    )
    moment = sql.Literal("-infinity" if since is None else since)
    return sql.SQL("select {listed} from findings where knowledge_timestamp >= {moment}::timestamptz").format(
        listed=listed, moment=moment
    )


def _ranges(market: Market, interval: Interval, as_of: datetime | None) -> sql.Composed:
    """`from` and `where` of the ranges that touch the interval; the day is what the index knows."""
    return sql.SQL(
        "ledger_as_of({known_at}::timestamptz) where market = {market} and start_ms < {end_ms} and end_ms > {start_ms} "
        "and day between (to_timestamp({start_ms} / 1000) at time zone 'UTC')::date "
        "and (to_timestamp({end_ms} / 1000) at time zone 'UTC')::date"
    ).format(
        known_at=sql.Literal("infinity" if as_of is None else as_of),
        market=sql.Literal(str(market)),
        start_ms=sql.Literal(interval.start_ms),
        end_ms=sql.Literal(interval.end_ms),
    )


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in columns)


def _of_bars(
    columns: sql.Composed, table: sql.Identifier, time: sql.Identifier, market: Market, interval: Interval
) -> sql.Composed:
    return sql.SQL(
        "select {columns} from {table} where market = {market} and {time} >= {start_ms} and {time} < {end_ms}"
    ).format(
        columns=columns,
        table=table,
        time=time,
        market=sql.Literal(str(market)),
        start_ms=sql.Literal(interval.start_ms),
        end_ms=sql.Literal(interval.end_ms),
    )
