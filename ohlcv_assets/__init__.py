r"""One-minute OHLCV bars of Binance, captured twice and compared bar for bar.

The way of the data, and the module that each step lives in:

    exchange/fetch.py   every finished bar of [a, b) by REST        exchange/stream.py   every bar once it is closed
                     \\                                             /
                      bars.py: the one schema, its key and invariants
                     /                                             \\
    storage/lake.py     one immutable file a UTC day                storage/database.py   first value wins, then revisions
                     \\                                             /
                      quality/match.py: 100 % or a list of what differs
                                         |
                      client.py: bars as models want them

Around it: replay/ is a local exchange that speaks Binance's protocol; orchestration/ and definitions.py are Dagster;
platform/ starts and stops the servers; cli/ is the program `ohlcv`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ohlcv_assets.client import OhlcvClient

__all__ = ["OhlcvClient"]


def __getattr__(name: str) -> object:
    """`OhlcvClient`, imported when it is first asked for: importing the package itself stays cheap."""
    if name in __all__:
        from ohlcv_assets import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
