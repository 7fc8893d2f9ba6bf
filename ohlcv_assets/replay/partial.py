"""What an unfinished bar looks like: a bar so far, always the same for the same bar and moment.

Lives here: `Kline`, one bar as the replay exchange handles it, and `so_far`. Does not: text (wire.py) or when a bar
is asked for. The price walks from the open by way of one extreme and the other to the close; volumes and
trades grow in step with time. A bar so far never exceeds the final bar.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ohlcv_assets.timestamps import MINUTE_MS


class Kline(NamedTuple):
    """One bar: start in UNIX ms, the nine values of a bar in their order, and the id of its first trade."""

    timestamp: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    trade_count: int
    taker_buy_volume: float
    taker_buy_quote_volume: float
    first_trade_id: int


class Decimals(NamedTuple):
    """How many decimals a symbol's prices, volumes and quote volumes have."""

    price: int
    volume: int
    quote: int


def so_far(final: Kline, now_ms: int, decimals: Decimals) -> Kline:
    """The bar as it stands at a moment.

    Args:
        final: the bar as it will be.
        now_ms: UNIX milliseconds; at or after the bar's end the bar is final.
        decimals: prices so far are on the symbol's grid.
    """
    progress = max(0.0, (now_ms - final.timestamp) / MINUTE_MS)
    if progress >= 1 or final.trade_count == 0:
        return final
    high, low, price = _walk(final, progress, decimals.price)
    return final._replace(
        high=high,
        low=low,
        close=price,
        volume=_part(final.volume, progress, decimals.volume),
        quote_volume=_part(final.quote_volume, progress, decimals.quote),
        trade_count=max(1, math.floor(final.trade_count * progress)),
        taker_buy_volume=_part(final.taker_buy_volume, progress, decimals.volume),
        taker_buy_quote_volume=_part(final.taker_buy_quote_volume, progress, decimals.quote),
    )


def _walk(final: Kline, progress: float, decimals: int) -> tuple[float, float, float]:
    """Highest, lowest and last price after a share of the minute."""
    rising = final.close >= final.open
    turns = (final.open, *((final.low, final.high) if rising else (final.high, final.low)), final.close)
    leg, share = divmod(progress * 3, 1)
    begin, end = turns[int(leg)], turns[int(leg) + 1]
    price = round(begin + (end - begin) * share, decimals)
    price = min(max(price, final.low), final.high)
    seen = (*turns[: int(leg) + 1], price)
    return max(seen), min(seen), price


def _part(amount: float, progress: float, decimals: int) -> float:
    """A share of an amount, cut to the grid; never more than the whole."""
    unit = 10.0**decimals
    return min(amount, math.floor(amount * progress * unit) / unit)
