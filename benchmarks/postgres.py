"""Writes and reads of bars in a real PostgreSQL, beside what a plain client does.

Lives here: the cases and the table. Does not: any statement of ours (storage/database.py). The server is the embedded one, in a
folder of its own, with the settings that the platform gives it.

The plain client knows psycopg and pandas: a table with the same columns and primary key, `executemany` of inserts `on conflict do
nothing`, `COPY`, and a `select` into a pandas frame. It checks nothing, keeps no revision, and gives the newest values alone.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import psycopg

from benchmarks.common import markdown_table, median_s, once_s, require
from benchmarks.qa import day_of_bars
from ohlcv_assets.bars import CAPTURED_SCHEMA, SQL_TYPES, VALUES, Channel
from ohlcv_assets.clock import utc_now
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.local_postgres import LocalPostgres, bars_url
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval

TITLE = "PostgreSQL"
_DAY, _LATER = date(2025, 6, 1), date(2025, 7, 1)
_COLUMNS = ", ".join(CAPTURED_SCHEMA)
_TABLE = f"create table plain ({', '.join(f'{name} {SQL_TYPES[name]} not null' for name in CAPTURED_SCHEMA)}, primary key (market, symbol, timestamp))"  # fmt: skip
_INSERT = f"insert into plain ({_COLUMNS}) values ({', '.join(['%s'] * len(CAPTURED_SCHEMA))}) on conflict do nothing"  # noqa: S608
_COPY = f"copy plain ({_COLUMNS}) from stdin (format csv)"
_BATCH_ROWS = 500


@dataclass(frozen=True)
class Scale:
    """How much is written and read."""

    symbols: int = 500
    batches: int = 40
    month_symbols: int = 24
    month_days: int = 30
    times: int = 5


@dataclass(frozen=True)
class Bench:
    """Both clients at one server, and the bars."""

    database: Database
    plain: psycopg.Connection
    scale: Scale
    day: pl.DataFrame

    def writes(self) -> Iterator[tuple[object, ...]]:
        """The rows of the table about writing."""
        minutes = min(self.scale.batches, DAY_MS // MINUTE_MS)
        batches = [self._minute(number) for number in range(minutes)]
        ours = [once_s(lambda bars=bars: self._record(bars))[0] for bars in batches]
        plain = [once_s(lambda bars=bars: self._executemany(bars))[0] for bars in batches]
        rows = batches[0].height
        yield _row(f"a minute of {rows} symbols, median of {minutes}", rows, *map(statistics.median, (ours, plain)), "executemany")  # fmt: skip
        again_s = statistics.median(once_s(lambda bars=bars: self._record(bars))[0] for bars in batches)
        yield _row("the same once more: nothing is new", rows, again_s, None, "")
        taken_s, _ = once_s(lambda: self._record(self.day))
        self.plain.execute("truncate plain")
        copied_s, _ = once_s(self._copy)
        yield _row("a day of all symbols at once", self.day.height, taken_s, copied_s, "COPY")

    def reads(self) -> Iterator[tuple[object, ...]]:
        """The rows of the table about reading."""
        times, interval = self.scale.times, Interval.of_day(_DAY)
        taken_s, bars = median_s(lambda: self.database.read(Market.FUTURES, interval), times)
        require(_values(bars).equals(_values(self.day)), "a day of all symbols")
        query = "select * from plain order by symbol, timestamp"
        plain_s, frame = once_s(lambda: self._to_pandas(query))
        require(len(frame) == self.day.height, "a day of all symbols, pandas")
        yield _row("a day of all symbols", bars.height, taken_s, plain_s, "into pandas")
        yield from self._as_of(bars.height)
        month, one = self._month(), "T0000/USDT:USDT"
        span = Interval(Interval.of_day(_LATER).start_ms, Interval.of_day(_LATER).start_ms + self.scale.month_days * DAY_MS)  # fmt: skip
        taken_s, bars = median_s(lambda: self.database.read(Market.FUTURES, span, symbols=[one]), times)
        expected = month.filter(pl.col("symbol") == one)
        require(_values(bars).equals(_values(expected)), "one symbol")
        query = f"select * from plain where symbol = '{one}' and timestamp >= {span.start_ms} order by timestamp"  # noqa: S608
        plain_s, frame = median_s(lambda: self._to_pandas(query), 1)
        require(len(frame) == expected.height, "one symbol, pandas")
        name = f"one symbol, {self.scale.month_days} days, of {self.scale.month_symbols} symbols"
        yield _row(name, bars.height, taken_s, plain_s, "into pandas")

    def _as_of(self, rows: int) -> Iterator[tuple[object, ...]]:
        """What was known before a thousandth of the day was revised."""
        before, interval = utc_now() + timedelta(milliseconds=1), Interval.of_day(_DAY)
        revised = self.day.gather_every(1000).with_columns(close=(pl.col("high") + pl.col("low")) / 2)
        self._record(revised)
        taken_s, bars = median_s(lambda: self.database.read(Market.FUTURES, interval, as_of=before), self.scale.times)
        require(_values(bars).equals(_values(self.day)), "as of before the revisions")
        yield _row(f"the same as of before {revised.height} revisions", rows, taken_s, None, "")

    def _minute(self, number: int) -> pl.DataFrame:
        at_ms = Interval.of_day(_DAY).start_ms + number * MINUTE_MS
        return self.day.filter(pl.col("timestamp") == at_ms).head(_BATCH_ROWS)

    def _month(self) -> pl.DataFrame:
        days = [_LATER + timedelta(days=number) for number in range(self.scale.month_days)]
        bars = pl.concat(
            day_of_bars(self.scale.month_symbols, seed=number, day=day) for number, day in enumerate(days)
        )
        self._record(bars)
        self._copy(bars)
        self.plain.execute("analyze plain")
        return bars.sort("symbol", "timestamp")

    def _record(self, bars: pl.DataFrame) -> None:
        self.database.record(bars, channel=Channel.WEBSOCKET, run_id="bench")

    def _executemany(self, bars: pl.DataFrame) -> None:
        with self.plain.cursor() as cursor, self.plain.transaction():
            cursor.executemany(_INSERT, bars.rows())

    def _copy(self, bars: pl.DataFrame | None = None) -> None:
        text = (self.day if bars is None else bars).write_csv(include_header=False)
        with self.plain.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.write(text)

    def _to_pandas(self, query: str) -> Any:
        import pandas as pd

        with self.plain.cursor() as cursor:
            cursor.execute(query.encode())
            return pd.DataFrame(cursor.fetchall(), columns=[column.name for column in cursor.description or ()])


def run(scale: Scale | None = None) -> Iterator[str]:
    """The section: lines of Markdown, as they are ready."""
    scale = scale or Scale()
    # Not /tmp: PostgreSQL, when root starts it, runs as another user who must be able to enter.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ohlcv-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        settings = Settings(home=home, database_url=None, lake=None)
        try:
            with (
                Database.open(settings) as database,
                closing(psycopg.connect(bars_url(settings), autocommit=True)) as plain,
            ):
                plain.execute(_TABLE.encode())
                bench = Bench(database, plain, scale, day_of_bars(scale.symbols))
                yield from _tables(bench)
        finally:
            LocalPostgres(home).down()


def _tables(bench: Bench) -> Iterator[str]:
    for verb, rows in (("write", bench.writes), ("read", bench.reads)):
        head = (verb, "rows", "ours, ms", "rows/s", "plain, ms", "rows/s", "plain way", "ours x plain")
        yield from markdown_table(head, rows())
        yield ""
    yield "Ours checks every bar, keeps what differs as a revision and notes who brought it; the plain way does none of this."


def _values(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.select("symbol", "timestamp", *VALUES)


def _row(name: str, rows: int, ours_s: float, plain_s: float | None, way: str) -> tuple[object, ...]:
    ours = (f"{1000 * ours_s:,.1f}", f"{rows / ours_s:,.0f}")
    if plain_s is None:
        return name, rows, *ours, "", "", "", ""
    return name, rows, *ours, f"{1000 * plain_s:,.1f}", f"{rows / plain_s:,.0f}", way, f"{plain_s / ours_s:.2f}"
