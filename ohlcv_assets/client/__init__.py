"""The client: stored bars as models want them, without Dagster.

Lives here: `OhlcvClient` (reader.py) and its parts, one question each. Does not: any write, any capture, or any judgement of
the bars (quality/): what is known of their quality is read like the bars themselves.

    question.py     what was asked: symbols, times, columns; each mistake is one clear error
    stores.py       the lake, the database and the universe, each opened when it is first needed
    daily.py        bars of the lake             streamed.py   bars of the database
    stitched.py     which of the two answers for a symbol and day
    whole_days.py   the days that must be there, and are not
    verified.py     the ledger: which minutes two captures agree about
    resample.py     longer bars, exactly         fill.py       the minutes that are not there, marked as made up
    answer.py       the label, the columns and their order
    coverage.py     what there is and what not   history.py    what became known when, and what was decided

    from ohlcv_assets import OhlcvClient
    OhlcvClient().read("BTC/USDT", "2025-06-01", "2025-06-02", market="spot", columns=["close", "volume"])

The database's driver is imported only when the database is asked: the lake alone needs none.
"""

from __future__ import annotations

from ohlcv_assets.client.question import READABLE
from ohlcv_assets.client.reader import OhlcvClient

__all__ = ["READABLE", "OhlcvClient"]
