"""What a store's error means: a folder's, a bucket's, or what polars meets when it reads one by itself.

Lives here: the turning of these errors into ours, each with what to do. Does not: asking again (storage/patience.py).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
from obstore import exceptions as s3_errors

from ohlcv_assets.errors import LakeUnavailable, OhlcvError, Refused

_FOR_GOOD = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
_LOOK_AT_DISK = "look at the disk: is it full, is it mounted?"
_LOOK_AT_NETWORK = "look at AWS_ENDPOINT_URL, AWS_REGION and the network"
_XML = ': <?xml version="1.0" encoding="UTF-8"?>'
_REFUSED = (s3_errors.PermissionDeniedError, s3_errors.UnauthenticatedError)
#: obstore tells some refusals (of a list, say) by the status in the text alone. 408, 409 and 429 may pass.
_REFUSALS = re.compile(r"status code: 4(?!08|09|29)\d\d")


@contextmanager
def folder_errors(path: Path) -> Iterator[None]:
    """What the disk says inside becomes ours; `path` is what was asked for."""
    try:
        yield
    except filelock.Timeout as error:
        raise LakeUnavailable(f"another writer holds the lake's lock: {error}", hint="wait for it to end") from error
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.EEXIST} and (file := _file_in_the_way(path)):
            raise _no_folder(path, file) from error
        if error.errno in _FOR_GOOD:
            raise Refused(
                f"{path}: {error.strerror}", hint="make the lake's folder writable for this user"
            ) from error
        raise LakeUnavailable(f"{path}: {error.strerror or error}", hint=_LOOK_AT_DISK) from error


@contextmanager
def bucket_errors(location: str) -> Iterator[None]:
    """What S3 says inside becomes ours; `location` is what was asked for."""
    try:
        yield
    except (s3_errors.BaseError, OSError) as error:
        # A PUT or a list of what is not there: it is the bucket that is missing.
        if isinstance(error, FileNotFoundError) or "NoSuchBucket" in str(error):
            raise Refused(
                f"{location}: {first_line(error)}", hint="make the bucket, or correct OHLCV_LAKE"
            ) from error
        if _REFUSALS.search(first_line(error)) or isinstance(error, _REFUSED):
            raise Refused(
                f"{location}: {first_line(error)}", hint="look at AWS_ACCESS_KEY_ID and at the bucket's policy"
            ) from error
        raise LakeUnavailable(f"{location}: {first_line(error)}", hint=_LOOK_AT_NETWORK) from error


def unavailable(location: str, error: OSError) -> OhlcvError:
    """What polars raised when it read that path or URL by itself."""
    said = f"{location}: {first_line(error)}"
    if "://" in location:
        return LakeUnavailable(said, hint=_LOOK_AT_NETWORK)
    file = _file_in_the_way(Path(location).parent)
    return LakeUnavailable(said, hint=_LOOK_AT_DISK) if file is None else _no_folder(location, file)


def _no_folder(place: str | Path, file: Path) -> Refused:
    return Refused(f"{place}: {file} is a file, and no folder", hint="set OHLCV_LAKE, or --s3-path, to a folder")


def _file_in_the_way(path: Path) -> Path | None:
    return next((place for place in (path, *path.parents) if place.is_file()), None)


def first_line(error: BaseException) -> str:
    """What a person can read of it: the status, and not the document that came with it."""
    return str(error).split("\n", 1)[0].removesuffix(_XML)
