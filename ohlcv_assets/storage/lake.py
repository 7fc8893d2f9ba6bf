"""The lake: one immutable Parquet file a dataset and UTC day, which says by its path what it holds.

Lives here: the signature of a dataset, the key of a day, and the rules of writing (the same content again changes
nothing, other content is a conflict, what is replaced is kept) and of reading. Does not: the inside of a file
(storage/bars_file.py), or folders and buckets (storage/objects.py). Bars come from exchange/fetch.py; quality/ and
client.py read them.

    periodic_daily/dagster/downloaded_1min/parquet/ohlcv/futures/v7_3/ccxt/binance/
        date=2025-06-01/bars.parquet                                       the day
        date=2025-06-01/replaced/20250602T040000.000001Z-0123456789ab.parquet   what it was before, by when it was known
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date
from functools import cached_property
from typing import Literal

import polars as pl

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import (
    CorruptFile,
    DayMissing,
    InvalidBars,
    LakeConflict,
    LakeUnavailable,
    ObjectMissing,
    UsageError,
)
from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.logs import get_logger
from ohlcv_assets.storage.bars_file import BROKEN_PARQUET, DayFile, canonical, content_hash, corrupt, decode, encode
from ohlcv_assets.storage.objects import StoredObject, open_store
from ohlcv_assets.timestamps import Interval, iso

_log = get_logger()

_FILE = "bars.parquet"
_DAY_KEY = re.compile(rf".*/date=(\d{{4}}-\d{{2}}-\d{{2}})/{re.escape(_FILE)}")


@dataclass(frozen=True)
class Signature:
    """What a dataset holds and how it came about: the folders of its path, in this order.

    Raises:
        UsageError: a part that is empty or could mean something in a path.
    """

    download_mode: str
    downloading_entity: str
    action_tag: str
    data_format: str
    data_type: str
    contract_type: str
    universe: str
    vendor: str
    exchange_id: str

    def __post_init__(self) -> None:
        for field in fields(self):
            part = getattr(self, field.name)
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", part):
                raise UsageError(
                    f"{field.name}={part!r} cannot be part of a path", hint="use letters, digits, _ and -"
                )

    @classmethod
    def daily(cls, market: Market, universe: Universe) -> Signature:
        """The dataset that the daily REST download of a market and universe fills."""
        return cls(
            download_mode="periodic_daily",
            downloading_entity="dagster",
            action_tag="downloaded_1min",
            data_format="parquet",
            data_type="ohlcv",
            contract_type=market.value,
            universe=universe.path_form,
            vendor="ccxt",
            exchange_id=universe.exchange_id,
        )

    @property
    def path(self) -> str:
        """The parts, joined by /."""
        return "/".join(getattr(self, field.name) for field in fields(self))

    def key(self, day: date) -> str:
        """The key of a UTC day's file."""
        return f"{self.path}/date={day.isoformat()}/{_FILE}"


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
class _Day:
    """A day on its way into the lake: its key, its bars as they will be stored, and what the file notes of them."""

    key: str
    bars: pl.DataFrame
    content_hash: str
    universe_hash: str | None

    @classmethod
    def of(cls, key: str, captured: pl.DataFrame, universe_hash: str | None) -> _Day:
        """The day of these canonical bars; the lake knows them from now on."""
        known = pl.lit(utc_now(), SCHEMA["knowledge_timestamp"])
        return cls(key, captured.with_columns(knowledge_timestamp=known), content_hash(captured), universe_hash)

    @cached_property
    def file(self) -> bytes:
        """The Parquet file: made when it is needed, which it is not for content that is there already."""
        return encode(self.bars, universe_hash=self.universe_hash)


