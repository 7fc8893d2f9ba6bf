"""The signature of a dataset: what it holds and how it came about, said by the folders of its path.

Lives here: the parts of a path and the keys of a day made of them. Does not: what lies under a key (lake.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import date

from ohlcv_assets.errors import UsageError
from ohlcv_assets.instruments import Market, Universe

BARS_FILE = "bars.parquet"
#: Under this name a ledger's file notes which content of the day's bars it speaks of (its content hash, or nothing).
SPEAKS_OF = "ohlcv.fetched_content_hash"
#: And under this one the newest knowledge_timestamp among the streamed bars that it compared (ISO 8601, or nothing).
STREAMED_UNTIL = "ohlcv.streamed_known_until"


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
        return f"{self.folder(day)}/{BARS_FILE}"

    def folder(self, day: date) -> str:
        """The folder of a UTC day: its bars, what is absent from them, and what was replaced."""
        return f"{self.path}/date={day.isoformat()}"


def days_with(file: str, keys: Iterable[str]) -> set[date]:
    """The UTC days in whose folder there is a file of that name, by the keys of a dataset."""
    matches = (re.fullmatch(rf".*/date=(\d{{4}}-\d{{2}}-\d{{2}})/{re.escape(file)}", key) for key in keys)
    return {date.fromisoformat(match[1]) for match in matches if match}


def ledger_folder(market: Market, universe: Universe) -> str:
    """Below which the lake holds the newest ledgers of a market and universe."""
    return f"qa/ledger/{market}/{universe.path_form}"


def ledger_key(market: Market, universe: Universe, day: date) -> str:
    """Where the lake holds the newest ledger of a UTC day."""
    return f"{ledger_folder(market, universe)}/date={day.isoformat()}/ledger.parquet"
