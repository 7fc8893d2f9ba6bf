"""Where the lake's objects lie: a folder or an S3 bucket, behind one small interface that is atomic on both.

Lives here: reading, writing, conditional writing and listing of whole objects by key; the turning of the stores' errors
into ours; retries. Does not: what is inside an object (storage/bars_file.py), or what a key means (storage/lake.py).

A folder is written by a temporary file, fsync and rename, because an answer "stored" must survive a power cut and a
kill -9 must leave the old file or none; obstore's own folder store renames but does not sync. S3 is spoken by obstore:
a single PUT is atomic there. Credentials and endpoint of S3 come from the usual AWS_* environment variables.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import filelock
import obstore
import stamina
from obstore import exceptions as s3_errors
from obstore.store import S3Store

from ohlcv_assets.errors import BadSetting, LakeUnavailable, Refused, UsageError
from ohlcv_assets.logs import get_logger

_log = get_logger()

_P = ParamSpec("_P")
_T = TypeVar("_T")
_ask_again = stamina.RetryingCaller(attempts=6, timeout=60.0, wait_initial=0.25, wait_max=8.0).on(LakeUnavailable)
_LOCK_TIMEOUT_S, _LOCK_POLL_S = 60.0, 0.005
#: A write takes seconds; a temporary file that nobody has touched for an hour has lost its writer.
_ORPHAN_AGE_S = 3600.0
_FOR_GOOD = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


def _retried(method: Callable[_P, _T]) -> Callable[_P, _T]:
    # stamina's own decorator logs every argument, and one of ours is a day's file.
    @wraps(method)
    def again(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return _ask_again(method, *args, **kwargs)

    return again


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


def open_store(url: str) -> ObjectStore:
    """The store behind a folder's path or `s3://bucket/prefix`.

    Raises:
        BadSetting: another scheme.
    """
    if url.startswith("s3://"):
        return BucketStore(url)
    if "://" in url and not url.startswith("file://"):
        raise BadSetting(f"{url!r} is no lake", hint="set OHLCV_LAKE to a folder or to s3://bucket/prefix")
    return FolderStore(Path(url.removeprefix("file://")))


def checked_key(key: str) -> str:
    """The key itself, when it cannot lead out of the lake or to the store's own hidden files.

    Raises:
        UsageError: an empty or hidden part, `..`, a backslash or a control character.
    """
    if not all(re.fullmatch(r"[^\\\x00-\x1f\x7f]+", part) and not part.startswith(".") for part in key.split("/")):
        raise UsageError(f"{key!r} is no key of the lake", hint="use names that do not begin with a dot, joined by /")
    return key


class FolderStore:
    """Objects as files of a folder, which is made when the first one is written."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    @_retried
    def get(self, key: str) -> StoredObject | None:
        """See `ObjectStore`."""
        path = self._path(key)
        with _folder_errors(path):
            try:
                with path.open("rb") as file:
                    return StoredObject(file.read(), _tag(os.fstat(file.fileno())))
            except FileNotFoundError:
                return None

    @_retried
    def put(self, key: str, content: bytes) -> str:
        """See `ObjectStore`."""
        path = self._path(key)
        with _folder_errors(path), self._staged(path, content) as staged, self._lock():
            return self._publish(staged, path)

    @_retried
    def put_if(self, key: str, content: bytes, *, replacing: str | None) -> str | None:
        """See `ObjectStore`. The folder has no conditional write: one lock for all its writers makes it one."""
        path = self._path(key)
        with _folder_errors(path), self._staged(path, content) as staged, self._lock():
            found = self.head(key)
            if (found[0] if found else None) != replacing:
                return None
            return self._publish(staged, path)

    @_retried
    def head(self, key: str) -> tuple[str, int] | None:
        """See `ObjectStore`."""
        path = self._path(key)
        with _folder_errors(path):
            try:
                status = path.stat()
            except FileNotFoundError:
                return None
            return _tag(status), status.st_size

    @_retried
    def keys(self, prefix: str) -> list[str]:
        """See `ObjectStore`."""
        folder = self._path(prefix)
        with _folder_errors(folder):
            files = [path.relative_to(self._root) for path in folder.rglob("*") if path.is_file()]
        return sorted(path.as_posix() for path in files if not path.name.startswith("."))

    def location(self, key: str) -> str:
        """See `ObjectStore`."""
        return str(self._path(key))

    def scan_options(self) -> dict[str, str | int]:
        """See `ObjectStore`."""
        return {}

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