class Lake:
    """The objects below a folder or `s3://bucket/prefix` (then the AWS_* environment variables say the rest).

    Every method raises `LakeUnavailable` when the store does not answer after bounded retries, and `Refused` when
    it says no.
    """

    def __init__(self, url: str) -> None:
        self._store = open_store(url)

    def write_day(
        self,
        signature: Signature,
        day: date,
        bars: pl.DataFrame,
        *,
        replace: bool = False,
        universe_hash: str | None = None,
    ) -> Written:
        """Store a UTC day's bars, once.

        Args:
            signature: the dataset.
            day: the UTC day that every bar lies in.
            bars: `CAPTURED_SCHEMA`, in any order; the lake sets their `knowledge_timestamp` (UTC, microseconds).
            replace: put other content in the place of a former one, which is kept under `replaced/`.
            universe_hash: content hash of the universe that was asked for, noted in the file.

        Raises:
            InvalidBars: no bars, broken ones, two of one key, or bars of another day or market.
            LakeConflict: the day is there with other content and `replace` is false, or another writer was faster.
            CorruptFile: the day is there, but damaged, and `replace` is false.
        """
        new = _Day.of(signature.key(day), _of_day(canonical(bars), signature, day), universe_hash)
        stored = self._store.get(new.key)
        if stored is None:
            if self._put(new, replacing=None):
                return self._written(new, "created")
            stored = self._read_back(new.key)
            # The answer to our own PUT was lost: nobody else writes these very bytes.
            if stored.content == new.file:
                return self._written(new, "created")
        return self._second_write(new, stored, replace=replace)

    def read_day(self, signature: Signature, day: date, *, symbols: Sequence[str] | None = None) -> pl.DataFrame:
        """A UTC day's bars (`SCHEMA`), sorted by (symbol, timestamp).

        A whole day is compared with the hashes it was written with. With `symbols` only the row groups that hold
        them are read, and nothing is verified but that they can be read; a symbol that is not there gives no rows.

        Raises:
            DayMissing: the day is not in the lake.
            CorruptFile: the content is not what was written.
        """
        key = signature.key(day)
        if symbols is not None:
            return self._read_symbols(key, symbols)
        stored = self._store.get(key)
        if stored is None:
            raise _missing([self._store.location(key)])
        return decode(stored.content, self._store.location(key)).bars

    def scan(self, signature: Signature, days: Sequence[date]) -> pl.LazyFrame:
        """The bars of these days (`SCHEMA`), read when collected: filters and columns are pushed down to the files.

        Sorted by (symbol, timestamp) within each day, days in the order given. Nothing is verified.

        Raises:
            DayMissing: names the days that are not in the lake.
        """
        there = set(self.days(signature))
        missing = [self._store.location(signature.key(day)) for day in days if day not in there]
        if missing:
            raise _missing(missing)
        if not days:
            return pl.LazyFrame(schema=SCHEMA)
        return self._scan([signature.key(day) for day in days])

    def days(self, signature: Signature) -> list[date]:
        """The UTC days that are in the lake, in order."""
        matches = (_DAY_KEY.fullmatch(key) for key in self._store.keys(signature.path))
        return sorted(date.fromisoformat(match[1]) for match in matches if match)

    def put(self, key: str, content: bytes) -> str:
        """Store another object (a report, a list of differing bars), over a former one; its full path or URL.

        Raises:
            UsageError: no legal key, or one of a day's bars, which only `write_day` writes.
        """
        if key.endswith(f"/{_FILE}") or "/replaced/" in key:
            raise UsageError(f"{key!r} is a day's bars", hint="write them by write_day")
        self._store.put(key, content)
        return self._store.location(key)

    def get(self, key: str) -> bytes:
        """The content of an object.

        Raises:
            ObjectMissing: there is none.
        """
        stored = self._store.get(key)
        if stored is None:
            raise ObjectMissing(f"{self._store.location(key)} is not in the lake", hint="look at the key")
        return stored.content

    def location(self, key: str) -> str:
        """The full path or URL of a key."""
        return self._store.location(key)

    def _second_write(self, new: _Day, stored: StoredObject, *, replace: bool) -> Written:
        location = self._store.location(new.key)
        try:
            former = decode(stored.content, location)
        except CorruptFile:
            if not replace:
                raise
            former = None
        if former is not None and former.content_hash == new.content_hash:
            return self._written(new, "unchanged", stored_bytes=len(stored.content))
        if not replace:
            raise _conflict(location, former, new)
        return self._replace(new, stored, former)

    def _replace(self, new: _Day, stored: StoredObject, former: DayFile | None) -> Written:
        kept = f"{new.key.removesuffix(_FILE)}replaced/{_kept_name(stored.content, former)}"
        self._store.put(kept, stored.content)
        if not self._put(new, replacing=stored.e_tag) and self._read_back(new.key).content != new.file:
            raise LakeConflict(
                f"{self._store.location(new.key)} was changed by another writer meanwhile",
                hint="read the day again, and replace it only if it is still wrong",
            )
        _log.info("day replaced in the lake", key=new.key, kept=kept, content_hash=new.content_hash)
        return self._written(new, "replaced", replaced_key=kept)

    def _put(self, new: _Day, *, replacing: str | None) -> bool:
        """Whether the day's file was put in the place of that version; what the store then says of it is checked."""
        tag = self._store.put_if(new.key, new.file, replacing=replacing)
        if tag is None:
            return False
        found = self._store.head(new.key)
        if found is None or (found[0] == tag and found[1] != len(new.file)):
            raise corrupt(self._store.location(new.key), f"{len(new.file)} bytes were stored, {found} are there")
        return True

    def _read_back(self, key: str) -> StoredObject:
        stored = self._store.get(key)
        if stored is None:
            raise LakeUnavailable(f"{self._store.location(key)} was there and is gone", hint="write the day again")
        return stored

    def _written(
        self,
        new: _Day,
        outcome: Literal["created", "unchanged", "replaced"],
        *,
        stored_bytes: int | None = None,
        replaced_key: str | None = None,
    ) -> Written:
        return Written(
            key=new.key,
            location=self._store.location(new.key),
            rows=new.bars.height,
            bytes=len(new.file) if stored_bytes is None else stored_bytes,
            content_hash=new.content_hash,
            outcome=outcome,
            replaced_key=replaced_key,
        )

    def _scan(self, keys: Sequence[str]) -> pl.LazyFrame:
        # Explicit paths: a scanned folder would take in what was replaced, and the debris of killed writers.
        return pl.scan_parquet(
            [self._store.location(key) for key in keys],
            glob=False,
            hive_partitioning=False,
            storage_options=self._store.scan_options(),
            credential_provider=None,  # both readers take the environment's credentials, neither asks boto3
        )

    def _read_symbols(self, key: str, symbols: Sequence[str]) -> pl.DataFrame:
        location = self._store.location(key)
        try:
            return self._scan([key]).filter(pl.col("symbol").is_in(list(symbols))).collect()
        except FileNotFoundError as error:
            raise _missing([location]) from error
        except OSError as error:
            raise LakeUnavailable(f"{location}: {str(error).splitlines()[0]}", hint="look at the store") from error
        except BROKEN_PARQUET as error:
            raise corrupt(location, str(error).splitlines()[0]) from error


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


def _kept_name(content: bytes, former: DayFile | None) -> str:
    """The same object always has the same name, so that keeping it twice keeps it once."""
    if former is None:
        return f"damaged-{hashlib.sha256(content).hexdigest()[:12]}.parquet"
    known = former.bars["knowledge_timestamp"][0].strftime("%Y%m%dT%H%M%S.%fZ")
    return f"{known}-{former.content_hash.removeprefix('sha256:')[:12]}.parquet"


def _conflict(location: str, former: DayFile | None, new: _Day) -> LakeConflict:
    there = f"{former.content_hash[:19]} ({former.bars.height} bars)" if former else "a damaged file"
    return LakeConflict(
        f"{location} holds {there}, the new bars are {new.content_hash[:19]} ({new.bars.height} bars)",
        hint="compare the two; write with replace=True to take the new one, the old one is then kept under replaced/",
    )


def _missing(locations: list[str]) -> DayMissing:
    more = f" and {len(locations) - 1} more" if len(locations) > 1 else ""
    return DayMissing(f"{locations[0]}{more} not in the lake", hint="materialize daily_bars of that day")
