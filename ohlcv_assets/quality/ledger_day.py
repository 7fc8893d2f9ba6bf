"""The ledger of a UTC day: made of what both stores hold, and kept in both.

Lives here: which bars and evidence a day's ledger is made of, and where it is kept. Does not: the states (ledger.py), the evidence
(evidence.py), or the tables (storage/quality_store.py).
"""

from __future__ import annotations

import io
from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.errors import DayMissing
from ohlcv_assets.quality.evidence import evidence_of_day
from ohlcv_assets.quality.ledger import Ledger, ledger
from ohlcv_assets.storage.lake import Signature
from ohlcv_assets.storage.quality_store import QualityStore
from ohlcv_assets.storage.signature import SPEAKS_OF, ledger_key
from ohlcv_assets.timestamps import Interval, from_ms

if TYPE_CHECKING:
    from ohlcv_assets.instruments import Market, Universe
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake


def ledger_of_day(database: Database, lake: Lake, universe: Universe, market: Market, day: date) -> Ledger:
    """In which state every minute of every symbol of the universe is, by what both stores hold now.

    A day that was never downloaded is a day of which nothing was fetched.

    Raises:
        CorruptFile: the day's file is damaged.
    """
    interval, symbols = Interval.of_day(day), universe.symbols[market]
    streamed = database.read(market, interval, symbols=symbols)
    evidence = evidence_of_day(database, lake, universe, market, day)
    return ledger(
        streamed, _fetched(lake, Signature.daily(market, universe), day), symbols, market, interval, evidence
    )


def keep_ledger(database: Database, lake: Lake, universe: Universe, found: Ledger, *, run_id: str) -> tuple[int, str]:
    """Store a day's ledger as a new version in PostgreSQL, then as the newest one in the lake.

    Returns:
        The version, and where the lake's file is.

    Raises:
        InvalidBars: the ranges do not cover symbols times minutes exactly once; nothing was stored.
    """
    version = QualityStore(database).record_ledger(
        found.market,
        found.interval,
        found.ranges,
        universe=universe.version,
        bars_expected=found.expected,
        run_id=run_id,
    )
    return version, put_ledger(lake, universe, found)


def put_ledger(lake: Lake, universe: Universe, found: Ledger) -> str:
    """Store a day's ledger as the newest one in the lake; where its file is."""
    content = io.BytesIO()
    day = from_ms(found.interval.start_ms).date()
    fetched = _content_hash(lake, Signature.daily(found.market, universe), day)
    found.ranges.write_parquet(content, compression="zstd", metadata={SPEAKS_OF: fetched})
    return lake.put(ledger_key(found.market, universe, day), content.getvalue())


def _fetched(lake: Lake, signature: Signature, day: date) -> pl.DataFrame:
    try:
        return lake.read_day(signature, day)
    except DayMissing:
        return pl.DataFrame(schema=SCHEMA)


def _content_hash(lake: Lake, signature: Signature, day: date) -> str:
    try:
        return lake.content_hash_of(signature, day)
    except DayMissing:
        return ""
