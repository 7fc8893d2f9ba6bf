"""The ledger of a UTC day: made of what both stores hold, and kept in both.

Lives here: which bars and evidence a day's ledger is made of, and where it is kept. Does not: the states (ledger.py), the evidence
(evidence.py), or the tables (storage/quality_store.py).
"""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import date, datetime
from typing import TYPE_CHECKING, cast

import polars as pl

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.errors import DayMissing, LakeConflict
from ohlcv_assets.quality.evidence import evidence_of_day
from ohlcv_assets.quality.ledger import Ledger, ledger
from ohlcv_assets.storage.lake import Signature
from ohlcv_assets.storage.quality_store import QualityStore
from ohlcv_assets.storage.signature import SPEAKS_OF, STREAMED_UNTIL, ledger_key
from ohlcv_assets.timestamps import Interval, from_ms

if TYPE_CHECKING:
    from ohlcv_assets.instruments import Market, Universe
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake


def ledger_of_day(database: Database, lake: Lake, universe: Universe, market: Market, day: date) -> Ledger:
    """In which state every minute of every symbol of the universe is, by what both stores hold now.

    A day that was never downloaded is a day of which nothing was fetched. The ledger notes what it has seen of either side: what
    comes later is not what it speaks of.

    Raises:
        CorruptFile: the day's file is damaged.
    """
    interval, symbols = Interval.of_day(day), universe.symbols[market]
    streamed = database.read(market, interval, symbols=symbols)
    evidence = evidence_of_day(database, lake, universe, market, day)
    signature = Signature.daily(market, universe)
    # The hash first: of a day that is replaced in between the ledger then has the former hash, and verifies nothing.
    seen = _content_hash(lake, signature, day)
    found = ledger(streamed, _fetched(lake, signature, day), symbols, market, interval, evidence)
    until = cast("datetime | None", streamed["knowledge_timestamp"].max())
    return replace(found, fetched_hash=seen, streamed_until=until)


def keep_ledger(database: Database, lake: Lake, universe: Universe, found: Ledger, *, run_id: str) -> tuple[int, str]:
    """Store a day's ledger as a new version in PostgreSQL, then as the newest one in the lake.

    Returns:
        The version, and where the lake's file is.

    Raises:
        InvalidBars: the ranges do not cover symbols times minutes exactly once; nothing was stored.
        LakeConflict: the day was replaced since it was compared; nothing was stored.
    """
    day = from_ms(found.interval.start_ms).date()
    now = _content_hash(lake, Signature.daily(found.market, universe), day)
    if found.fetched_hash not in (None, now):
        raise LakeConflict(f"{day} was replaced while its ledger was made", hint="make the ledger of this day again")
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
    seen = found.fetched_hash
    if seen is None:
        seen = _content_hash(lake, Signature.daily(found.market, universe), day)
    until = found.streamed_until.isoformat() if found.streamed_until is not None else ""
    found.ranges.write_parquet(content, compression="zstd", metadata={SPEAKS_OF: seen, STREAMED_UNTIL: until})
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
