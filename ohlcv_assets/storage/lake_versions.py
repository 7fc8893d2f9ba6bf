"""What a day in the lake was before: the versions under `replaced/`, and their names.

Lives here: how a replaced file is named, and what its name tells. Does not: keeping or reading it (lake.py).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from ohlcv_assets.storage.bars_file import DayFile

_MOMENT = "%Y%m%dT%H%M%S.%fZ"
_KEPT = re.compile(r".*/replaced/(\d{8}T\d{6}\.\d{6}Z)-[0-9a-f]{12}\.parquet")


@dataclass(frozen=True)
class Version:
    """One content that a day had.

    Attributes:
        known_at: since when the lake knew it (UTC, microseconds): the knowledge_timestamp of its bars.
        content_hash: of keys and values (see `bars_file.content_hash`).
        key: where it lies.
        current: whether it is the day's present content.
    """

    known_at: datetime
    content_hash: str
    key: str
    current: bool


def kept_name(content: bytes, former: DayFile | None) -> str:
    """The name of a replaced file; the same object always has the same, so that keeping it twice keeps it once.

    Args:
        content: its bytes.
        former: what it held; None where it was damaged.
    """
    if former is None:
        return f"damaged-{hashlib.sha256(content).hexdigest()[:12]}.parquet"
    known = former.bars["knowledge_timestamp"][0].strftime(_MOMENT)
    return f"{known}-{former.content_hash.removeprefix('sha256:')[:12]}.parquet"


def known_since(key: str) -> datetime | None:
    """Since when the content of a replaced file was known; None for a damaged one, and what is none of ours."""
    named = _KEPT.fullmatch(key)
    return datetime.strptime(named[1], _MOMENT).replace(tzinfo=UTC) if named else None
