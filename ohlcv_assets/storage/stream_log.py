"""The connection log of a running stream, on its way to PostgreSQL: it never holds up or ends the capture.

Lives here: `StreamLog`, which takes a row a minute and stores it beside the capture. Does not: the table
(quality_store.py), or knowing when a stream was connected (exchange/). While PostgreSQL is away rows wait in memory, a few
bytes a minute; what is still waiting when the run ends is lost, and said to be: the log then says less, and never
anything wrong.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.errors import DatabaseUnavailable
from ohlcv_assets.logs import get_logger
from ohlcv_assets.storage.quality_store import STREAM_MINUTES_SCHEMA, QualityStore

if TYPE_CHECKING:
    from ohlcv_assets.instruments import Market
    from ohlcv_assets.storage.database import Database

#: How long the end of a run waits for rows that are not stored yet, in our own seconds.
_PATIENCE_S = 2.0
#: Between two tries while the database is away; each waits already, for as long as this database's patience.
_PAUSE_S = 1.0
_log = get_logger()


class StreamLog:
    """The log of one run.

    Args:
        database: where it goes.
        market: that is streamed.
        run_id: of the run.
        part: of the universe that the run streams: `1/4` is the first of four, `1/1` all of it.
    """

    def __init__(self, database: Database, market: Market, run_id: str, part: str) -> None:
        self._store = QualityStore(database)
        self._common = {"market": market.value, "run_id": run_id, "shard": part}
        self._told: queue.SimpleQueue[pl.DataFrame | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        # A daemon: one that hangs does not keep the run's process from ending.
        self._storing = threading.Thread(target=self._store_all, name="connection log", daemon=True)

    def tell(self, minutes: pl.DataFrame) -> None:
        """Take rows of `minute_ms, connected_s, bars_expected, bars_present`, and return at once.

        A minute may be told again; what was told of it first stays.
        """
        if not self._storing.ident:
            self._storing.start()
        rows = minutes.with_columns(**{name: pl.lit(value) for name, value in self._common.items()})
        self._told.put(rows.select(pl.col(name).cast(dtype) for name, dtype in STREAM_MINUTES_SCHEMA.items()))

    def close(self) -> None:
        """Take no more, and wait a moment for what is not stored yet."""
        if not self._storing.ident:
            return
        self._told.put(None)
        self._storing.join(_PATIENCE_S)
        self._ended.set()
        if self._storing.is_alive():
            _log.warning("the connection log is not stored to its end: the database is away")

    def _store_all(self) -> None:
        ended = False
        while not ended:
            told = [self._told.get()]
            while not self._told.empty():
                told.append(self._told.get())
            rows = [frame for frame in told if frame is not None]
            ended = len(rows) < len(told)
            if rows:
                self._store_rows(pl.concat(rows))

    def _store_rows(self, rows: pl.DataFrame) -> None:
        """Store rows, however long the database is away, until the run is over; rows that it refuses are dropped."""
        while not self._is_done_with(rows):
            if self._ended.wait(_PAUSE_S):
                return

    def _is_done_with(self, rows: pl.DataFrame) -> bool:
        """Try once; whether there is nothing more to do about them."""
        try:
            self._store.record_stream_minutes(rows)
        except DatabaseUnavailable as error:
            _log.warning("the connection log waits for the database", minutes=rows.height, error=error.message)
            return False
        except Exception as error:  # noqa: BLE001  whatever it is, the bars go on
            _log.warning("the connection log cannot be stored", minutes=rows.height, error=repr(error)[:200])
        return True
