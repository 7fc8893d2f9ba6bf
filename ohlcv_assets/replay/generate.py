"""A made-up market: seeded, on realistic price and amount grids, with minutes in which nobody traded.

Lives here: the random walk that a generated replay exchange plays. Does not: anything about files or the wire.
Prices are whole ticks and volumes whole steps, as integers, until the last division: each value is then the double
nearest to a short decimal, as the exchange's own numbers are. A symbol's bars depend on the seed, its market and its
place in the list only, so that a larger market holds the smaller one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ohlcv_assets.bars import KEY, SCHEMA, VALUES
from ohlcv_assets.instruments import Market
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, day_start_ms

#: Base assets and a price to begin with, in USDT; further assets are named A028, A029 and so on.
_ASSETS: tuple[tuple[str, float], ...] = (
    ("BTC", 105_000.0), ("ETH", 2_500.0), ("SOL", 155.0), ("XRP", 2.17), ("BNB", 655.0),
    ("DOGE", 0.19), ("ADA", 0.67), ("TRX", 0.27), ("SUI", 3.2), ("LINK", 13.8),
    ("AVAX", 20.4), ("XLM", 0.26), ("LTC", 87.0), ("DOT", 4.0), ("HBAR", 0.167),
    ("UNI", 6.2), ("AAVE", 246.0), ("NEAR", 2.4), ("FIL", 2.55), ("ALGO", 0.19),
    ("APT", 4.8), ("ARB", 0.34), ("ATOM", 4.3), ("BCH", 405.0), ("ETC", 17.1),
    ("INJ", 12.3), ("OP", 0.63),
)  # fmt: skip
_QUOTE = "USDT"
_VOLATILITY = 6e-4  # standard deviation of a minute's return
_NOTIONAL = 60_000.0  # median turnover of a minute, in USDT

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Profile:
    """What a made-up symbol is like: its name, first price, decimals, and how often a minute has no trade."""

    symbol: str
    price: float
    price_decimals: int
    volume_decimals: int
    idle_share: float


def generated_bars(market: Market, *, symbols: int, days: int, seed: int, first_day: date) -> pl.DataFrame:
    """The final bars of a made-up market.

    Args:
        market: spot or futures; they differ in the decimals and in the draw.
        symbols: how many symbols.
        days: how many whole UTC days, without a gap.
        seed: the same seed gives the same bits.
        first_day: the first UTC day.

    Returns:
        A frame of the bar's key and value columns, sorted by (symbol, timestamp).
    """
    start_ms = day_start_ms(first_day)
    timestamps = np.arange(start_ms, start_ms + days * DAY_MS, MINUTE_MS, dtype=np.int64)
    frames = [
        _symbol_bars(market, profile, timestamps, np.random.default_rng([seed, list(Market).index(market), place]))
        for place, profile in enumerate(_profile(market, place, seed) for place in range(symbols))
    ]
    return pl.concat(frames).sort("symbol", "timestamp")


def _profile(market: Market, place: int, seed: int) -> _Profile:
    if place < len(_ASSETS):
        base, price = _ASSETS[place]
    else:
        base = f"A{place + 1:03d}"
        price = float(10 ** np.random.default_rng([seed, place]).uniform(-2.5, 2.5))
    magnitude = int(np.floor(np.log10(price)))
    coarser = 1 if market is Market.FUTURES else 0
    return _Profile(
        symbol=f"{base}/{_QUOTE}" + (f":{_QUOTE}" if market is Market.FUTURES else ""),
        price=price,
        price_decimals=min(max(4 - magnitude, 2), 8) - coarser,
        volume_decimals=min(max(magnitude, 0), 5),
        idle_share=0.1 if place % 5 == 4 else 0.002,
    )


def _symbol_bars(market: Market, profile: _Profile, timestamps: _Ints, rng: np.random.Generator) -> pl.DataFrame:
    count = len(timestamps)
    idle = rng.random(count) < profile.idle_share
    prices = _price_ticks(profile, idle, rng)
    steps, taker_steps, trades = _amounts(profile, idle, rng)
    mean_ticks = (prices[0] + prices[1] + prices[2] + prices[3]) // 4
    price_unit, volume_unit = 10**profile.price_decimals, 10**profile.volume_decimals
    columns: dict[str, _Floats | _Ints] = {
        name: ticks / price_unit for name, ticks in zip(VALUES[:4], prices, strict=True)
    } | {
        "volume": steps / volume_unit,
        "quote_volume": steps * mean_ticks / (price_unit * volume_unit),
        "trade_count": trades,
        "taker_buy_volume": taker_steps / volume_unit,
        "taker_buy_quote_volume": taker_steps * mean_ticks / (price_unit * volume_unit),
    }
    key = {"market": [market.value] * count, "symbol": [profile.symbol] * count, "timestamp": timestamps}
    return pl.DataFrame(key | columns, schema={name: SCHEMA[name] for name in (*KEY, *VALUES)})


def _price_ticks(profile: _Profile, idle: NDArray[np.bool_], rng: np.random.Generator) -> tuple[_Ints, ...]:
    """Open, high, low and close in whole ticks; a minute without a trade stands still at the last close."""
    first_tick = max(10, round(profile.price * 10**profile.price_decimals))
    returns = np.where(idle, 0.0, rng.normal(0.0, _VOLATILITY, len(idle)))
    close = np.maximum(10, np.rint(first_tick * np.exp(np.cumsum(returns)))).astype(np.int64)
    last = np.concatenate([[first_tick], close[:-1]])
    opening = np.where(idle, last, np.maximum(1, last + rng.integers(-1, 2, len(idle))))
    close = np.where(idle, last, close)
    reach = _VOLATILITY * close / 2
    above, below = (np.where(idle, 0, rng.exponential(reach).astype(np.int64)) for _ in range(2))
    high = np.maximum(opening, close) + above
    low = np.maximum(1, np.minimum(opening, close) - below)
    return opening, high, low, close


def _amounts(profile: _Profile, idle: NDArray[np.bool_], rng: np.random.Generator) -> tuple[_Ints, _Ints, _Ints]:
    """Volume and the taker's part in whole steps, and the number of trades; all 0 in a minute without a trade."""
    median_steps = _NOTIONAL / profile.price * 10**profile.volume_decimals
    steps = 1 + rng.lognormal(np.log(median_steps), 1.0, len(idle)).astype(np.int64)
    trades = np.minimum(steps, 1 + rng.lognormal(5.0, 0.8, len(idle)).astype(np.int64))
    taker_steps = (steps * rng.uniform(0.2, 0.8, len(idle))).astype(np.int64)
    return np.where(idle, 0, steps), np.where(idle, 0, taker_steps), np.where(idle, 0, trades)
