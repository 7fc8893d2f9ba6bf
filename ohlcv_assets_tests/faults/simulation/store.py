"""A database in memory, with the contract of `storage.database.Database` and the faults of one.

Lives here: `MemoryDatabase` (the first value wins, a differing later one is a revision, a batch goes in whole or not at all;
a test holds it against PostgreSQL), and `DatabaseOf`, one process's faulty way to it. Does not: judging what is in it.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import polars as pl

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, SCHEMA, VALUES, Channel, validate
from ohlcv_assets.errors import DatabaseUnavailable, InvalidBars
from ohlcv_assets.instruments import Market
from ohlcv_assets.storage.database import Recorded
from ohlcv_assets.timestamps import Interval
from ohlcv_assets_tests.faults.simulation.loop import Process
from ohlcv_assets_tests.faults.simulation.world import World

_VALUES_AT = slice(len(KEY), len(KEY) + len(VALUES))
#: The order in which the database takes a batch.
_SORTED = ("timestamp", "market", "symbol")
Key = tuple[str, str, int]


class Stored(NamedTuple):
    """One row of `bars` or of `bar_revisions`."""

    row: tuple[Any, ...]
    knowledge: datetime
    channel: str
    run_id: str
    reason: str

    @property
    def values(self) -> tuple[Any, ...]:
        """The bar's values, in the order of `bars.VALUES`."""
        return self.row[_VALUES_AT]


class MemoryDatabase:
    """Bars in a dict; the methods and their meaning are those of `Database`.

    Args:
        now: the clock of the database.

    Attributes:
        bars: the first capture of each key.
        revised: every later one that differed, in order.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.bars: dict[Key, Stored] = {}
        self.revised: list[Stored] = []
        self._latest: dict[Key, Stored] = {}
        self._now = now

    def record(self, bars: pl.DataFrame, *, channel: Channel, run_id: str, reason: str = "capture") -> Recorded:
        """Store captured bars (see `Database.record`)."""
        frame = validate(bars)
        if "end_download_timestamp" not in bars.columns or frame["end_download_timestamp"].null_count():
            raise InvalidBars("a bar has no end_download_timestamp")
        rows: dict[Key, tuple[Any, ...]] = {}
        for row in frame.select(list(CAPTURED_SCHEMA)).sort(*_SORTED, maintain_order=True).iter_rows():
            if rows.setdefault(row[:3], row)[_VALUES_AT] != row[_VALUES_AT]:
                raise InvalidBars(f"two different bars of {row[:3]} in one batch")
        inserted = revised = 0
        for key, row in rows.items():
            stored = Stored(row, self._now(), str(channel), run_id, reason)
            if key not in self.bars:
                self.bars[key] = self._latest[key] = stored
                inserted += 1
            elif self._latest[key].values != stored.values:
                self.revised.append(stored)
                self._latest[key] = stored
                revised += 1
        return Recorded(inserted, bars.height - inserted - revised, revised)

    def keys(self, market: Market, interval: Interval) -> pl.DataFrame:
        """What is stored already (see `Database.keys`)."""
        found = [key[1:] for key in self.bars if key[0] == market.value and key[2] in interval]
        return pl.DataFrame(sorted(found), schema={"symbol": pl.String, "timestamp": pl.Int64}, orient="row")

    def read(self, market: Market, interval: Interval) -> pl.DataFrame:
        """The bars with their latest values (see `Database.read`)."""
        found = [stored for key, stored in self._latest.items() if key[0] == market.value and key[2] in interval]
        rows = [(*stored.row, stored.knowledge, stored.channel) for stored in found]
        frame = pl.DataFrame(rows, schema={**SCHEMA, "channel": pl.String()}, orient="row")
        return frame.sort("symbol", "timestamp")

    def revisions(self, market: Market, interval: Interval) -> pl.DataFrame:
        """Every later capture that differed, oldest first (see `Database.revisions`)."""
        numbered = [
            (*stored.row, stored.knowledge, *stored[2:], number)
            for number, stored in enumerate(self.revised, start=1)
            if stored.row[0] == market.value and stored.row[2] in interval
        ]
        further = {"channel": pl.String(), "run_id": pl.String(), "reason": pl.String(), "revision": pl.Int64()}
        return pl.DataFrame(numbered, schema={**SCHEMA, **further}, orient="row")


class DatabaseOf:
    """One process's way to the database: away for a while, slow, or silent after it has done its work.

    Args:
        inner: a `MemoryDatabase` or a `Database`.
        world: whose faults it has, and where each batch is written down.
        process: a dead one reaches nothing.
    """

    def __init__(self, inner: Any, world: World, process: Process) -> None:
        self._inner, self._world, self._process = inner, world, process

    def record(
        self,
        bars: pl.DataFrame,
        *,
        channel: Channel,
        run_id: str,
        reason: str = "capture",
        patience_s: float | None = None,
    ) -> Recorded:
        """As the real one, or `DatabaseUnavailable`."""
        self._reach()
        found = self._inner.record(bars, channel=channel, run_id=run_id, reason=reason)
        keys = bars.select("symbol", "timestamp", "trade_count").rows()
        self._world.note(self._process.name, "recorded", channel, keys, *found)
        self._world.look_at(bars)
        if self._world.window("db_lost_acknowledgement"):
            self._world.inject("db_lost_acknowledgement")
            raise DatabaseUnavailable("the connection was lost after the commit")
        return found

    def keys(self, market: Market, interval: Interval) -> pl.DataFrame:
        """As the real one, or `DatabaseUnavailable`."""
        self._reach()
        return self._inner.keys(market, interval)

    def _reach(self) -> None:
        if self._process.cut_off:
            raise DatabaseUnavailable("this process is dead")
        if self._world.window("db_outage"):
            self._world.inject("db_outage")
            raise DatabaseUnavailable("the server does not answer")
