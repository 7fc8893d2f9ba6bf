"""The lake: one immutable Parquet file a dataset and UTC day, which says by its path what it holds.

Lives here: the rules of writing (the same content again changes nothing, other content is a conflict, what is replaced
is kept) and of reading, also what was known before. Does not: the parts of a path (signature.py), the inside of a file
(bars_file.py, absent_file.py), what was replaced and how it is named (lake_versions.py), a file that is replaced while polars
reads it (steady.py), or folders and buckets (objects.py). Bars come from exchange/fetch.py; quality/ and client.py read them.

    periodic_daily/dagster/downloaded_1min/parquet/ohlcv/futures/v7_3/ccxt/binance/
        date=2025-06-01/bars.parquet                                       the day
        date=2025-06-01/absent.parquet                                     the minutes that it does not have, and why; alone: it has none
        date=2025-06-01/replaced/20250602T040000.000001Z-0123456789ab.parquet   what it was before, by when it was known
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Literal

import polars as pl

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.errors import (
    CorruptFile,
    LakeConflict,
    LakeUnavailable,
    NoBars,
    ObjectMissing,
    UsageError,
)
from ohlcv_assets.logs import get_logger
from ohlcv_assets.storage import absent_file
from ohlcv_assets.storage.absent_file import ABSENT_FILE, ABSENT_SCHEMA
from ohlcv_assets.storage.bars_file import DayFile, corrupt, decode, noted_content_hash
from ohlcv_assets.storage.changes import changes
from ohlcv_assets.storage.day_reader import missing_days
from ohlcv_assets.storage.lake_day import Day, Written
from ohlcv_assets.storage.lake_versions import Version, kept_name, known_since
from ohlcv_assets.storage.objects import StoredObject, open_store
from ohlcv_assets.storage.signature import BARS_FILE, Signature, days_with
from ohlcv_assets.storage.steady import Source, queried, scanned, steadily
from ohlcv_assets.timestamps import Interval, in_utc

__all__ = ["ABSENT_SCHEMA", "Lake", "Signature", "Version", "Written"]

_log = get_logger()


class Lake:
    """The objects below a folder or `s3://bucket/prefix` (then the AWS_* environment variables say the rest).

    Every method raises `LakeUnavailable` when the store does not answer after bounded retries, and `Refused` when
    it says no. As long as the store has not answered once it is waited for no longer than `first_contact_s`.
    """

    def __init__(self, url: str, *, first_contact_s: float | None = None) -> None:
        self._store = open_store(url, first_contact_s=first_contact_s)

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
        new = Day.of(signature, day, bars, universe_hash)
        stored = self._store.get(new.key)
        if stored is None:
            if self._put(new, replacing=None):
                return self._written(new, "created")
            stored = self._read_back(new.key)
            # The answer to our own PUT was lost: nobody else writes these very bytes.
            if stored.content == new.file:
                return self._written(new, "created")
        return self._second_write(new, stored, replace=replace)

    def read_day(
        self,
        signature: Signature,
        day: date,
        *,
        symbols: Sequence[str] | None = None,
        as_of: datetime | None = None,
    ) -> pl.DataFrame:
        """A UTC day's bars (`SCHEMA`), sorted by (symbol, timestamp).

        A whole day is compared with the hashes it was written with. With `symbols` only the row groups that hold
        them are read, and nothing is verified but that they can be read; a symbol that is not there gives no rows.

        Args:
            signature: the dataset.
            day: the UTC day.
            symbols: only these; None for all.
            as_of: tz-aware; the version that was the current one then. None: the present one.

        Raises:
            DayMissing: the day is not in the lake.
            NoBars: it was not yet there at `as_of`.
            CorruptFile: the content is not what was written.
            NaiveTime: `as_of` has no time zone.
        """
        if as_of is not None:
            return self._read_version(signature, day, symbols, in_utc(as_of))
        return self._read_key(signature.key(day), symbols)

    def versions(self, signature: Signature, day: date) -> list[Version]:
        """Every version of a day that can be read, oldest first; a damaged file that was replaced is none.

        Raises:
            DayMissing: the day is not in the lake.
            CorruptFile: the present version is damaged.
        """
        key = signature.key(day)
        current = self._present(key)
        kept = {key: known_since(key) for key in self._store.keys(f"{signature.folder(day)}/replaced")}
        # Who replaces a day keeps it first, and may be killed in between: then it is kept, and still the current one.
        former = [
            Version(known, self._content_hash(key), key, current=False)
            for key, known in kept.items()
            if known is not None and known != current.known_at
        ]
        return [*sorted(former, key=lambda version: version.known_at), current]

    def changes(self, signature: Signature, day: date, since: datetime, until: datetime) -> pl.DataFrame:
        """What became known of a day after `since` and up to `until`: the difference of the two as-of reads.

        Args:
            signature: the dataset.
            day: the UTC day.
            since: tz-aware; the day may have been unknown then, and every bar is new.
            until: tz-aware.

        Returns:
            `changes.CHANGES_SCHEMA`; a bar's knowledge_timestamp is that of the version that was current at `until`.

        Raises:
            DayMissing: the day is not in the lake.
            CorruptFile: the content is not what was written.
            NaiveTime: a moment has no time zone.
        """
        before, after = (self._known_at(signature, day, moment) for moment in (since, until))
        return changes(before, after)

    def content_hash_of(self, signature: Signature, day: date) -> str:
        """The content hash that the day's file notes (`bars_file.content_hash`), read without its rows.

        Raises:
            DayMissing: the day is not in the lake.
            CorruptFile: no Parquet file, or one that notes no hash.
        """
        return self._content_hash(signature.key(day))

    def write_absent(self, signature: Signature, day: date, absent: pl.DataFrame) -> str:
        """Store which minutes of a UTC day are not there and why, over what was said before; its full path or URL.

        Args:
            signature: the dataset.
            day: the UTC day.
            absent: `ABSENT_SCHEMA`, any order; no rows say that nothing is absent.

        Raises:
            InvalidBars: other columns, no minute of the day, or one twice.
        """
        key = f"{signature.folder(day)}/{ABSENT_FILE}"
        self._store.put(key, absent_file.encode(absent, Interval.of_day(day)))
        return self._store.location(key)

    def read_absent(self, signature: Signature, day: date) -> pl.DataFrame:
        """Which minutes of a UTC day are known not to be there, and why.

        Returns:
            `ABSENT_SCHEMA`, sorted by (symbol, timestamp); no rows where nobody has said anything.

        Raises:
            CorruptFile: the file cannot be read.
        """
        key = f"{signature.folder(day)}/{ABSENT_FILE}"
        stored = self._store.get(key)
        if stored is None:
            return pl.DataFrame(schema=ABSENT_SCHEMA)
        return absent_file.decode(stored.content, self._store.location(key))

    def scan(self, signature: Signature, days: Sequence[date]) -> pl.LazyFrame:
        """The bars of these days (`SCHEMA`), read when collected: filters and columns are pushed down to the files.

        Sorted by (symbol, timestamp) within each day, days in the order given. Each collection reads each day as it is then, all of
        it of one content. Nothing is verified.

        Raises:
            DayMissing: names the days that are not in the lake.
        """
        there = set(self.days(signature))
        missing = [self._store.location(signature.key(day)) for day in days if day not in there]
        if missing:
            raise missing_days(missing)
        if not days:
            return pl.LazyFrame(schema=SCHEMA)
        return scanned(self._store, [signature.key(day) for day in days])

    def days(self, signature: Signature) -> list[date]:
        """The UTC days that are in the lake, in order."""
        return sorted(days_with(BARS_FILE, self._store.keys(signature.path)))

    def days_without_bars(self, signature: Signature) -> list[date]:
        """The UTC days without bars of which something is said by `read_absent`, in order; for every reader they are not in the lake.

        Such a day is known to have none, or somebody has removed its bars.
        """
        keys = self._store.keys(signature.path)
        return sorted(days_with(ABSENT_FILE, keys) - days_with(BARS_FILE, keys))

    def put(self, key: str, content: bytes) -> str:
        """Store another object (a report, a list of differing bars), over a former one; its full path or URL.

        Raises:
            UsageError: no legal key, or one of a day's bars, which only `write_day` writes.
        """
        if key.endswith((f"/{BARS_FILE}", f"/{ABSENT_FILE}")) or "/replaced/" in key:
            raise UsageError(f"{key!r} is a day's bars", hint="write them by write_day or write_absent")
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

    def keys(self, folder: str) -> list[str]:
        """Every key below a folder, sorted."""
        return self._store.keys(folder)

    def location(self, key: str) -> str:
        """The full path or URL of a key."""
        return self._store.location(key)

    def insist_on_writing(self) -> None:
        """Find out whether anything could be stored, before it is fetched; nothing is left of it."""
        self._store.insist_on_writing()

    def scan_options(self) -> dict[str, str | int]:
        """What polars must be told to read the same locations with the same credentials."""
        return self._store.scan_options()

    def _second_write(self, new: Day, stored: StoredObject, *, replace: bool) -> Written:
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
            raise new.conflict(location, former)
        return self._replace(new, stored, former)

    def _replace(self, new: Day, stored: StoredObject, former: DayFile | None) -> Written:
        kept = f"{new.key.removesuffix(BARS_FILE)}replaced/{kept_name(stored.content, former)}"
        self._store.put(kept, stored.content)
        if not self._put(new, replacing=stored.e_tag) and self._read_back(new.key).content != new.file:
            raise LakeConflict(
                f"{self._store.location(new.key)} was changed by another writer meanwhile",
                hint="read the day again, and replace it only if it is still wrong",
            )
        _log.info("day replaced in the lake", key=new.key, kept=kept, content_hash=new.content_hash)
        return self._written(new, "replaced", replaced_key=kept)

    def _put(self, new: Day, *, replacing: str | None) -> bool:
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
        new: Day,
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

    def _read_version(
        self, signature: Signature, day: date, symbols: Sequence[str] | None, as_of: datetime
    ) -> pl.DataFrame:
        bars = self._read_key(self._version_at(signature, day, as_of).key, symbols)
        if (bars["knowledge_timestamp"] > as_of).any():
            # The present version was replaced before it was read: by now it is a former one, which nobody replaces.
            return self._read_key(self._version_at(signature, day, as_of).key, symbols)
        return bars

    def _read_key(self, key: str, symbols: Sequence[str] | None) -> pl.DataFrame:
        if symbols is None:
            stored = self._store.get(key)
            if stored is None:
                raise missing_days([self._store.location(key)])
            return decode(stored.content, self._store.location(key)).bars
        return queried(self._store, key, lambda scan: scan.filter(pl.col("symbol").is_in(list(symbols))))

    def _present(self, key: str) -> Version:
        """The present version of a day: since when it was known and its hash, both of one and the same content."""

        def read(source: Source, options: dict[str, Any]) -> Version:
            noted = pl.read_parquet_metadata(source, **options)
            known = pl.read_parquet(
                source, columns=["knowledge_timestamp"], n_rows=1, hive_partitioning=False, **options
            )
            return Version(known.item(), noted_content_hash(noted, self._store.location(key)), key, current=True)

        return steadily(self._store, key, read)

    def _content_hash(self, key: str) -> str:
        noted = steadily(self._store, key, lambda source, options: pl.read_parquet_metadata(source, **options))
        return noted_content_hash(noted, self._store.location(key))

    def _version_at(self, signature: Signature, day: date, as_of: datetime) -> Version:
        versions = self.versions(signature, day)
        known = [version for version in versions if version.known_at <= as_of]
        if known:
            return known[-1]
        raise NoBars(
            f"{self._store.location(signature.key(day))} was not known at {as_of.isoformat()}",
            hint=f"ask for {versions[0].known_at.isoformat()} or later, when it was first stored",
        )

    def _known_at(self, signature: Signature, day: date, moment: datetime) -> pl.DataFrame:
        try:
            return self.read_day(signature, day, as_of=moment)
        except NoBars:
            return pl.DataFrame(schema=SCHEMA)
