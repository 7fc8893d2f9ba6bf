"""A day on its way into the lake: whether its bars are the day's, as which bytes they go, and what became of them.

Lives here: the checks before a day is written, and the answer afterwards. Does not: the writing (lake.py), or the inside
of the file (bars_file.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Literal

import polars as pl

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import InvalidBars, LakeConflict
from ohlcv_assets.storage.bars_file import DayFile, canonical, content_hash, encode
from ohlcv_assets.storage.signature import Signature
from ohlcv_assets.timestamps import Interval, iso


@dataclass(frozen=True)
class Written:
    """What became of a day that was handed to the lake.

    Attributes:
        key: inside the lake; `location` is the full path or URL.
        rows: bars in the file; `bytes` is its size.
        content_hash: of keys and values (see `bars_file.content_hash`).
        outcome: `unchanged` when the same content was there already (the object was not touched).
        replaced_key: where the former content is kept, when there was one.
    """

    key: str
    location: str
    rows: int
    bytes: int
    content_hash: str
    outcome: Literal["created", "unchanged", "replaced"]
    replaced_key: str | None = None


@dataclass(frozen=True)
class Day:
    """A day on its way into the lake: its key, its bars as they will be stored, and what the file notes of them."""

    key: str
    bars: pl.DataFrame
    content_hash: str
    universe_hash: str | None

    @classmethod
    def of(cls, signature: Signature, day: date, bars: pl.DataFrame, universe_hash: str | None) -> Day:
        """The day of these bars (`CAPTURED_SCHEMA`); the lake knows them from now on.

        Raises:
            InvalidBars: no bars, broken ones, two of one key, or bars of another day or market.
        """
        captured = _of_day(canonical(bars), signature, day)
        known = pl.lit(utc_now(), SCHEMA["knowledge_timestamp"])
        return cls(
            signature.key(day),
            captured.with_columns(knowledge_timestamp=known),
            content_hash(captured),
            universe_hash,
        )

    @cached_property
    def file(self) -> bytes:
        """The Parquet file: made when it is needed, which it is not for content that is there already."""
        return encode(self.bars, universe_hash=self.universe_hash)

    def conflict(self, location: str, former: DayFile | None) -> LakeConflict:
        """The error of a day that is there already with other content, or damaged."""
        there = f"{former.content_hash[:19]} ({former.bars.height} bars)" if former else "a damaged file"
        day, market = self.key.split("/date=")[1][:10], self.bars["market"][0]
        return LakeConflict(
            f"{location} holds {there}, the new bars are {self.content_hash[:19]} ({self.bars.height} bars)",
            # It is read in the UI, in a terminal and in Python: each finds its own words.
            hint=f"compare the two. To take the new one: `replace: true` in the launchpad, ohlcv verify --market {market} --day {day}, "
            "or write_day(replace=True); the old one is then kept under replaced/",
        )


def _of_day(frame: pl.DataFrame, signature: Signature, day: date) -> pl.DataFrame:
    interval = Interval.of_day(day)
    inside = pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left")
    alien = frame.filter(~inside | (pl.col("market") != signature.contract_type))
    if alien.is_empty():
        return frame
    first = alien.row(0, named=True)
    raise InvalidBars(
        f"{alien.height} of {frame.height} bars are not {signature.contract_type} bars of {day}, the first is "
        f"{first['market']} {first['symbol']} {iso(first['timestamp'])}",
        hint="hand each day's bars of one market to its own file",
    )
