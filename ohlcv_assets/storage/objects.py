"""Where the lake's objects lie: a folder or an S3 bucket, behind one small interface that is atomic on both.

Lives here: reading, writing, conditional writing and listing of whole objects by key. Does not: what a store's error means
(storage/store_errors.py), how long a store is asked again (storage/patience.py), what is inside an object (storage/bars_file.py),
or what a key means (storage/lake.py).

A folder is written by a temporary file, fsync and rename, because an answer "stored" must survive a power cut and a
kill -9 must leave the old file or none; obstore's own folder store renames but does not sync. S3 is spoken by obstore:
a single PUT is atomic there. Credentials and endpoint of S3 come from the usual AWS_* environment variables.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import filelock
import obstore
from obstore import exceptions as s3_errors
from obstore.store import S3Store

from ohlcv_assets.errors import BadSetting, UsageError
from ohlcv_assets.logs import get_logger
from ohlcv_assets.storage.patience import PatientStore, retried
from ohlcv_assets.storage.store_errors import bucket_errors, first_line, folder_errors

_log = get_logger()

_LOCK_TIMEOUT_S, _LOCK_POLL_S = 60.0, 0.005
#: A write takes seconds; a temporary file that nobody has touched for an hour has lost its writer.
_ORPHAN_AGE_S = 3600.0

#: One pattern for all parts: a read of a year asks for 365 keys.
_PART = r"(?!\.)[^/\\\x00-\x1f\x7f]+"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")


@dataclass(frozen=True)
class StoredObject:
    """A whole object as it was read, with the tag that names this version of it."""

    content: bytes
    e_tag: str


class ObjectStore(Protocol):
    """Whole objects by key. Every method raises `LakeUnavailable` (after retries) or `Refused`."""

    def get(self, key: str) -> StoredObject | None:
        """The object, or None where there is none."""
        ...

    def put(self, key: str, content: bytes) -> str:
        """Write the object, over whatever was there; its tag."""
        ...

    def put_if(self, key: str, content: bytes, *, replacing: str | None) -> str | None:
        """Write the object where its tag is `replacing` (None: where there is none); its tag, or None: not written."""
        ...

    def head(self, key: str) -> tuple[str, int] | None:
        """Tag and size in bytes, or None where there is no object."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """Every key below `prefix`/, sorted."""
        ...

    def location(self, key: str) -> str:
        """The full path or URL of a key, as other programs know it."""
        ...

    def scan_options(self) -> dict[str, str | int]:
        """What polars must be told to read the same locations with the same credentials."""
        ...

    def insist_on_writing(self) -> None:
        """Find out whether an object could be written here; nothing is left of it."""
        ...


def open_store(url: str, *, first_contact_s: float | None = None) -> ObjectStore:
    """The store behind a folder's path or `s3://bucket/prefix`.

    Args:
        url: where it is.
        first_contact_s: how many seconds it is waited for as long as it has not answered once; None: as many as ever.

    Raises:
        BadSetting: another scheme.
    """
    if url.startswith("s3://"):
        return BucketStore(url, first_contact_s)
    if "://" in url and not url.startswith("file://"):
        raise BadSetting(f"{url!r} is no lake", hint="set OHLCV_LAKE to a folder or to s3://bucket/prefix")
    return FolderStore(Path(url.removeprefix("file://")), first_contact_s)


def checked_key(key: str) -> str:
    """The key itself, when it cannot lead out of the lake or to the store's own hidden files.

    Raises:
        UsageError: an empty or hidden part, `..`, a backslash or a control character.
    """
    if not _KEY.fullmatch(key):
        raise UsageError(f"{key!r} is no key of the lake", hint="use names that do not begin with a dot, joined by /")
    return key


class FolderStore(PatientStore):
    """Objects as files of a folder, which is made when the first one is written."""

    def __init__(self, root: Path, first_contact_s: float | None = None) -> None:
        super().__init__(first_contact_s)
        self._root = root.expanduser().absolute()

    @retried
    def get(self, key: str) -> StoredObject | None:
        """See `ObjectStore`."""
        path = self._path(key)
        with folder_errors(path):
            try:
                with path.open("rb") as file:
                    return StoredObject(file.read(), _tag(os.fstat(file.fileno())))
            except FileNotFoundError:
                return None

    @retried
    def put(self, key: str, content: bytes) -> str:
        """See `ObjectStore`."""
        path = self._path(key)
        with folder_errors(path), self._staged(path, content) as staged, self._lock():
            return self._publish(staged, path)

    @retried
    def put_if(self, key: str, content: bytes, *, replacing: str | None) -> str | None:
        """See `ObjectStore`. The folder has no conditional write: one lock for all its writers makes it one."""
        path = self._path(key)
        with folder_errors(path), self._staged(path, content) as staged, self._lock():
            found = self.head(key)
            if (found[0] if found else None) != replacing:
                return None
            return self._publish(staged, path)

    @retried
    def head(self, key: str) -> tuple[str, int] | None:
        """See `ObjectStore`."""
        path = self._path(key)
        with folder_errors(path):
            try:
                status = path.stat()
            except FileNotFoundError:
                return None
            return _tag(status), status.st_size

    @retried
    def keys(self, prefix: str) -> list[str]:
        """See `ObjectStore`."""
        folder = self._path(prefix)
        with folder_errors(folder):
            _insist_on_folder(folder)
            files = [path.relative_to(self._root) for path in folder.rglob("*") if path.is_file()]
        return sorted(path.as_posix() for path in files if not path.name.startswith("."))

    def location(self, key: str) -> str:
        """See `ObjectStore`."""
        return f"{self._root}/{checked_key(key)}"

    def scan_options(self) -> dict[str, str | int]:
        """See `ObjectStore`."""
        return {}

    @retried
    def insist_on_writing(self) -> None:
        """See `ObjectStore`. The folder need not be there: then one can be made in the nearest above it that is."""
        folder = self._root
        with folder_errors(self._root):
            while not folder.exists():
                folder = folder.parent
            with tempfile.TemporaryFile(dir=folder, prefix=".probe."):
                return

    def _path(self, key: str) -> Path:
        return self._root.joinpath(*checked_key(key).split("/"))

    def _lock(self) -> filelock.BaseFileLock:
        return filelock.FileLock(self._root / ".lock", timeout=_LOCK_TIMEOUT_S, poll_interval=_LOCK_POLL_S)

    @contextmanager
    def _staged(self, path: Path, content: bytes) -> Iterator[Path]:
        """The content in a temporary file beside its place, on the disk for good; removed again when not published."""
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            with staged.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield staged
        finally:
            staged.unlink(missing_ok=True)

    def _publish(self, staged: Path, path: Path) -> str:
        tag = _tag(staged.stat())
        staged.replace(path)
        # The rename, and each new folder above it, is on the disk only when its folder is.
        for folder in (path.parent, *path.parent.parents):
            _sync_folder(folder)
            if folder == self._root:
                break
        return tag


def _insist_on_folder(folder: Path) -> None:
    """A folder that is not there has no files; one that can never be there is an error, which a search would not tell."""
    with suppress(FileNotFoundError):
        folder.stat()


def _tag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    oldest_s = time.time() - _ORPHAN_AGE_S
    for orphan in folder.glob(".*.tmp"):
        try:
            if orphan.stat().st_mtime < oldest_s:
                orphan.unlink()
                _log.info("orphan of a killed writer removed", path=str(orphan))
        except FileNotFoundError:
            continue  # another writer swept it first


_AWS_VARIABLES = (
    "aws_endpoint_url",
    "aws_allow_http",
    "aws_region",
    "aws_default_region",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
)


class BucketStore(PatientStore):
    """Objects of an S3 bucket below a prefix; `url` is s3://bucket/prefix."""

    def __init__(self, url: str, first_contact_s: float | None = None) -> None:
        super().__init__(first_contact_s)
        self._url = url.rstrip("/")
        # obstore reads these itself. polars would, too, but only once a process and bucket, and keeps them for ever.
        found = {name: os.environ[name.upper()] for name in _AWS_VARIABLES if name.upper() in os.environ}
        self._scan_options: dict[str, str | int] = {**found, "max_retries": 4}
        # stamina alone decides about retries: two policies on top of each other multiply.
        retry = {"max_retries": 0, "retry_timeout": timedelta(seconds=60)}
        try:
            self._store = S3Store.from_url(self._url, retry_config=retry, virtual_hosted_style_request=False)  # type: ignore[arg-type]
        except (s3_errors.BaseError, ValueError) as error:
            raise BadSetting(f"{url!r} is no bucket: {first_line(error)}", hint="write s3://bucket/prefix") from error

    @retried
    def get(self, key: str) -> StoredObject | None:
        """See `ObjectStore`."""
        with bucket_errors(self.location(key)):
            try:
                answer = obstore.get(self._store, key)
                return StoredObject(bytes(answer.bytes()), answer.meta["e_tag"] or "")
            except FileNotFoundError:
                return None

    @retried
    def put(self, key: str, content: bytes) -> str:
        """See `ObjectStore`."""
        with bucket_errors(self.location(key)):
            return obstore.put(self._store, key, content, use_multipart=False)["e_tag"] or ""

    @retried
    def put_if(self, key: str, content: bytes, *, replacing: str | None) -> str | None:
        """See `ObjectStore`. When an answer was lost and the PUT was asked again, None may mean: our first was taken."""
        mode: obstore.PutMode = "create" if replacing is None else {"e_tag": replacing}
        with bucket_errors(self.location(key)):
            try:
                return obstore.put(self._store, key, content, mode=mode, use_multipart=False)["e_tag"] or ""
            except (s3_errors.AlreadyExistsError, s3_errors.PreconditionError):
                return None

    @retried
    def head(self, key: str) -> tuple[str, int] | None:
        """See `ObjectStore`."""
        with bucket_errors(self.location(key)):
            try:
                meta = obstore.head(self._store, key)
            except FileNotFoundError:
                return None
            return meta["e_tag"] or "", meta["size"]

    @retried
    def keys(self, prefix: str) -> list[str]:
        """See `ObjectStore`."""
        with bucket_errors(self.location(prefix)):
            return sorted(meta["path"] for batch in obstore.list(self._store, prefix) for meta in batch)

    def location(self, key: str) -> str:
        """See `ObjectStore`."""
        return f"{self._url}/{checked_key(key)}"

    def scan_options(self) -> dict[str, str | int]:
        """See `ObjectStore`."""
        return self._scan_options

    @retried
    def insist_on_writing(self) -> None:
        """See `ObjectStore`. A PUT on a condition that nothing meets: it is refused as every PUT is, or stores nothing."""
        # A store that knows no conditions writes it: nobody else's object may have its name.
        probe = f"probe-{secrets.token_hex(16)}"
        with bucket_errors(self._url):
            # Not every store looks for the bucket before it looks at the condition.
            next(iter(obstore.list(self._store, probe)), None)
            try:
                obstore.put(self._store, probe, b"", mode={"e_tag": "no such tag"}, use_multipart=False)
            except (s3_errors.PreconditionError, FileNotFoundError):
                return
            obstore.delete(self._store, probe)
