"""Verdicts for tests: two captures of generated bars, compared as the platform does it, without a database.

Lives here: the comparison of two frames as a `Verdict`, and one with something of every kind in it. Does not: the bars
(builders.py).
"""

from collections.abc import Sequence
from types import SimpleNamespace

import polars as pl

from ohlcv_assets.bars import Channel
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.quality.verdict import Verdict, compare
from ohlcv_assets.timestamps import HOUR_MS, Interval, parse_time
from ohlcv_assets_tests.builders import bars, corrupted, without

START = "2025-06-01"
HOUR = Interval(parse_time(START), parse_time(START) + HOUR_MS)
THREE = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT")


def verdict_of(
    streamed: pl.DataFrame, fetched: pl.DataFrame, symbols: Sequence[str] = THREE, interval: Interval = HOUR
) -> Verdict:
    """What `compare` says of these two captures of one interval."""
    held = streamed if "channel" in streamed.columns else by_websocket(streamed)
    database = SimpleNamespace(read=lambda *_, **__: held)
    return compare(database, fetched, [Symbol(name) for name in symbols], Market.FUTURES, interval)


def by_websocket(frame: pl.DataFrame, *, late_s: float = 0.5) -> pl.DataFrame:
    """The bars as the database holds them: each streamed, and known so long after its end."""
    known_ms = pl.col("timestamp") + 60_000 + int(late_s * 1000)
    return frame.with_columns(
        channel=pl.lit(Channel.WEBSOCKET.value), knowledge_timestamp=(known_ms * 1000).cast(pl.Datetime("us", "UTC"))
    )


def clean_verdict(symbols: Sequence[str] = THREE) -> Verdict:
    """An hour that is whole and equal on both sides."""
    return verdict_of(bars(symbols, minutes=60), bars(symbols, minutes=60), symbols)


def red_verdict() -> Verdict:
    """An hour of three symbols, 60 rows each, with every kind of difference.

    BTC: the volume of 00:07 doubled, 00:20 streamed twice; ETH: 00:10 to 00:13 not streamed; SOL: 00:30 not fetched, 00:40 on neither
    side.
    """
    whole = bars(THREE, minutes=60)
    streamed = corrupted(whole, 7, "volume", whole["volume"][7] * 2)
    streamed = pl.concat([streamed, streamed[20]])
    index = pl.int_range(pl.len())
    streamed = streamed.filter(~(index.is_between(70, 72) | (index == 160)))
    return verdict_of(streamed, without(without(whole, 160), 150))