@contextmanager
def _folder_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except filelock.Timeout as error:
        raise LakeUnavailable(f"another writer holds the lake's lock: {error}", hint="wait for it to end") from error
    except OSError as error:
        if error.errno in _FOR_GOOD:
            raise Refused(
                f"{path}: {error.strerror}", hint="make the lake's folder writable for this user"
            ) from error
        raise LakeUnavailable(
            f"{path}: {error.strerror or error}", hint="look at the disk: is it full, is it mounted?"
        ) from error


_AWS_VARIABLES = (
    "aws_endpoint_url",
    "aws_allow_http",
    "aws_region",
    "aws_default_region",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
)


class BucketStore:
    """Objects of an S3 bucket below a prefix; `url` is s3://bucket/prefix."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # obstore reads these itself. polars would, too, but only once a process and bucket, and keeps them for ever.
        found = {name: os.environ[name.upper()] for name in _AWS_VARIABLES if name.upper() in os.environ}
        self._scan_options: dict[str, str | int] = {**found, "max_retries": 4}
        # stamina alone decides about retries: two policies on top of each other multiply.
        retry = {"max_retries": 0, "retry_timeout": timedelta(seconds=60)}
        try:
            self._store = S3Store.from_url(self._url, retry_config=retry, virtual_hosted_style_request=False)  # type: ignore[arg-type]
        except (s3_errors.BaseError, ValueError) as error:
            raise BadSetting(
                f"{url!r} is no bucket: {_first_line(error)}", hint="write s3://bucket/prefix"
            ) from error

    @_retried
    def get(self, key: str) -> StoredObject | None:
        """See `ObjectStore`."""
        with _bucket_errors(self.location(key)):
            try:
                answer = obstore.get(self._store, key)
                return StoredObject(bytes(answer.bytes()), answer.meta["e_tag"] or "")
            except FileNotFoundError:
                return None

    @_retried
    def put(self, key: str, content: bytes) -> str:
        """See `ObjectStore`."""
        with _bucket_errors(self.location(key)):
            return obstore.put(self._store, key, content, use_multipart=False)["e_tag"] or ""

    @_retried
    def put_if(self, key: str, content: bytes, *, replacing: str | None) -> str | None:
        """See `ObjectStore`. When an answer was lost and the PUT was asked again, None may mean: our first was taken."""
        mode: obstore.PutMode = "create" if replacing is None else {"e_tag": replacing}
        with _bucket_errors(self.location(key)):
            try:
                return obstore.put(self._store, key, content, mode=mode, use_multipart=False)["e_tag"] or ""
            except (s3_errors.AlreadyExistsError, s3_errors.PreconditionError):
                return None

    @_retried
    def head(self, key: str) -> tuple[str, int] | None:
        """See `ObjectStore`."""
        with _bucket_errors(self.location(key)):
            try:
                meta = obstore.head(self._store, key)
            except FileNotFoundError:
                return None
            return meta["e_tag"] or "", meta["size"]

    @_retried
    def keys(self, prefix: str) -> list[str]:
        """See `ObjectStore`."""
        with _bucket_errors(self.location(prefix)):
            return sorted(meta["path"] for batch in obstore.list(self._store, prefix) for meta in batch)

    def location(self, key: str) -> str:
        """See `ObjectStore`."""
        return f"{self._url}/{checked_key(key)}"

    def scan_options(self) -> dict[str, str | int]:
        """See `ObjectStore`."""
        return self._scan_options


_REFUSED = (s3_errors.PermissionDeniedError, s3_errors.UnauthenticatedError)
#: obstore tells some refusals (of a list, say) by the status in the text alone. 408, 409 and 429 may pass.
_REFUSALS = re.compile(r"status code: 4(?!08|09|29)\d\d")


@contextmanager
def _bucket_errors(location: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:  # of a PUT or a list: it is the bucket that is missing
        raise Refused(f"{location}: {_first_line(error)}", hint="make the bucket, or correct OHLCV_LAKE") from error
    except (s3_errors.BaseError, OSError) as error:
        if _REFUSALS.search(_first_line(error)) or isinstance(error, _REFUSED):
            raise Refused(
                f"{location}: {_first_line(error)}", hint="look at AWS_ACCESS_KEY_ID and at the bucket's policy"
            ) from error
        raise LakeUnavailable(
            f"{location}: {_first_line(error)}", hint="look at AWS_ENDPOINT_URL, AWS_REGION and the network"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]
